"""The rollout against a world in the same thread: what it publishes is answered into the inbox before it goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from grape_episode import topics
from grape_episode.episode import Identity, Outcome, Step
from grape_episode.geometry import Pose
from grape_policy.episode_runner import EpisodeEnd, EpisodeReport, EpisodeRunner
from grape_policy.observation import (
    ArmSample,
    Frame,
    GateSample,
    Inbox,
    Observation,
    RecordSample,
    TaskSample,
    WorldSample,
)
from grape_policy.parameters import PARAMETERS, EpisodeSettings

PERIOD = 200_000_000
FIRST = 5_000_000_000
ACTIVE, STOPPED, ACCEPTED, VETOED = 1, 3, 1, 2
IDENTITY = Identity(
    "id",
    "carrot_on_plate",
    "put it there",
    "",
    7,
    "task_completion",
    3,
    1.0,
    4,
    0.2,
    True,
    "base",
    "",
    0,
    "",
    "",
    "",
    (),
)


def settings(**changes: object) -> EpisodeSettings:
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    values |= {"lock_step": True, "await_task_status": True, "deadline": 0.05, "record_deadline": 0.05}
    return EpisodeSettings.read({**values, **changes}.__getitem__)


@dataclass
class World:
    """Sim, gate, reward node and recorder in one; ``broken`` names what does not work."""

    inbox: Inbox = field(default_factory=Inbox)
    success_at: int | None = None
    vetoed: frozenset[int] = frozenset()
    broken: str = ""
    cancel_at: int | None = None
    fail_at: int | None = None
    swap_at: int | None = None
    time: int = FIRST
    steps: list[Step] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    outcome: Outcome | None = None

    def observe(self, number: int, stamp: int) -> None:
        if self.broken != "pose":
            self.inbox.put_tcp(stamp, Pose(np.array([number, 0.0, 0.0])))
        self.inbox.put_width(stamp, 0.01 * number)
        self.inbox.put_world(WorldSample(stamp, "id", False, True, False))
        if self.broken != "reward":
            self.inbox.put_task(TaskSample(stamp, "id", number // 2, int(number == self.success_at)))
        if self.broken != "camera":
            self.inbox.put_frame(Frame(stamp, time.monotonic(), b""))

    def gate(self, step: int, verdict: int, state: int = ACTIVE, check: str = "box") -> None:
        if self.broken != "gate":
            self.inbox.put_gate(GateSample(time.monotonic(), "id", state, step, verdict, check, f"step {step} outside"))

    def now(self) -> int:
        return self.time

    def check_world(self) -> None:
        self.said.append("check")
        if self.broken == "nobody":
            raise EpisodeEnd("error", "no world")

    def prepare_recording(self, identity: Identity) -> str:
        self.said.append("prepare")
        return "/bags/id"

    def announce(self, identity: Identity) -> None:
        self.said.append("announce")

    def reset_world(self, identity: Identity) -> int:
        self.said.append("reset")
        self.gate(0, 0, STOPPED if self.broken == "latched" else ACTIVE)
        self.observe(0, FIRST)
        return FIRST

    def decide(self, seen: Observation, identity: Identity, index: int) -> Step:
        if self.broken == "model":
            raise MemoryError("no room")
        if index == self.cancel_at:
            self.inbox.stop("cancelled")
        if index == self.fail_at:
            self.inbox.stop("the model is gone", failed=True)
        seq = 1 if self.swap_at is not None and index >= self.swap_at else 0
        zeros = np.zeros(7)
        return Step(
            index, seen.stamp, "", zeros.astype(np.int32), zeros, zeros, zeros, "euler_xyz",
            seen.tcp, seen.gripper_width, f"adapter{seq}" if seq else "", seq, "base", 1.0, 3, 0.0,
        )  # fmt: skip

    def publish_step(self, step: Step, identity: Identity) -> None:
        self.steps.append(step)
        self.gate(step.index, VETOED if step.index in self.vetoed else ACCEPTED)
        late = PERIOD // 2 + 1 if self.broken == "pace" and step.index == 1 else 0
        self.observe(step.index + 1, step.stamp + PERIOD + late)

    def feedback(self, step: Step, stage: int) -> None:
        self.said.append(f"feedback {step.index} stage {stage}")

    def publish_outcome(self, identity: Identity, outcome: Outcome) -> None:
        self.outcome = outcome
        if self.broken != "recorder":
            self.inbox.put_record(RecordSample("id", "/bags/id", True, ()))

    def run(self, record: bool = False, identity: Identity = IDENTITY, **changes: object) -> EpisodeReport:
        return EpisodeRunner(self.inbox, self, settings(**changes)).run(identity, record)


def test_the_step_limit_counts_steps_and_looks_once_more() -> None:
    world = World()
    report = world.run(record=True)
    assert (report.reason, report.steps, report.success, report.bag_path) == ("step_limit", 4, 0, "/bags/id")
    assert [step.stamp for step in world.steps] == [FIRST + n * PERIOD for n in range(4)]
    assert [step.tcp.position[0] for step in world.steps] == [0, 1, 2, 3], "every part is of the frame's own stamp"
    assert [step.gripper_width for step in world.steps] == [0.0, 0.01, 0.02, 0.03]
    assert world.outcome == report.outcome == Outcome("step_limit", "4 steps", 4, 0, False, FIRST + 4 * PERIOD)
    assert world.said[:4] == ["check", "prepare", "announce", "reset"]
    assert world.said[4:] == [f"feedback {n} stage {stage}" for n, stage in enumerate((0, 1, 1, 2))]
    assert report.world is not None and report.world.grasped


@pytest.mark.parametrize("at", [0, 2, 4])
def test_success_ends_before_the_next_step_even_after_the_last(at: int) -> None:
    world = World(success_at=at)
    report = world.run()
    assert (report.reason, report.steps, report.success) == ("success", at, 1)
    assert world.outcome is not None and world.outcome.stamp == FIRST + at * PERIOD


def test_one_veto_holds_three_in_a_row_end() -> None:
    assert World(vetoed=frozenset({0, 1, 3})).run().reason == "step_limit"
    report = World(vetoed=frozenset({0, 1, 2})).run()
    assert (report.reason, report.steps) == ("vetoed", 3)
    assert report.detail == "3 vetoes in a row, the last at step 2: box: step 2 outside"
    assert World(vetoed=frozenset({0})).run(veto_limit=1).steps == 1


def test_a_cancel_during_an_inference_sends_no_step() -> None:
    world = World(cancel_at=2)
    report = world.run()
    assert (report.reason, report.steps, len(world.steps)) == ("cancelled", 2, 2)
    assert world.outcome is not None and world.outcome.stamp == FIRST + 2 * PERIOD


def test_a_failure_ends_the_episode_as_an_error_by_its_own_words() -> None:
    world = World(fail_at=1)
    report = world.run()
    assert (report.reason, report.detail, report.steps) == ("error", "the model is gone", 1)
    assert world.outcome is not None and world.outcome.end_reason == "error"


def test_a_swap_within_the_episode_marks_it() -> None:
    report = World(swap_at=2).run()
    assert report.outcome is not None and report.outcome.mixed_adapter and report.adapter_id == "adapter1"
    report = World().run()
    assert report.outcome is not None and not report.outcome.mixed_adapter


@pytest.mark.parametrize(
    ("broken", "reason", "named"),
    [
        ("camera", "stale_camera", topics.COLOR),
        ("pose", "error", topics.CURRENT_POSE),
        ("reward", "error", topics.TASK_STATUS),
        ("gate", "gate_fault", topics.GATE_STATUS),
        ("latched", "gate_fault", "step 0 outside"),
        ("model", "error", "MemoryError: no room"),
        ("pace", "error", "the world did not wait"),
    ],
)
def test_what_is_missing_is_named_and_the_end_is_announced(broken: str, reason: str, named: str) -> None:
    world = World(broken=broken)
    report = world.run()
    assert report.reason == reason and named in report.detail and "\n" not in report.detail
    assert world.outcome is not None and world.outcome.end_reason == reason


def test_nothing_is_announced_where_there_is_no_world() -> None:
    world = World(broken="nobody")
    report = world.run(record=True)
    assert (report.reason, report.outcome, world.said) == ("error", None, ["check"])


def test_a_bag_that_stays_open_is_said() -> None:
    report = World(broken="recorder").run(record=True)
    assert report.reason == "step_limit" and topics.RECORD in report.detail and report.bag_path == "/bags/id"


@dataclass
class RunningWorld(World):
    """Real time on a virtual clock: every look at it takes five milliseconds; frames come every 30 ms, 5 ms old."""

    frames_until: int = 10**18
    frozen_at: int = 10**18
    age: int = 5_000_000
    due: int = FIRST
    sent: list[int] = field(default_factory=list)

    def now(self) -> int:
        if self.time < self.frozen_at:
            self.time += 5_000_000
        while self.due < min(self.time, self.frames_until):
            self.observe(0, self.due - self.age)
            self.due += 30_000_000
        self.gate(0, 0)
        return self.time

    def gate(self, step: int, verdict: int, state: int = ACTIVE, check: str = "box") -> None:
        if self.broken != "gate dies" or len(self.steps) < 2:
            super().gate(step, verdict, state, check)

    def observe(self, number: int, stamp: int) -> None:
        super().observe(number, stamp)
        self.inbox.put_tcp(stamp - 1_000_000, Pose(np.array([1.0, 0.0, 0.0])))

    def publish_step(self, step: Step, identity: Identity) -> None:
        self.steps.append(step)
        self.sent.append(self.time)
        self.time += 40_000_000  # the inference
        self.gate(step.index, ACCEPTED)

    def run(self, record: bool = False, identity: Identity = IDENTITY, **changes: object) -> EpisodeReport:
        limits = {"lock_step": False, "await_task_status": False, "deadline": 1.0, "camera_deadline": 0.3}
        return super().run(record, replace(identity, lock_step=False, control_period=0.1), **{**limits, **changes})


def test_real_time_keeps_the_period_and_answers_the_newest_frame() -> None:
    world = RunningWorld()
    report = world.run(identity=replace(IDENTITY, step_limit=8))
    assert (report.reason, report.steps) == ("step_limit", 8)
    stamps = [step.stamp for step in world.steps]
    assert stamps == sorted(set(stamps)), "no frame is answered twice"
    ages = [sent - stamp for sent, stamp in zip(world.sent, stamps, strict=True)]
    assert max(ages) < 60_000_000, "never an older frame than the newest there is"
    drift = [(sent - world.sent[0]) - n * 100_000_000 for n, sent in enumerate(world.sent)]
    assert max(map(abs, drift)) < 35_000_000, "the phase stays"


@pytest.mark.parametrize(
    ("world", "reason", "named"),
    [
        (RunningWorld(frames_until=FIRST), "stale_camera", f"no new frame on {topics.COLOR} for 0.3 s"),
        (RunningWorld(frames_until=FIRST + 250_000_000), "stale_camera", f"no new frame on {topics.COLOR}"),
        (RunningWorld(age=400_000_000), "stale_camera", "s old for 0.3 s"),
        (RunningWorld(broken="gate dies"), "gate_fault", topics.GATE_STATUS),
        (RunningWorld(frozen_at=FIRST + 150_000_000), "error", "clock"),
    ],
    ids=["no camera", "camera stops", "camera is late", "gate dies", "clock stops"],
)
def test_real_time_ends_on_what_falls_silent(world: RunningWorld, reason: str, named: str) -> None:
    report = world.run(identity=replace(IDENTITY, step_limit=100), gate_deadline=0.1)
    assert report.reason == reason and named in report.detail


@dataclass
class SharedWorld(RunningWorld):
    """A person takes the arm from ``taken`` to ``given`` (ns of the world's clock) and may do so in an inference."""

    taken: int = 10**18
    given: int = 10**18
    inferring: bool = False
    """The taking happens while an answer is awaited."""
    decided: int = 0
    refused: str = ""
    """Check by which the gate refuses every step."""

    def now(self) -> int:
        super().now()
        self.look()
        return self.time

    def look(self) -> None:
        driven = self.taken <= self.time < self.given
        if driven:
            self.inbox.put_drive()
        self.inbox.put_arm(ArmSample(self.time, driven))

    def decide(self, seen: Observation, identity: Identity, index: int) -> Step:
        self.decided += 1
        if self.inferring and index == 2 and self.taken > self.time:
            self.taken, self.given = self.time, self.time + 500_000_000
            self.look()
        return super().decide(seen, identity, index)

    def publish_step(self, step: Step, identity: Identity) -> None:
        super().publish_step(step, identity)
        if self.refused:
            self.inbox.verdicts.clear()
            self.gate(step.index, VETOED, check=self.refused)


def test_while_a_person_drives_nothing_is_sent_and_nothing_is_late() -> None:
    taken, given = FIRST + 250_000_000, FIRST + 3_000_000_000
    world = SharedWorld(taken=taken, given=given)
    report = world.run(identity=replace(IDENTITY, step_limit=8), camera_deadline=0.1)
    assert (report.reason, report.steps) == ("step_limit", 8), report.detail
    assert [step.index for step in world.steps] == list(range(8))
    assert not [sent for sent in world.sent if taken <= sent < given]
    after = [step for step, sent in zip(world.steps, world.sent, strict=True) if sent >= given]
    assert after and after[0].stamp > given, "the frame is fresh"
    assert world.sent[-len(after)] - given < 60_000_000, "and is answered at once"
    gaps = np.diff([sent for sent in world.sent if sent >= given])
    assert np.all(gaps >= 65_000_000) and np.all(gaps < 140_000_000), "no tick is made up for"
    assert report.detail == "8 steps; a person drove for part of it"
    assert world.outcome is not None and world.outcome.detail == report.detail


def test_an_answer_that_a_taking_over_has_outrun_is_not_sent() -> None:
    world = SharedWorld(inferring=True)
    report = world.run(identity=replace(IDENTITY, step_limit=5))
    assert (report.reason, report.steps) == ("step_limit", 5)
    assert world.decided == 6 and [step.index for step in world.steps] == list(range(5))
    assert not [sent for sent in world.sent if world.taken <= sent < world.given]


def test_what_a_person_refuses_is_no_veto_of_the_policy() -> None:
    for check in ("operator", "dead_man"):
        assert SharedWorld(refused=check).run().reason == "step_limit"
    assert SharedWorld(refused="speed").run().reason == "vetoed"


def test_the_gate_s_silence_ends_the_episode_while_a_person_drives_too() -> None:
    world = SharedWorld(taken=FIRST + 250_000_000, broken="gate dies")
    report = world.run(identity=replace(IDENTITY, step_limit=8), gate_deadline=0.1)
    assert report.reason == "gate_fault" and topics.GATE_STATUS in report.detail


def test_homing_is_no_person() -> None:
    world = SharedWorld()
    world.inbox.put_arm(ArmSample(FIRST, operator=True))
    report = world.run()
    assert report.detail == "4 steps", "the arm was handed back and nobody moved a stick"
