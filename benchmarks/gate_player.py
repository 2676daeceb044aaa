"""Plays a stream of events to the gate as its node does, and has everything that comes out examined."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _paths
import numpy as np
from gate_checker import Ask, Checker, Facts, limits_of
from gate_streams import Event

from grape_episode.geometry import Pose
from grape_robot import gate, slew
from grape_robot.arm_model import ArmModel
from grape_robot.boxes import Box
from grape_robot.gate import GateState, Mode, Senses, StepRequest, load_profile
from grape_robot.slew import SetPoint

PROFILES = ("real", "supervised", "sim")
PARAMS = _paths.ROOT / "launch" / "params"
"""Folder of the shipped profiles."""


@dataclass(frozen=True)
class Failure:
    """``kind``: ``crash`` and the exception's type, or the words of a finding without their numbers."""

    kind: str
    what: str


class Player:
    """One gate, one set point, one checker. ``times``: {check: [(ns of the wall, ns of this thread)]}, appended to."""

    def __init__(self, profile: Path, times: Any) -> None:
        self.profile = load_profile(profile)
        self.checker = Checker(limits_of(profile))
        self.said: Counter[str] = Counter()
        self._arm = ArmModel.of(self.profile)
        self._state = GateState()
        self._point: SetPoint | None = None
        self._times = times

    @property
    def setpoint(self) -> np.ndarray | None:
        """What the arm was told last, (7,)."""
        return None if self._point is None else _values(self._point.pose)

    @property
    def stopped(self) -> bool:
        return self._state.mode is Mode.STOPPED

    def apply(self, event: Event) -> Failure | None:
        """What is wrong with what the gate made of this event; None: nothing."""
        try:
            wrong = getattr(self, f"_{event['do']}")(event)
        except Exception as error:
            return Failure(f"crash: {type(error).__name__}", f"{type(error).__name__}: {error}")
        if wrong:
            words = " ".join(word for word in wrong[0].split() if not any(letter.isdigit() for letter in word))
            return Failure(words, "; ".join(wrong))
        return None

    def _announce(self, event: Event) -> list[str]:
        self._state = gate.arm(self._state, event["episode"], False)
        self.checker.announced(event["episode"])
        self._rest()
        return []

    def _end(self, event: Event) -> list[str]:
        self._state = gate.disarm(self._state, event["episode"])
        self.checker.ended(event["episode"])
        self._rest()
        return []

    def _beat(self, event: Event) -> list[str]:
        self._state = gate.heartbeat(self._state, event["episode"], event["now"])
        self.checker.heartbeat(event["episode"], event["now"])
        return []

    def _reset(self, event: Event) -> list[str]:
        facts = Facts(**event["facts"])
        if not self.stopped or gate.reset_refusal(self.profile, self._state, senses_of(facts)):
            return []
        self._state = gate.reset(self._state)
        return self.checker.was_reset(facts)

    def _tick(self, event: Event) -> list[str]:
        facts = Facts(**event["facts"])
        senses = senses_of(facts)
        self._after(gate.tick(self.profile, self._arm, self._state, senses), senses)
        if self._point is None:
            return []
        before, self._point = self._point, slew.advance(self.profile, self._point, facts.now)
        self.said["told"] += 1
        self.said["moved"] += before.pose is not self._point.pose
        return self.checker.told(_values(self._point.pose), facts)

    def _hand_back(self, event: Event) -> list[str]:
        facts = Facts(**event["facts"])
        ask = StepRequest("", 2**40, facts.stamp, self.profile.frame, (0.0,) * 7, "euler_xyz", event["source"])
        verdict, self._state = gate.hand_back(self.profile, self._state, ask, senses_of(facts))
        if verdict.accepted:
            self.checker.handed_back()
            self._rest()
        return []

    def _step(self, event: Event) -> list[str]:
        ask, facts = Ask(**event["ask"]), Facts(**event["facts"])
        senses = senses_of(facts)
        self._after(gate.tick(self.profile, self._arm, self._state, senses), senses)
        request = StepRequest(
            ask.episode, ask.index, ask.stamp, ask.frame, tuple(ask.action), ask.rotation, source=ask.source
        )
        began, own = time.perf_counter_ns(), time.thread_time_ns()
        verdict, after = gate.judge(self.profile, self._arm, self._state, request, senses)
        own, wall = time.thread_time_ns() - own, time.perf_counter_ns() - began
        self._times[verdict.check].append((wall, own))
        self._after(after, senses)
        if not verdict.accepted:
            self.said["refused"] += 1
            self.checker.refused(ask, facts, verdict.check)
            return [] if verdict.check and verdict.reason else ["refused without a reason"]
        self.said["accepted"] += 1
        if verdict.target is None or senses.measured is None:
            return ["accepted without a target"]
        period = self.profile.control_period if ask.source == "policy" else self.profile.operator_period
        if self._point is None:
            self._point = slew.begin(self.profile, None, senses.measured, facts.now)
        self._point = slew.aim(self._point, verdict.target, period, facts.now)
        return self.checker.accepted(ask, facts, _values(verdict.target))

    def _after(self, state: GateState, senses: Senses) -> None:
        """The set point in a hold stays where it is; in a stop it becomes the measured TCP."""
        before, self._state = self._state, state
        if (state.authority, state.operator) != (before.authority, before.operator) and self._point is not None:
            self._point = slew.freeze(self._point)
        if state.mode is before.mode:
            return
        if state.mode is Mode.STOPPED:
            self.said["stop"] += 1
            self.checker.halted(senses.now)
            if self._point is not None:
                usable = senses.measured is not None and senses.measured_frame == self.profile.frame
                measured = senses.measured if usable and gate.is_pose(senses.measured) else None
                self._point = slew.at(measured, senses.now) if measured is not None else slew.freeze(self._point)
        elif state.mode is Mode.HOLD and self._point is not None:
            self._point = slew.freeze(self._point)

    def _rest(self) -> None:
        if self._point is not None and self._state.authority is gate.Authority.POLICY:
            self._point = slew.freeze(self._point)


def senses_of(facts: Facts) -> Senses:
    """The same as the gate's node collects it."""
    pose = None if facts.pose is None else Pose(np.array(facts.pose[:3]), np.array(facts.pose[3:]))
    boxes = None if facts.boxes_stamp is None else tuple(Box(n, tuple(lo), tuple(hi)) for n, lo, hi in facts.boxes)
    return Senses(
        now=facts.now,
        now_stamp=facts.stamp,
        measured=pose,
        measured_stamp=facts.pose_stamp,
        measured_frame=facts.pose_frame,
        joints=None if facts.joints is None else tuple(facts.joints),
        joints_stamp=facts.joints_stamp,
        wrench=None if facts.wrench is None else tuple(facts.wrench),
        wrench_stamp=facts.wrench_stamp,
        robot_mode=facts.mode,
        robot_mode_heard=facts.mode_at,
        controller_active=facts.controller,
        controller_heard=facts.controller_at,
        dead_man=facts.held,
        joy_heard=facts.joy_at,
        keep_out=boxes,
        keep_out_stamp=facts.boxes_stamp or 0,
    )


def _values(pose: Pose) -> np.ndarray:
    return np.concatenate([pose.position, pose.quaternion])
