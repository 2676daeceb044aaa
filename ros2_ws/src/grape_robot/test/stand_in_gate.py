"""A gate for the tests of the resets: it takes operators' steps as the contract says, and an arm follows at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_robot.integrate import integrate
from grape_robot.reset_desk import ArmHeard, GateHeard, LiveFrame, ResetDesk, TcpHeard, WidthHeard
from grape_robot.state import Mode

SECOND = 1_000_000_000


class StandInGate:
    """Gate, arm, gripper and camera in one, behind the ports of a LabReset; time is counted, not waited for.

    ``on_step(gate, sequence)`` is called before a step is answered, ``on_wait(gate)`` whenever the reset waits."""

    def __init__(self, start: Pose, width: float = 0.0, shape: tuple[int, int] = (6, 8)) -> None:
        self.time = 1000.0
        self.desk = ResetDesk(self._steady, poll=0.0)
        self.pose, self.width, self.shape = start, width, shape
        self.target: Pose | None = None
        self.moves: list[tuple[float, ...]] = []
        self.path: list[Pose] = [start]
        self.back = 0
        self.lines: list[str] = []
        self.operator = False
        self.required, self.held, self.dry_run = False, True, False
        self.episode, self.mode, self.check, self.reason = "", Mode.IDLE, "", ""
        self.follows = False
        self.reach, self.gap = 1.0, 1.0
        self.refuse = ""
        self.silent: set[str] = set()
        self.on_step: Callable[[StandInGate, int], None] = lambda gate, sequence: None
        self.on_wait: Callable[[StandInGate], None] = lambda gate: None
        self._waiting = False
        self._looks = 0

    def _steady(self) -> float:
        # every look at the clock takes 10 ms of the world, and more where nothing moves
        self._looks += 1
        self.time += min(0.01 * 1.05**self._looks, 1.0)
        if not self._waiting:
            self._waiting = True
            self.on_wait(self)
            self.tell()
            self._waiting = False
        return self.time

    def tell(self) -> None:
        """Everything that a gate, an arm and a camera say by themselves."""
        desk, now = self.desk, self.time
        if "gate" not in self.silent:
            desk.gate = GateHeard(self.mode, self.check, self.reason, self.target or self.pose)
        if "arm" not in self.silent:
            desk.arm = ArmHeard(now, self.episode, self.operator, self.required, self.held, self.dry_run)
        if "tcp" not in self.silent:
            desk.tcp = TcpHeard(now, self.pose)
        if "width" not in self.silent:
            desk.width = WidthHeard(now, self.width)
        if "camera" not in self.silent:
            desk.frame = LiveFrame(self.now(), now, b"")

    # --- ports ---

    def now(self) -> int:
        return round(self.time * SECOND)

    def ghost(self) -> bool:
        return self.follows

    def move(self, sequence: int, action: Sequence[float]) -> None:
        self._looks = 0
        self.moves.append(tuple(action))
        self.on_step(self, sequence)
        if "gate" in self.silent:
            return
        self.operator = True
        start = self.target or self.pose
        if not self.refuse:
            self.target = integrate(start, self.pose, action, "axis_angle", self.gap, 4.0)
            apart = self.target.position - self.pose.position
            part = min(1.0, self.reach / max(float(np.linalg.norm(apart)), 1e-12))
            self.pose = Pose(self.pose.position + part * apart, self.target.quaternion)
            self.path.append(self.pose)
            self.width = topics.GRIPPER_STROKE if self.width >= 0.0 else self.width  # below 0: it is stuck
        check, _, why = self.refuse.partition(": ")
        said = f"refused: {why}" if self.refuse else "accepted"
        self.desk.put(gate=GateHeard(self.mode, check, f"homing step {sequence} {said}", self.target or self.pose))

    def hand_back(self, sequence: int) -> None:
        self.back += 1
        if self.mode is not Mode.STOPPED:
            self.operator, self.target = False, None

    def decode(self, frame: LiveFrame) -> np.ndarray:
        return np.full((*self.shape, 3), 77, np.uint8)

    def say(self, line: str) -> None:
        self.lines.append(line)
