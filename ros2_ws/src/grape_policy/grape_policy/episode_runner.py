"""One rollout: announce, reset, wait for the gate, act, end. No ROS here: the world is behind :class:`Ports`.

The runner blocks its thread; everything it waits for comes through the inbox, and every
wait has a deadline and ends in one line for people.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from grape_episode import topics
from grape_episode.episode import GATE_VETOED, Identity, Outcome, Step
from grape_policy.observation import LEAVING_SECONDS, STOPPED, UNKNOWN, YES, Inbox, Observation, TaskSample, WorldSample
from grape_policy.pacing import Pacer
from grape_policy.parameters import EpisodeSettings

SUCCESS, STEP_LIMIT, CANCELLED, ERROR = "success", "step_limit", "cancelled", "error"
VETOED, STALE_CAMERA, GATE_FAULT = "vetoed", "stale_camera", "gate_fault"
WORLD_SECONDS = 0.5
"""For the world's own word on the last observation, which only the result carries."""
JUDGEMENT_SECONDS = 0.05
"""Real time: for the verdict on the last observation. The gate stops, and latches, 0.2 s after a step that is due."""


class EpisodeEnd(Exception):
    """The episode ends here: ``reason`` as in EpisodeOutcome, ``detail`` one line."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class EpisodeReport:
    """The end of a rollout; ``outcome`` None: it never began (nothing was announced)."""

    identity: Identity
    reason: str
    detail: str
    steps: int
    success: int
    outcome: Outcome | None
    world: WorldSample | None
    adapter_id: str
    bag_path: str


class Ports(Protocol):
    """What a rollout needs from outside. ``prepare_recording``, ``reset_world`` and ``decide`` raise EpisodeEnd."""

    def now(self) -> int: ...
    def check_world(self) -> None: ...
    def prepare_recording(self, identity: Identity) -> str: ...
    def announce(self, identity: Identity) -> None: ...
    def reset_world(self, identity: Identity) -> int: ...
    def decide(self, seen: Observation, identity: Identity, index: int) -> Step: ...
    def publish_step(self, step: Step, identity: Identity) -> None: ...
    def feedback(self, step: Step, stage: int) -> None: ...
    def publish_outcome(self, identity: Identity, outcome: Outcome) -> None: ...


def check_stop(inbox: Inbox) -> None:
    """Raise the EpisodeEnd of a stop, asked for or forced by a failure."""
    if inbox.stop_reason is not None:
        raise EpisodeEnd(ERROR if inbox.failed else CANCELLED, inbox.stop_reason)


def check_interrupt(inbox: Inbox) -> None:
    """Raise the EpisodeEnd of what ends a running episode whatever it waits for: a stop, a gate fault."""
    check_stop(inbox)
    if inbox.gate is not None and inbox.gate.state == STOPPED:
        raise EpisodeEnd(GATE_FAULT, f"the gate has stopped: {inbox.gate.reason or inbox.gate.check or 'no reason'}")


class EpisodeRunner:
    """Runs one episode over ``ports`` from what comes into ``inbox``."""

    def __init__(
        self, inbox: Inbox, ports: Ports, settings: EpisodeSettings, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._inbox, self._ports, self._settings, self._steady = inbox, ports, settings, steady
        self._steps = 0
        self._vetoes = 0
        self._judged = -1
        self._last = 0
        self._adapter_id = ""
        self._mixed = False

    def run(self, identity: Identity, record: bool) -> EpisodeReport:
        """The whole rollout; raises nothing: whatever goes wrong is the report's reason and detail."""
        announced, bag = False, ""
        self._adapter_id = identity.adapter_id
        try:
            self._ports.check_world()
            if record:
                bag = self._ports.prepare_recording(identity)
            self._inbox.begin(identity.episode_id)
            self._ports.announce(identity)
            announced = True
            first = self._ports.reset_world(identity)
            self._last = first - 1
            self._await_gate(identity)
            self._act(identity, first)
            raise AssertionError("an episode ends by EpisodeEnd")
        except EpisodeEnd as ended:
            end = ended
        except Exception as problem:
            end = EpisodeEnd(ERROR, f"{type(problem).__name__}: {problem}")
        if not announced:
            return EpisodeReport(
                identity, end.reason, end.detail, 0, UNKNOWN, None, None, self._adapter_id, bag_path=bag
            )
        return self._close(identity, end, bag)

    def _interrupt(self) -> None:
        """Raise what ends an episode at any time: a stop, a gate fault, too many vetoes. Under the inbox's lock."""
        inbox = self._inbox
        check_interrupt(inbox)
        while inbox.verdicts:
            verdict = inbox.verdicts.popleft()
            self._judged = max(self._judged, verdict.step)
            self._vetoes = self._vetoes + 1 if verdict.verdict == GATE_VETOED else 0
            if self._vetoes >= self._settings.veto_limit:
                raise EpisodeEnd(
                    VETOED,
                    f"{self._vetoes} vetoes in a row, the last at step {verdict.step}: "
                    f"{verdict.check}: {verdict.reason}",
                )

    def _await_gate(self, identity: Identity) -> None:
        def armed() -> bool | None:
            self._interrupt()
            gate = self._inbox.gate
            if gate is not None and gate.check == "episode":
                raise EpisodeEnd(GATE_FAULT, f"the gate declines the episode: {gate.reason}")
            return True if gate is not None and gate.episode_id == identity.episode_id else None

        if self._inbox.wait(armed, self._settings.deadline) is None:
            gate = self._inbox.gate
            said = "says nothing" if gate is None else f"is armed for {gate.episode_id or 'no episode'}"
            raise EpisodeEnd(GATE_FAULT, f"the gate {said} on {topics.GATE_STATUS} after {self._settings.deadline:g} s")

    def _act(self, identity: Identity, first: int) -> None:
        pacer = Pacer(identity.control_period, first)
        while True:
            if identity.lock_step:
                seen = self._exact(identity.control_period)
            else:
                seen, now = self._newest(pacer), self._ports.now()
                # the first step sets the phase
                pacer = pacer if self._steps else Pacer(identity.control_period, now)
                pacer.step(now)
            self._last = seen.stamp
            if self._steps >= identity.step_limit:
                if not identity.lock_step:
                    self._catch_up(lambda: self._inbox.task, JUDGEMENT_SECONDS)
                self._check_success()
                raise EpisodeEnd(STEP_LIMIT, f"{self._steps} steps")
            self._check_success()
            step = self._ports.decide(seen, identity, self._steps)
            self._inbox.wait(self._clear_to_send, 0)
            self._mixed |= (step.adapter_id, step.adapter_seq) != (identity.adapter_id, identity.adapter_seq)
            self._adapter_id = step.adapter_id
            step = replace(step, latency=self._steady() - seen.frame.received)
            self._ports.publish_step(step, identity)
            self._steps += 1
            self._ports.feedback(step, self._inbox.task.stage if self._inbox.task else 0)
            if identity.lock_step:
                self._await_verdict(step.index)

    def _clear_to_send(self) -> bool:
        self._interrupt()
        return True

    def _check_success(self) -> None:
        task = self._inbox.task
        if task is not None and task.success == YES:
            self._last = max(self._last, task.stamp)
            raise EpisodeEnd(SUCCESS, f"after {self._steps} steps")

    def _exact(self, period: float) -> Observation:
        """Lock-step: the frame after the last answered one, with everything of its very stamp."""
        missing = [""]

        def whole() -> Observation | None:
            self._interrupt()
            frame, settings = self._inbox.frame, self._settings
            if frame is None or frame.stamp <= self._last:
                missing[0] = settings.color_topic
                return None
            tcp, width = self._inbox.tcp.at(frame.stamp), self._inbox.width.at(frame.stamp)
            judged = not settings.await_task_status or self._inbox.tasks.at(frame.stamp) is not None
            parts = ((settings.pose_topic, tcp), (settings.joints_topic, width), (topics.TASK_STATUS, judged or None))
            missing[0] = ", ".join(topic for topic, value in parts if value is None)
            return Observation(frame, tcp, width) if judged and tcp is not None and width is not None else None

        previous, seen = self._last, self._inbox.wait(whole, self._settings.deadline)
        if seen is None:
            reason = STALE_CAMERA if missing[0] == self._settings.color_topic else ERROR
            raise EpisodeEnd(
                reason, f"nothing on {missing[0]} for observation {self._steps} after {self._settings.deadline:g} s"
            )
        if self._steps and abs(seen.stamp - previous - period * 1e9) > 0.5e9 * period:
            raise EpisodeEnd(
                ERROR,
                f"observation {self._steps} on {self._settings.color_topic} came {(seen.stamp - previous) / 1e9:g} s "
                f"after the last, not one control period of {period:g} s: the world did not wait",
            )
        return seen

    def _newest(self, pacer: Pacer) -> Observation:
        """Real time: at the next tick, the newest frame not yet answered, with the state measured when it was taken."""
        settings, inbox = self._settings, self._inbox
        began = self._steady()
        problem = [EpisodeEnd(STALE_CAMERA, f"no frame on {settings.color_topic}")]

        def ready() -> Observation | None:
            self._interrupt()
            self._check_success()
            self._check_gate_alive()
            frame, now = inbox.frame, self._ports.now()
            if frame is None or frame.stamp <= self._last:
                problem[0] = EpisodeEnd(STALE_CAMERA, f"no new frame on {settings.color_topic}")
                return None
            if pacer.left(now) > 0:
                problem[0] = EpisodeEnd(ERROR, "the clock stands still: is /clock published?")
                return None
            age = (now - frame.stamp) / 1e9
            if age > settings.max_observation_age:
                problem[0] = EpisodeEnd(STALE_CAMERA, f"frames on {settings.color_topic} are {age:.3f} s old")
                return None
            tcp = inbox.tcp.before(frame.stamp, settings.max_observation_age)
            width = inbox.width.before(frame.stamp, settings.max_observation_age)
            if tcp is None or width is None:
                topic = settings.pose_topic if tcp is None else settings.joints_topic
                problem[0] = EpisodeEnd(ERROR, f"nothing on {topic} at or before the frame")
                return None
            return Observation(frame, tcp, width)

        while True:
            # the ROS clock does not notify: poll it, finely only when the tick is near
            near = min(max(pacer.left(self._ports.now()), 0.002), 0.02)
            seen = inbox.wait(ready, near, poll=near)
            if seen is not None:
                return seen
            if self._steady() - began > max(settings.camera_deadline, 2 * pacer.period):
                raise EpisodeEnd(problem[0].reason, f"{problem[0].detail} for {settings.camera_deadline:g} s")

    def _check_gate_alive(self) -> None:
        gate = self._inbox.gate
        if gate is not None and self._steady() - gate.received > self._settings.gate_deadline:
            raise EpisodeEnd(GATE_FAULT, f"nothing on {topics.GATE_STATUS} for {self._settings.gate_deadline:g} s")

    def _await_verdict(self, step: int) -> None:
        def judged() -> bool | None:
            self._interrupt()
            return True if self._judged >= step else None

        if self._inbox.wait(judged, self._settings.deadline) is None:
            raise EpisodeEnd(
                GATE_FAULT, f"no verdict on step {step} on {topics.GATE_STATUS} after {self._settings.deadline:g} s"
            )

    def _catch_up(self, latest: Callable[[], TaskSample | WorldSample | None], seconds: float) -> None:
        """Wait for the judgement of the last observation, where somebody judges."""

        def caught_up() -> bool | None:
            sample = latest()
            return True if sample is None or sample.stamp >= self._last else None

        self._inbox.wait(caught_up, seconds)

    def _close(self, identity: Identity, end: EpisodeEnd, bag: str) -> EpisodeReport:
        task = self._inbox.task
        outcome = Outcome(
            end_reason=end.reason,
            detail=end.detail,
            steps=self._steps,
            success_reward=task.success if task else UNKNOWN,
            mixed_adapter=self._mixed,
            stamp=max(self._last, identity.stamp),
        )
        self._ports.publish_outcome(identity, outcome)
        detail = end.detail
        if bag:
            patience = self._settings.record_deadline
            patience = min(patience, LEAVING_SECONDS) if self._inbox.leaving else patience
            closed = self._inbox.wait(lambda: self._inbox.record, patience)
            if closed is None:
                detail += f"; nothing on {topics.RECORD} for {patience:g} s: the bag may be open"
            else:
                bag = closed.path or bag
                if not closed.complete:
                    detail += "; bag: " + "; ".join(closed.problems)
        self._catch_up(lambda: self._inbox.world, WORLD_SECONDS)
        return EpisodeReport(
            identity,
            end.reason,
            detail,
            self._steps,
            outcome.success_reward,
            outcome,
            self._inbox.world,
            self._adapter_id,
            bag,
        )
