"""A demonstration against a world in the same thread, in real time on a virtual clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from grape_episode import topics
from grape_episode.episode import DEMONSTRATION, Identity, Outcome
from grape_episode.geometry import Pose
from grape_policy.demonstration import Demonstration
from grape_policy.observation import ArmSample, Frame, GateSample, Inbox, Observation, TaskSample
from grape_policy.parameters import PARAMETERS, EpisodeSettings
from grape_policy.rollout import EpisodeReport

FIRST, MILLI = 5_000_000_000, 1_000_000
PERIOD = 100 * MILLI
IDENTITY = Identity(
    "id", "carrot_on_plate", "put it there", "", 7, "task_completion", 3, 0.0, 20, 0.1, False, "base", "", 0, "", "",
    "", (DEMONSTRATION,),
)  # fmt: skip


@dataclass
class World:
    """Frames every 30 ms; a person who drives from ``begins`` on; success at ``success``, the button at ``button``."""

    begins: int = FIRST + 700 * MILLI
    success: int = 10**18
    button: int = 10**18
    stops: int = 10**18
    """The gate stops."""
    frames_until: int = 10**18
    inbox: Inbox = field(default_factory=Inbox)
    time: int = FIRST
    due: int = FIRST
    shown: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    outcome: Outcome | None = None

    def now(self) -> int:
        self.time += 5 * MILLI
        while self.due < min(self.time, self.frames_until):
            stamp = self.due - 5 * MILLI
            self.inbox.put_tcp(stamp, Pose(np.zeros(3)))
            self.inbox.put_width(stamp, 0.01)
            self.inbox.put_frame(Frame(stamp, time.monotonic(), b""))
            self.inbox.put_task(TaskSample(stamp, "id", 0, int(stamp >= self.success)))
            self.due += 30 * MILLI
        if self.time >= self.begins:
            self.inbox.put_arm(ArmSample(self.time, operator=True))
            self.inbox.put_drive()
        if self.time >= self.button:
            self.inbox.stop("ended by the operator")
        self.inbox.put_gate(GateSample(time.monotonic(), "id", 3 if self.time >= self.stops else 1, 0, 0, "wrench", ""))
        return self.time

    def check_world(self) -> None: ...

    def prepare_recording(self, identity: Identity) -> str:
        return ""

    def announce(self, identity: Identity) -> None:
        self.now()

    def reset_world(self, identity: Identity) -> int:
        self.now()
        return FIRST

    def show(self, seen: Observation, index: int, stage: int) -> None:
        assert index == len(self.shown)
        self.shown.append(seen.stamp)
        self.at.append(self.time)

    def publish_outcome(self, identity: Identity, outcome: Outcome) -> None:
        self.outcome = outcome

    def run(self, **changes: object) -> EpisodeReport:
        values = {parameter.name: parameter.default for parameter in PARAMETERS}
        settings = EpisodeSettings.read({**values, "camera_deadline": 0.3, "deadline": 1.0, **changes}.__getitem__)
        return Demonstration(self.inbox, self, settings).run(replace(IDENTITY), record=False)


def passing(world: World) -> World:
    """The world's clock goes on by itself while nobody looks at it."""
    original = world.inbox.wait

    def wait(check, seconds, poll=0.5):  # type: ignore[no-untyped-def]
        def look():  # type: ignore[no-untyped-def]
            world.now()
            return check()

        return original(look, seconds, min(poll, 0.002))

    world.inbox.wait = wait  # type: ignore[method-assign]
    return world


def test_it_shows_one_frame_a_control_period_from_the_first_movement_to_the_limit() -> None:
    world = passing(World())
    report = world.run()
    assert (report.reason, report.steps, report.detail) == ("step_limit", 20, "20 control periods")
    assert world.outcome is not None and world.outcome.steps == 0, "no step of a policy was sent"
    assert world.at[0] >= world.begins
    gaps = np.diff(world.at)
    assert np.all(gaps > 40 * MILLI) and abs(np.mean(gaps) - PERIOD) < 10 * MILLI
    assert world.shown == sorted(set(world.shown)) and all(a - s < 60 * MILLI for a, s in zip(world.at, world.shown))  # noqa: B905


@pytest.mark.parametrize(
    ("world", "reason", "detail"),
    [
        (World(success=FIRST + 1500 * MILLI), "success", "after"),
        (World(button=FIRST + 1500 * MILLI), "cancelled", "ended by the operator"),
        (World(button=FIRST + 300 * MILLI), "cancelled", "ended by the operator"),
        (World(stops=FIRST + 1500 * MILLI), "gate_fault", "wrench"),
        (World(frames_until=FIRST + 1500 * MILLI), "stale_camera", topics.COLOR),
    ],
    ids=["success", "button", "button before the first movement", "gate", "camera"],
)
def test_what_ends_it(world: World, reason: str, detail: str) -> None:
    report = passing(world).run()
    assert report.reason == reason and detail in report.detail
    assert report.success == (1 if reason == "success" else 0)
    assert world.outcome is not None and world.outcome.end_reason == reason


def test_a_person_who_never_begins_ends_it_too() -> None:
    report = World(begins=10**18).run(begin_deadline=0.1, gate_deadline=5.0)
    assert report.reason == "error" and topics.OPERATOR_STEP in report.detail
