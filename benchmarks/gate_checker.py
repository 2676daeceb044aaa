"""A second opinion on the gate: whether what it let pass is within the limits of a profile.

It shares no code with the gate: it reads the YAML itself, has its own arithmetic (``arm_geometry``) and its own rules
(``gate_rules``), and keeps its own account of who drives, what was accepted last and what the arm was told last. It
never says that a step should have passed: about a gate that refuses everything it finds nothing.

Poses are arrays (7,): position m, quaternion x, y, z, w; base frame. Times: ``now`` s on the watchdogs' clock,
stamps ns of ROS time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from arm_geometry import Array, angle_between
from gate_rules import ROUNDING, STOPS, Ask, Facts, Rules, gap

PROPER = ("stopped", "episode", "order", "operator", "frame", "finite", "rotation", "age")
"""Checks that say that a step is none to look at."""
MOTION = ("speed", "box", "keep_out", "joints", "links", "dead_man")


class Checker:
    """Follows one stream of events; ``accepted`` and ``told`` return what is wrong, one line each.

    ``limits``: see ``limits_of``."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self.limits, self.rules = limits, Rules(limits)
        self.driver = "policy"
        self.episode, self.next = "", 0
        self.reference: Array | None = None
        self.target: Array | None = None
        self.setpoint: Array | None = None
        self.resting = True
        """Nothing has been told since an episode or a drive began."""
        self.begins: Array | None = None
        """The arm's place when a drive began, where the set point may go on from it."""
        self.told_at = -math.inf
        self.last_step = -math.inf
        self.beat = -math.inf
        self.stopped, self.stopped_at = False, -math.inf

    # -- what happened ---------------------------------------------------------------------------------------------

    def announced(self, episode: str) -> None:
        if not self.stopped:
            self.episode, self.next = episode, 0
            self._forget()

    def ended(self, episode: str) -> None:
        if not self.stopped and episode == self.episode:
            self.episode = ""
            self._forget()

    def _forget(self) -> None:
        """A policy's target is its episode's; an operator keeps driving."""
        if self.driver == "policy":
            self.reference = self.target = None
            self.resting = True

    def heartbeat(self, episode: str, now: float) -> None:
        if not (episode and self.episode and episode != self.episode):
            self.beat = now

    def halted(self, now: float) -> None:
        """The gate says that it has stopped."""
        if not self.stopped:
            self.stopped, self.stopped_at, self.target, self.resting = True, now, None, True

    def was_reset(self, facts: Facts) -> list[str]:
        """The gate says that it is reset."""
        wrong = [] if self.stopped else ["reset of a gate that had not stopped"]
        since = facts.now - self.stopped_at
        if since < self.limits["reset_cooldown"] - ROUNDING:
            wrong.append(f"reset {since:.3f} s after the stop, the cool-down is {self.limits['reset_cooldown']} s")
        limits, force = self.limits, facts.wrench or (0.0,) * 6
        if limits["watch_robot_mode"] and facts.mode in STOPS:
            wrong.append(f"reset in robot mode {facts.mode}")
        if limits["controller"] and facts.controller is False:
            wrong.append("reset with an inactive controller")
        if limits["watch_wrench"] and not math.hypot(*force[:3]) <= limits["max_force"] + ROUNDING:
            wrong.append(f"reset under {math.hypot(*force[:3])} N")
        self.stopped, self.episode, self.driver = False, "", "policy"
        self.reference = self.target = None
        return wrong

    # -- judgements of the gate --------------------------------------------------------------------------------------

    def accepted(self, ask: Ask, facts: Facts, target: Array) -> list[str]:
        """The gate accepted ``ask`` and means the arm to go to ``target`` (7,)."""
        operator = ask.source != "policy"
        wrong = [f"accepted while {reason}" for reason in self._unsafe(facts)]
        wrong += self._integrity(ask, facts, operator)
        if wrong:
            return wrong
        assert facts.pose is not None
        measured = np.array(facts.pose)
        period = self.limits["operator_period" if operator else "control_period"]
        if operator:
            self._taken(ask, facts)
        else:
            self.next, self.last_step = ask.index + 1, facts.now
        start = measured if self.reference is None or self.rules.apart(self.reference, measured) else self.reference
        if self.resting:
            # a drive begins where the last one ended, or at the arm where that has been moved since
            if self.setpoint is None:
                self.setpoint = measured
            elif self.rules.apart(self.setpoint, measured):
                self.begins = measured
            self.resting = False
        wrong = self.rules.motion(ask, facts, start, target, period)
        self.reference = self.target = target
        return wrong

    def handed_back(self) -> None:
        """The gate says that the policy may drive again."""
        self.driver, self.reference, self.target, self.resting = "policy", None, None, True

    def refused(self, ask: Ask, facts: Facts, check: str) -> None:
        """A step that was refused although it was proper counts: an operator's takes over, and a policy's that was
        refused for its motion or for the dead-man's switch keeps the timer of steps quiet."""
        if ask.source == "policy":
            if check not in ("stopped", "episode", "order"):
                self.next = ask.index + 1
            if check in MOTION:
                self.last_step = facts.now
        elif check not in PROPER:
            self._taken(ask, facts)

    def _taken(self, ask: Ask, facts: Facts) -> None:
        if self.driver != ask.source:
            self.driver, self.reference, self.target = ask.source, None, None
        self.last_step = facts.now

    # -- what the arm is told --------------------------------------------------------------------------------------

    def told(self, setpoint: Array, facts: Facts) -> list[str]:
        """The set point (7,) that goes to the controller at ``facts.now``."""
        before, self.setpoint = self.setpoint, setpoint.copy()
        if self.begins is not None and not self.stopped:
            if before is not None and gap(setpoint, self.begins) < gap(setpoint, before):
                before = self.begins
            self.begins = None
        since, self.told_at = facts.now - self.told_at, facts.now
        wrong = []
        if not (np.isfinite(setpoint).all() and abs(np.linalg.norm(setpoint[3:]) - 1.0) < 1e-3):
            return [f"told {setpoint.tolist()}: no pose"]
        if before is None:
            return [f"told {setpoint[:3].tolist()} before any step was accepted"]
        measured = None if facts.pose is None else np.array(facts.pose)
        if self.stopped:
            stays = np.abs(setpoint - before).max() <= ROUNDING
            fresh = (
                -self.limits["ahead_margin"] <= (facts.stamp - facts.pose_stamp) * 1e-9 <= self.limits["state_timeout"]
            )
            at_arm = fresh and measured is not None and gap(setpoint, measured) <= ROUNDING
            return wrong if stays or at_arm else [f"told {setpoint[:3].tolist()} when stopped"]
        moved, turned_by = float(np.linalg.norm(setpoint[:3] - before[:3])), angle_between(setpoint[3:], before[3:])
        if moved <= ROUNDING and turned_by <= ROUNDING:
            return wrong
        wrong += [f"moved by {moved:.4g} m while {reason}" for reason in self._unsafe(facts)]
        wrong += self._silent(facts, moved)
        room = max(since, 1.0 / self.limits["slew_rate"]) if since < math.inf else 1.0 / self.limits["slew_rate"]
        if moved > self.limits["slew_speed"] * room + ROUNDING:
            wrong.append(f"set point moved {moved:.5f} m in {room:.4f} s, slew_speed {self.limits['slew_speed']} m/s")
        if turned_by > self.limits["slew_rotation_speed"] * room + ROUNDING:
            wrong.append(f"set point turned {turned_by:.5f} rad in {room:.4f} s")
        if self.target is None:
            wrong.append(f"moved by {moved:.4g} m, and nobody's step is being followed")
        else:
            left, was = np.linalg.norm(setpoint[:3] - self.target[:3]), np.linalg.norm(before[:3] - self.target[:3])
            if left > was + ROUNDING:
                wrong.append(f"set point moved away from its target, from {was:.5f} to {left:.5f} m")
        return wrong

    # -- the rules ---------------------------------------------------------------------------------------------------

    def _unsafe(self, facts: Facts) -> list[str]:
        """Why nothing may move at this moment."""
        return [*(["stopped"] if self.stopped else []), *self.rules.unsafe(facts)]

    def _integrity(self, ask: Ask, facts: Facts, operator: bool) -> list[str]:
        limits, wrong = self.limits, []
        if operator:
            period = limits["operator_period"]
        else:
            period = limits["control_period"]
            if self.driver != "policy":
                wrong.append("a policy's step while the operator drives")
            if not self.episode or ask.episode != self.episode:
                wrong.append(f"episode {ask.episode!r}, armed for {self.episode!r}")
            if ask.index != self.next:
                wrong.append(f"step {ask.index}, expected {self.next}")
            if facts.now - self.beat > limits["heartbeat_timeout"] + ROUNDING:
                wrong.append(f"no heartbeat for {facts.now - self.beat:.3f} s")
        if ask.frame != limits["frame"]:
            wrong.append(f"frame {ask.frame!r}")
        if len(ask.action) != 7 or not np.isfinite(np.array(ask.action, dtype=float)).all():
            wrong.append(f"action {ask.action}")
        if ask.rotation not in ("euler_xyz", "axis_angle"):
            wrong.append(f"rotation {ask.rotation!r}")
        age = (facts.stamp - ask.stamp) * 1e-9
        if not -limits["ahead_margin"] - ROUNDING <= age <= period + limits["age_margin"] + ROUNDING:
            wrong.append(f"answers an observation {age:.3f} s old")
        if facts.pose is None or not np.isfinite(facts.pose).all():
            return [*wrong, f"measured TCP {facts.pose}"]
        if abs(math.hypot(*facts.pose[3:]) - 1.0) > 1.1e-3:
            wrong.append(f"measured quaternion {facts.pose[3:]}")
        if facts.pose_frame != limits["frame"]:
            wrong.append(f"measured TCP in frame {facts.pose_frame!r}")
        age = (facts.stamp - facts.pose_stamp) * 1e-9
        if not -limits["ahead_margin"] - ROUNDING <= age <= limits["state_timeout"] + ROUNDING:
            wrong.append(f"measured TCP is {age:.3f} s old")
        return wrong

    def _silent(self, facts: Facts, moved: float) -> list[str]:
        limits, wrong = self.limits, []
        silence = facts.now - self.last_step
        if self.driver == "policy":
            if silence > limits["control_period"] + limits["hold_margin"] + ROUNDING:
                wrong.append(f"moved by {moved:.4g} m, {silence:.3f} s after the policy's last step")
            if facts.now - self.beat > limits["heartbeat_timeout"] + ROUNDING:
                wrong.append(f"moved by {moved:.4g} m, {facts.now - self.beat:.3f} s after the last heartbeat")
        elif silence > limits["operator_timeout"] + ROUNDING:
            wrong.append(f"moved by {moved:.4g} m, {silence:.3f} s after the operator's last step")
        return wrong
