"""What happens to a step between its arrival and its commit, and when the watchdogs look: the gate without ROS.

Everything outside is behind :class:`Ports`. Nothing here waits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from grape_episode import topics
from grape_episode.messages import stamp_of
from grape_robot import gate
from grape_robot.checks import period
from grape_robot.drive import Drive
from grape_robot.gate import ArmModel, GateProfile, GateState, Mode, Senses, StepRequest, Verdict
from grape_robot.requests import operator_request, policy_request

HAND_BACK = 1
"""OperatorStep.HAND_BACK."""


@dataclass(frozen=True)
class Said:
    """What a GateStatus tells beyond the state. ``accepted`` is None where it is no verdict on a step of the policy;
    otherwise it is of ``step`` of ``episode_id``."""

    check: str
    reason: str
    accepted: bool | None = None
    episode_id: str = ""
    step: int = 0


class Gripper(Protocol):
    """See ``grape_robot.ros.GripperBridge``."""

    @property
    def busy(self) -> bool: ...
    def send(self, goal: float, done: Callable[[str], None]) -> None: ...
    def poll(self) -> None: ...
    def give_up(self, reason: str) -> None: ...


class Ports(Protocol):
    """What the gate needs of its surroundings."""

    def senses(self) -> Senses:
        """Of this moment."""

    def observed(self, stamp: int) -> bool:
        """Lock-step: whether clock and senses have reached a step's stamp."""

    def strangers(self) -> str:
        """Who may not be in the graph, at once and without a name; "" for nobody."""

    def tell(self, state: GateState, said: Said | None) -> None:
        """A GateStatus."""

    def commit(self, message: Any, accepted: bool) -> None:
        """A StepCommit of a PolicyStep."""

    def log(self, level: str, text: str) -> None:
        """``level``: error or warning."""


