"""A reset in the lab, in order: the arm goes home through the gate, a person lays the scene out and says so, the policy
gets the arm back. No ROS here: the gate is behind :class:`Ports`, what is heard in :class:`ResetDesk`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from numpy.typing import NDArray

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_robot import homing
from grape_robot.homing import Homing
from grape_robot.reset_desk import FRESH, ArmHeard, Awaited, LiveFrame, ResetDesk, ResetFailed
from grape_robot.reset_overlay import sizes
from grape_robot.state import Mode
from grape_robot.state_library import StateLibrary, state_name

OPENED = 0.9
"""Part of the stroke from which on the gripper counts as open."""
ANSWER_DEADLINE = 1.0
"""Seconds for the gate's answer to a step."""
PASSING = ("dead_man", "state", "controller", "robot_mode", "keep_out", "age")
"""Checks whose cause may pass by itself: a switch let go, a hiccup of a topic, a hand in the way."""


@dataclass(frozen=True)
class ResetSettings:
    """Seconds to wait: for arm, gate and camera; for a hold to pass; for the gripper to open; for the whole way home;
    for people."""

    arm_deadline: float = 5.0
    hold_deadline: float = 3.0
    gripper_deadline: float = 5.0
    homing_deadline: float = 60.0
    confirm_deadline: float = 600.0
    capture_missing: bool = True


@dataclass(frozen=True)
class Wanted:
    """A request of ResetWorld."""

    episode_id: str
    task: str
    variant: str
    initial_state: int


class Ports(Protocol):
    """What a reset does. ``now`` is ROS time in ns; ``ghost``: the arm's state is told by the ghost arm, which follows
    the gate's dry run."""

    def now(self) -> int: ...
    def ghost(self) -> bool: ...
    def move(self, sequence: int, action: Sequence[float]) -> None: ...
    def hand_back(self, sequence: int) -> None: ...
    def decode(self, frame: LiveFrame) -> NDArray: ...
    def say(self, line: str) -> None: ...


