"""Plays a stream of events to the gate, in the place of its node, and has everything that comes out examined."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _paths
import numpy as np
from gate_checker import Checker
from gate_rules import Ask, Facts, limits_of
from gate_streams import Event

from grape_episode.geometry import Pose
from grape_robot import gate
from grape_robot.arm_model import ArmModel
from grape_robot.boxes import Box
from grape_robot.drive import Drive
from grape_robot.gate import Authority, GateState, Mode, Senses, load_profile
from grape_robot.keeper import HAND_BACK, Keeper, Said
from grape_robot.requests import operator_request, policy_request

PROFILES = ("real", "supervised", "sim")
PARAMS = _paths.ROOT / "launch" / "params"
"""Folder of the shipped profiles."""


@dataclass(frozen=True)
class Failure:
    """``kind``: ``crash`` and the exception's type, or the words of a finding without their numbers."""

    kind: str
    what: str


_profile = functools.cache(load_profile)


@functools.cache
def _model(profile: Path) -> ArmModel | None:
    # one for all streams: a gate's node has one for all episodes, too
    return ArmModel.of(_profile(profile))


class Player:
    """One gate (``grape_robot.keeper``), what it tells the arm, and one checker that looks on.

    ``times``: {check: [(ns of the wall's clock, ns of the processor)]} of every judgement, appended to."""

    def __init__(self, profile: Path, times: Any) -> None:
        self.profile = _profile(profile)
        self.checker = Checker(limits_of(profile))
        self.said: Counter[str] = Counter()
        self._arm = _model(profile)
        self._surroundings = Surroundings()
        drive = Drive(self.profile, self._send, lock_step=False)
        gripper = Gripper()
        self.keeper = Keeper(self.profile, self._arm, drive, gripper, self._surroundings, False, 1.0, dry_run=False)
        self._sent: list[tuple[np.ndarray, bool]] = []
        self.setpoint: np.ndarray | None = None
        """What the arm was told last, (7,)."""
        self._times = times

    @property
    def stopped(self) -> bool:
        return self.keeper.state.mode is Mode.STOPPED

    def apply(self, event: Event) -> Failure | None:
        """What is wrong with what the gate made of this event; None: nothing."""
        try:
            if "facts" in event:
                self._surroundings.facts = Facts(**event["facts"])
            wrong = getattr(self, f"_{event['do']}")(event)
            wrong += self._told()
        except Exception as error:
            return Failure(f"crash: {type(error).__name__}", f"{type(error).__name__}: {error}")
        if wrong:
            words = " ".join(word for word in wrong[0].split() if not any(letter.isdigit() for letter in word))
            return Failure(words, "; ".join(wrong))
        return None

    def _send(self, pose: Pose, stamp: int) -> None:
        self._sent.append((np.concatenate([pose.position, pose.quaternion]), self.stopped))

    def _told(self) -> list[str]:
        facts, wrong = self._surroundings.facts, []
        for pose, stopped in self._sent:
            if stopped:
                self._halted(facts)
            self.said["told"] += 1
            self.said["moved"] += self.setpoint is not None and bool(np.any(pose != self.setpoint))
            self.setpoint = pose
            wrong += self.checker.told(pose, facts)
        self._sent.clear()
        if self.stopped:
            self._halted(facts)
        return wrong

    def _halted(self, facts: Facts) -> None:
        self.said["stop"] += not self.checker.stopped
        self.checker.halted(facts.now)

    def _announce(self, event: Event) -> list[str]:
        self.keeper.announce(event["episode"], self.profile.control_period, False)
        self.checker.announced(event["episode"])
        return []

    def _end(self, event: Event) -> list[str]:
        self.keeper.end(event["episode"])
        self.checker.ended(event["episode"])
        return []

    def _beat(self, event: Event) -> list[str]:
        self.keeper.heartbeat(event["episode"], event["now"])
        self.checker.heartbeat(event["episode"], event["now"])
        return []

    def _reset(self, event: Event) -> list[str]:
        was = self.stopped
        done, reason = self.keeper.reset()
        if not done:
            return [] if was and reason else ["refused a reset without a reason"]
        return self.checker.was_reset(self._surroundings.facts) if was else []

    def _tick(self, event: Event) -> list[str]:
        facts = self._surroundings.facts
        self.keeper.tick()
        self.keeper.stream(facts.now, facts.stamp)
        return []

    def _hand_back(self, event: Event) -> list[str]:
        facts = self._surroundings.facts
        ask = Ask(event["source"], "", 2**32 - 1, facts.stamp, self.profile.frame, (), "")
        before = self.keeper.state.authority
        self.keeper.operate(as_message(ask, HAND_BACK))
        if before is Authority.OPERATOR and self.keeper.state.authority is Authority.POLICY:
            self.checker.handed_back()
        return []

    def _step(self, event: Event) -> list[str]:
        ask, facts = Ask(**event["ask"]), self._surroundings.facts
        message, policy = as_message(ask), ask.source == "policy"
        senses = self._surroundings.senses()
        self.keeper.watch(senses)
        request = (policy_request if policy else operator_request)(message)
        state = self.keeper.state
        worked, began = time.thread_time_ns(), time.perf_counter_ns()
        verdict, _ = gate.judge(self.profile, self._arm, state, request, senses)
        took = time.perf_counter_ns() - began
        self._times[verdict.check].append((took, time.thread_time_ns() - worked))
        self._surroundings.said = None
        (self.keeper.step if policy else self.keeper.operate)(message)
        said = self._surroundings.said
        if said is None or said.check != verdict.check:
            return [f"judged {verdict.check!r}, and once more: {said}"]
        if not verdict.accepted:
            self.said["refused"] += 1
            self.checker.refused(ask, facts, verdict.check)
            return [] if verdict.check and verdict.reason else ["refused without a reason"]
        self.said["accepted"] += 1
        if verdict.target is None:
            return ["accepted without a target"]
        return self.checker.accepted(ask, facts, np.concatenate([verdict.target.position, verdict.target.quaternion]))


class Gripper:
    """A gripper that accepts every goal at once."""

    busy = False

    def send(self, goal: float, done: Callable[[str], None]) -> None:
        done("" if goal in (0.0, 1.0) else f"goal {goal}")

    def poll(self) -> None:
        pass

    def give_up(self, reason: str) -> None:
        raise AssertionError(f"nothing waits, and yet: {reason}")


class Surroundings:
    """What the keeper asks of its node: what is sensed is what the stream says."""

    def __init__(self) -> None:
        self.facts = self._of = Facts(0.0, 0)
        self._senses = senses_of(self.facts)
        self.said: Said | None = None

    def senses(self) -> Senses:
        if self._of is not self.facts:
            self._of, self._senses = self.facts, senses_of(self.facts)
        return self._senses

    def observed(self, stamp: int) -> bool:
        return True

    def strangers(self) -> str:
        return ""

    def tell(self, state: GateState, said: Said | None) -> None:
        self.said = said or self.said

    def commit(self, message: Any, accepted: bool) -> None:
        pass

    def log(self, level: str, text: str) -> None:
        if "\n" in text:
            raise AssertionError(f"more than one line: {text!r}")


def as_message(ask: Ask, kind: int = 0) -> Any:
    """As a PolicyStep or an OperatorStep has it."""
    seconds, rest = divmod(ask.stamp, 10**9)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=rest), frame_id=ask.frame)
    index = {"step": ask.index, "sequence": ask.index, "source": ask.source, "kind": kind}
    return SimpleNamespace(
        header=header, episode_id=ask.episode, action=list(ask.action), rotation=ask.rotation, **index
    )


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