class Keeper:
    """One gate. ``arm``: ``ArmModel.of(profile)``; ``deadline``: seconds that a step waits for its observation in
    lock-step; ``dry_run``: no goal goes to the gripper (and ``drive`` sends nothing)."""

    def __init__(
        self,
        profile: GateProfile,
        arm: ArmModel | None,
        drive: Drive,
        gripper: Gripper,
        ports: Ports,
        lock_step: bool,
        deadline: float,
        dry_run: bool,
    ) -> None:
        self._profile, self._arm, self._drive, self._gripper, self._ports = profile, arm, drive, gripper, ports
        self._lock_step, self._deadline, self._dry_run = lock_step, deadline, dry_run
        self.state = GateState(lock_step=lock_step)
        self._queue: deque[tuple[Any, float]] = deque()
        self._waiting: tuple[Any, Verdict] | None = None
        self._gripper_deadline = 0.0

    # --- episodes and people ---

    def announce(self, episode_id: str, control_period: float, lock_step: bool) -> None:
        """An episode begins; one that this gate cannot judge is declined."""
        wrong = ""
        if abs(control_period - self._profile.control_period) > 1e-6:
            wrong = f"control_period {control_period} s, the profile has {self._profile.control_period} s"
        elif lock_step != self._lock_step:
            wrong = f"lock_step {lock_step}, the gate has {self._lock_step}"
        if wrong:
            reason = f"{topics.EPISODE}: episode {episode_id} has {wrong}"
            self._ports.log("error", reason)
            self._enter(gate.decline(self.state, reason))
        else:
            self._enter(gate.arm(self.state, episode_id, self._lock_step))
        self._ports.tell(self.state, None)

    def end(self, episode_id: str) -> None:
        """An episode's outcome is out."""
        self._enter(gate.disarm(self.state, episode_id))
        self._ports.tell(self.state, None)

    def heartbeat(self, episode_id: str, now: float) -> None:
        """Of the policy."""
        self.state = gate.heartbeat(self.state, episode_id, now)

    def reset(self) -> tuple[bool, str]:
        """A person asks for it: whether it is done, and what was or why not."""
        was = self.state
        reason = gate.reset_refusal(self._profile, was, self._ports.senses())
        if reason:
            return False, reason
        self._enter(gate.reset(was))
        self._ports.tell(self.state, None)
        return True, f"was stopped: {was.reason}" if was.mode is Mode.STOPPED else "the gate was not stopped"

    # --- watchdogs ---

    def tick(self) -> None:
        """To be called often: watchdogs, the gripper's deadline, and steps that wait."""
        self.watch(self._ports.senses())
        self._gripper.poll()
        if self._gripper.busy and time.monotonic() > self._gripper_deadline:
            limit = self._profile.gripper_deadline
            self._gripper.give_up(f"{topics.GRIPPER_ACTION} accepted no goal within {limit:g} s")
        self.drain()

    def watch(self, senses: Senses) -> None:
        """The watchdogs. A silence that ended within a tick must not pass for none, so before every judgement too."""
        before = self.state
        after = gate.tick(self._profile, self._arm, before, senses)
        if after is not before and after.check == "timeout" and self._waiting is not None:
            # steps came, and wait behind it
            reason = f"{topics.GRIPPER_ACTION} has accepted no goal: {after.reason}"
            after = replace(after, check="gripper", reason=reason)
        self._enter(after)
        if self.state.mode is not before.mode:
            self._report()

    def stream(self, now: float, stamp: int) -> None:
        """Real time, once per slew period: what the controller is told."""
        self._drive.stream(self.state, now, stamp)

    def stop(self, check: str, reason: str) -> None:
        """Something else than a step or a silence is wrong."""
        before = self.state
        self._enter(gate.stop(before, check, reason, self._ports.senses().now))
        if self.state.mode is not before.mode:
            self._report()

    def explain(self, reason: str) -> None:
        """More is known about why the gate has stopped."""
        self.state = replace(self.state, reason=reason)
        self._report()

    # --- steps of the policy ---

    def step(self, message: Any) -> None:
        """A PolicyStep came."""
        self._refuse_strangers()
        self._queue.append((message, time.monotonic() + self._deadline))
        self.drain()

    def drain(self) -> None:
        """Judges what can be judged; in lock-step a step waits for the observation of its own stamp."""
        while self._queue and self._waiting is None:
            message, deadline = self._queue[0]
            early = self._lock_step and not self._ports.observed(stamp_of(message))
            if early and time.monotonic() < deadline:
                return
            self._queue.popleft()
            self._judge(message)

    def _judge(self, message: Any) -> None:
        before, verdict = self._decide(policy_request(message))
        goal = verdict.gripper
        if goal is None or goal == before.gripper or self._dry_run:
            self._conclude(message, verdict)
            return
        self._waiting = (message, verdict)
        self._grip(goal, self._gripped)

    def _gripped(self, reason: str) -> None:
        if self._waiting is None:
            return
        message, verdict = self._waiting
        self._waiting = None
        if reason:
            self.stop("gripper", reason)
            verdict = Verdict(False, "gripper", reason)
        self._conclude(message, verdict)
        self.drain()

    def _conclude(self, message: Any, verdict: Verdict) -> None:
        if not verdict.accepted:
            text = f"step {message.step} of {message.episode_id} refused: {verdict.check}: {verdict.reason}"
            self._ports.log("warning", text)
        said = Said(verdict.check, verdict.reason, verdict.accepted, message.episode_id, message.step)
        self._ports.tell(self.state, said)
        self._ports.commit(message, verdict.accepted)

    # --- steps of an operator ---

    def operate(self, message: Any) -> None:
        """An OperatorStep came. A person does not wait for the policy's gripper: it is judged at once. It is told of
        without a verdict, for that would be one on a step of the policy."""
        request = operator_request(message)
        if message.kind == HAND_BACK:
            verdict, after = gate.hand_back(self._profile, self.state, request, self._ports.senses())
            self._enter(after)
            done = "handed back"
        else:
            self._refuse_strangers()
            before, verdict = self._decide(request)
            self._operator_grip(before, verdict)
            done = "accepted"
        text = f"{message.source} step {message.sequence} "
        text += done if verdict.accepted else f"refused: {verdict.reason}"
        if not verdict.accepted:
            self._ports.log("warning", f"{text} ({verdict.check})")
        self._ports.tell(self.state, Said(verdict.check, text))

    def _operator_grip(self, before: GateState, verdict: Verdict) -> None:
        goal = verdict.gripper
        if goal is None or goal == before.gripper or self._dry_run:
            return
        if self._gripper.busy:  # with the goal before: the next step asks again
            self.state = replace(self.state, gripper=before.gripper)
            return
        self._grip(goal, lambda reason: self.stop("gripper", reason) if reason else None)

    # --- both ---

    def _refuse_strangers(self) -> None:
        reason = self._ports.strangers() if self.state.mode is not Mode.STOPPED else ""
        if reason:
            self.stop("foreign", reason)

    def _decide(self, request: StepRequest) -> tuple[GateState, Verdict]:
        """The state before, and the verdict; an accepted target is on its way."""
        senses = self._ports.senses()
        self.watch(senses)
        before = self.state
        verdict, after = gate.judge(self._profile, self._arm, before, request, senses)
        self._enter(after)
        if after.mode is Mode.STOPPED and before.mode is not Mode.STOPPED:
            self._report()
        if verdict.target is not None:
            self._drive.go(verdict.target, period(self._profile, request), request.stamp, senses)
        return before, verdict

    def _grip(self, goal: float, done: Callable[[str], None]) -> None:
        self._gripper_deadline = time.monotonic() + self._profile.gripper_deadline
        self._gripper.send(goal, done)

    def _enter(self, after: GateState) -> None:
        before, self.state = self.state, after
        self._drive.entered(before, after, self._ports.senses)

    def _report(self) -> None:
        state = self.state
        level = "error" if state.mode is Mode.STOPPED else "warning"
        self._ports.log(level, f"{state.mode.name}: {state.check}: {state.reason}")
        self._ports.tell(state, None)