class LabReset:
    """Runs resets, one at a time, in the caller's thread. Sequence numbers go on from one to the next."""

    def __init__(
        self, desk: ResetDesk, ports: Ports, library: StateLibrary, way: Homing, settings: ResetSettings
    ) -> None:
        self._desk, self._ports, self._library = desk, ports, library
        self._homing, self._settings = way, settings
        self._sequence = 0
        self._drives = False
        self._held_since: float | None = None

    def run(self, wanted: Wanted, ticket: int) -> int:
        """The whole reset; the stamp of the first observation after the confirmation, ns. Raises ResetFailed with one
        line; the arm is handed back in any case. ``ticket``: of ``ResetDesk.ask``."""
        self._desk.begin(ticket, wanted.episode_id)
        try:
            awaited = self._scene(wanted)
            moves = self._ready(wanted.episode_id)
            if moves:
                self._go_home()
            confirmed = self._confirmed(awaited)
            if moves:
                self._still_home()
            self._held("the episode begins")
            self._hand_back()
            first = self._observation(confirmed)
            if awaited.stored is None:
                frame = self._ports.decode(first)
                self._library.store(wanted.task, awaited.variant, wanted.initial_state, frame, wanted.episode_id)
                self._ports.say(f"the first frame of {awaited.name} is stored")
            return first.stamp
        except ValueError as error:  # of the library, or of an image
            raise ResetFailed(str(error)) from None
        finally:
            self._desk.await_confirmation(None)
            if self._drives:
                self._send_back()

    def _scene(self, wanted: Wanted) -> Awaited:
        """What to lay out; refused before anything moves where it cannot be shown."""
        key = wanted.task, wanted.variant, wanted.initial_state
        state = self._library.find(*key)
        if state is None and not self._settings.capture_missing:
            raise ResetFailed(f"no first frame of {state_name(*key)} is stored: `grape states capture` stores one")
        stored = None if state is None else self._library.image(state)
        frame = self._fresh_frame(0)
        if stored is not None and (live := self._ports.decode(frame)).shape != stored.shape:
            told = f"{sizes(stored)} was stored, {topics.COLOR} is {sizes(live)}"
            raise ResetFailed(f"{state_name(*key)}: {told}")
        return Awaited(*key, stored)

    def _fresh_frame(self, after: int) -> LiveFrame:
        desk, seconds = self._desk, self._settings.arm_deadline

        def fresh() -> LiveFrame | None:
            frame = desk.frame
            young = frame is not None and desk.steady() - frame.received < FRESH and frame.stamp > after
            return frame if young else None

        frame = desk.wait(fresh, seconds)
        if frame is None:
            raise ResetFailed(f"nothing on {topics.COLOR} for {seconds:g} s")
        return frame

    # --- the way home ---

    def _ready(self, episode_id: str) -> bool:
        """Gate and arm are heard, and the gate is armed for this episode: it must not be re-armed on the way. Whether
        the arm will move: in the gate's dry run only a ghost does."""
        desk, missing = self._desk, [""]

        def ready() -> bool | None:
            self._check_gate()
            gate, arm = desk.gate, desk.arm
            if gate is not None and gate.check == "episode" and episode_id:
                raise ResetFailed(f"the gate declines the episode: {gate.reason}")
            if gate is None or arm is None:
                missing[0] = f"no gate: nothing on {topics.GATE_STATUS if gate is None else topics.ARM_STATUS}"
            elif episode_id and arm.episode_id != episode_id:
                missing[0] = f"the gate is not armed for episode {episode_id}"
            elif self._tcp() is None:
                missing[0] = f"nothing on {topics.CURRENT_POSE}"
            elif self._width() is None:
                missing[0] = f"no {topics.KNUCKLE_JOINT} on {topics.JOINT_STATES}"
            else:
                return True
            return None

        if desk.wait(ready, self._settings.arm_deadline) is None:
            raise ResetFailed(f"{missing[0]} after {self._settings.arm_deadline:g} s")
        if desk.arm is not None and desk.arm.dry_run and not self._ports.ghost():
            self._ports.say("the gate is in a dry run: the arm stays where it is")
            return False
        self._held("the arm goes home")
        return True

    def _held(self, what: str) -> None:
        """Waits for the dead-man's switch where the gate asks for one."""
        said = False

        def held() -> bool | None:
            nonlocal said
            self._check_gate()
            arm = self._desk.arm
            if arm is not None and (arm.dead_man or not arm.dead_man_required):
                return True
            if not said:
                said = True
                self._ports.say(f"hold the dead-man's switch: {what}")
            return None

        if self._desk.wait(held, self._settings.confirm_deadline) is None:
            raise ResetFailed(f"nobody held the dead-man's switch for {self._settings.confirm_deadline:g} s")

    def _tcp(self) -> Pose | None:
        heard, now = self._desk.tcp, self._desk.steady()
        return None if heard is None or now - heard.received > FRESH else heard.pose

    def _width(self) -> float | None:
        heard, now = self._desk.width, self._desk.steady()
        return None if heard is None or now - heard.received > FRESH else heard.width

    def _check_gate(self) -> None:
        """Raises ResetFailed where the gate has stopped."""
        gate = self._desk.gate
        if gate is not None and gate.state == Mode.STOPPED:
            raise ResetFailed(f"the gate has stopped: {_why(gate.check, gate.reason)}")

    def _go_home(self) -> None:
        end = self._desk.steady() + self._settings.homing_deadline
        self._held_since = None
        while (reference := self._step(homing.STAY, end)) is None:
            pass
        reference = self._open_gripper(reference, end)
        for point in homing.way(reference, self._homing):
            while not homing.reached(reference, point):
                reference = self._towards(reference, point, end)
        while not self._arrived():
            # it may be needed: the gate starts anew from the measured TCP where the arm lags far behind
            reference = self._towards(reference, self._homing.home, end)

    def _towards(self, reference: Pose, point: Pose, end: float) -> Pose:
        return self._step(homing.step(reference, point, self._homing), end) or reference

    def _open_gripper(self, reference: Pose, end: float) -> Pose:
        """Before the arm moves: what it holds is put down where it is, not dropped from above. The target after it."""
        patience = self._desk.steady() + self._settings.gripper_deadline
        while (width := self._width() or 0.0) < OPENED * topics.GRIPPER_STROKE:
            if self._desk.steady() > patience:
                raise ResetFailed(f"homing given up: the gripper did not open: {width:.3f} m wide")
            reference = self._step(homing.STAY, end) or reference
        return reference

    def _arrived(self) -> bool:
        measured = self._tcp()
        return measured is not None and self._homing.at_home(measured)

    def _step(self, action: Sequence[float], end: float) -> Pose | None:
        """One step and the gate's answer to it; takes one period. The target after it, None where the gate did not take
        it for a cause that may pass. Raises ResetFailed where it does not pass."""
        desk, sequence = self._desk, self._sequence
        began = desk.steady()
        if began > end:
            raise ResetFailed(f"homing given up: not home after {self._settings.homing_deadline:g} s")
        self._sequence += 1
        self._drives = True
        self._ports.move(sequence, action)
        answer = desk.wait(lambda: desk.take_answer(sequence), ANSWER_DEADLINE)
        if answer is None:
            raise ResetFailed(f"homing given up: no answer of the gate on {topics.GATE_STATUS} to step {sequence}")

        def stopped() -> None:
            self._check_gate()

        desk.wait(stopped, 0.0)  # which says why, where the step was refused for it
        if not answer.refused:
            self._held_since = None
        elif answer.check not in PASSING:
            raise ResetFailed(f"homing given up: the gate refuses a step: {_why(answer.check, answer.refused)}")
        else:
            self._wait_out(_why(answer.check, answer.refused), began)
        desk.wait(stopped, max(0.0, began + self._homing.period - desk.steady()))
        return None if answer.refused else answer.target

    def _wait_out(self, why: str, now: float) -> None:
        if self._held_since is None:
            self._held_since = now
            self._ports.say(f"the homing waits: {why}")
        if now - self._held_since >= self._settings.hold_deadline:
            raise ResetFailed(f"homing given up: the gate holds for {self._settings.hold_deadline:g} s: {why}")

    # --- the operator's word ---

    def _confirmed(self, awaited: Awaited) -> int:
        desk, seconds = self._desk, self._settings.confirm_deadline
        new = "" if awaited.stored is not None else " (new: as it is confirmed it is stored)"
        told = f"grape confirm {awaited.task} {awaited.initial_state}"
        self._ports.say(f"lay out {awaited.name}{new} by {topics.RESET_OVERLAY}, then `{told}`")
        desk.await_confirmation(awaited)

        def confirmed() -> int | None:
            self._check_gate()
            return desk.awaited.confirmed if desk.awaited is not None else None

        found = desk.wait(confirmed, seconds)
        if found is None:
            raise ResetFailed(f"nobody confirmed {awaited.name} within {seconds:g} s")
        return found

    def _still_home(self) -> None:
        measured = self._tcp()
        if measured is None:
            raise ResetFailed(f"nothing on {topics.CURRENT_POSE}")
        if not self._homing.at_home(measured):
            away = measured.distance(self._homing.home)
            raise ResetFailed(f"the arm was moved after it came home: it is {away:.3f} m away")

    def _hand_back(self) -> None:
        if self._drives:
            self._send_back()
        seconds = self._settings.arm_deadline

        def back() -> ArmHeard | None:
            self._check_gate()
            arm = self._desk.arm
            return arm if arm is not None and not arm.operator_drives else None

        if self._desk.wait(back, seconds) is None:
            raise ResetFailed(f"the gate did not take the arm back within {seconds:g} s: does somebody else drive it?")

    def _send_back(self) -> None:
        self._drives = False
        self._ports.hand_back(self._sequence)
        self._sequence += 1

    def _observation(self, confirmed: int) -> LiveFrame:
        return self._fresh_frame(max(confirmed, self._ports.now()))


def _why(check: str, reason: str) -> str:
    return f"{check}: {reason}" if check else reason
