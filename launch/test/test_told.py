"""Jobs over topics say what their worlds ask for."""

from __future__ import annotations

from grape.told import Told, words_for
from grape_sim.scene import make_scene
from grape_sim.tasks import SEEN, UNSEEN, VARIED
from grape_trainer.rig import Ack, Job


class Rig:
    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def collect(self, jobs, done) -> None:
        self.jobs += jobs

    def load_adapter(self, path) -> Ack:
        return Ack(True, "", str(path))

    def cancelled(self) -> bool:
        return True


def test_the_goal_says_what_the_world_asks_for() -> None:
    rig, told = Rig(), ["stack the red can on the yellow cube", ""]
    told_rig = Told(rig)
    jobs = [Job("green_cube_on_yellow_cube", 60_000, 1, variant=variant) for variant in ("subject", "clean")]
    told_rig.collect([*jobs, Job("spoon_on_towel", 3, 1, variant="semantic", instruction="mine")], lambda _: None)
    assert [job.instruction for job in rig.jobs] == [*told, "mine"]
    assert [job.key for job in rig.jobs[:2]] == [job.key for job in jobs], "a run goes on where it was"
    assert told_rig.load_adapter("x").adapter_id == "x" and told_rig.cancelled()


def test_words_are_the_scenes_own_in_unseen_and_varied_worlds_alone() -> None:
    for state in range(12):
        for variant in (*UNSEEN, VARIED):
            scene = make_scene("carrot_on_plate", variant, state)
            assert words_for("carrot_on_plate", variant, state) == scene.instruction
        assert not any(words_for("carrot_on_plate", variant, state) for variant in (*SEEN, ""))
