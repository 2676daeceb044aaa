"""What the gate tells the controller, and when: the set point of :mod:`grape_robot.slew` between two decisions."""

from __future__ import annotations

from collections.abc import Callable

from grape_episode.geometry import Pose
from grape_robot import slew
from grape_robot.profile import GateProfile
from grape_robot.state import Authority, GateState, Mode, Senses, is_pose


class Drive:
    """The set point. ``send`` takes a pose (base frame) and a stamp (ns of ROS time); None: a dry run, nothing is sent.

    Nothing goes out before the first accepted step of an episode or of an operator, nor after its end or a stop."""

    def __init__(self, profile: GateProfile, send: Callable[[Pose, int], None] | None, lock_step: bool) -> None:
        self._profile, self._lock_step = profile, lock_step
        self._send = send or (lambda pose, stamp: None)
        self._point: slew.SetPoint | None = None
        self._live = False

    @property
    def setpoint(self) -> Pose | None:
        """What was sent last, or would have been in a dry run; None: nothing yet."""
        return None if self._point is None else self._point.pose

    def go(self, target: Pose, seconds: float, stamp: int, senses: Senses) -> None:
        """A step was accepted: be at ``target`` in ``seconds``; in lock-step it is sent now, with its ``stamp``."""
        if self._lock_step:
            self._point, self._live = slew.at(target, senses.now), True
            self._send(target, stamp)
            return
        if not self._live or self._point is None:
            assert senses.measured is not None  # a step is accepted only where the TCP is known
            self._point = slew.begin(self._profile, self._point, senses.measured, senses.now)
        self._point = slew.aim(self._point, target, seconds, senses.now)
        self._live = True

    def entered(self, before: GateState, after: GateState, sense: Callable[[], Senses]) -> None:
        """The gate's state has changed: a stop makes the measured TCP the target, a hold or another driver freezes it,
        and with an episode's or a drive's end it rests."""
        if after.mode is Mode.STOPPED:
            if before.mode is not Mode.STOPPED:
                self._stay(sense())
            return
        driver = (after.authority, after.operator) != (before.authority, before.operator)
        if self._point is not None and (driver or (after.mode is Mode.HOLD and before.mode is not Mode.HOLD)):
            self._point = slew.freeze(self._point)
        if after.authority is Authority.POLICY and (
            after.mode is Mode.IDLE or after.episode_id != before.episode_id or before.mode is Mode.STOPPED
        ):
            self._live = False

    def stream(self, state: GateState, now: float, stamp: int) -> None:
        """Once per slew period, in real time: the set point at ``now``; during a hold it stands still."""
        if not self._live or self._point is None or self._lock_step:
            return
        if state.mode is not Mode.HOLD:
            self._point = slew.advance(self._profile, self._point, now)
        self._send(self._point.pose, stamp)

    def _stay(self, senses: Senses) -> None:
        """The measured TCP, if it is known: an old one may lie behind the arm, and the set point stays what it was."""
        if not self._live or self._point is None:
            return
        self._live, self._point = False, slew.freeze(self._point)
        pose = senses.measured
        fresh = abs(senses.now_stamp - senses.measured_stamp) * 1e-9 <= self._profile.state_timeout
        if pose is not None and fresh and senses.measured_frame == self._profile.frame and is_pose(pose):
            self._point = slew.at(pose, senses.now)
            self._send(pose, senses.now_stamp)
