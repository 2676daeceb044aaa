"""From events to a score: the one reducer that the live node, a replay and offline scoring share.

A stage holds the observations from the one that began it to the one that ended it, both included. Over them its costs
are reduced by kind: target and grasp by their last value, collision by its maximum, path by the sum of its values
times the duration of the step that follows each (a cost of one a moment is the stage's time in seconds).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grape_episode.episode import Identity, Outcome
from grape_reward import gcpg
from grape_reward.errors import CostError
from grape_reward.result import Score
from grape_reward.spec import DEFAULT_OBJECTIVE, TaskSpec
from grape_reward.timeline import Event


@dataclass(frozen=True)
class Live:
    """Where an episode stands after an observation: 0-based ``stage``, ``success`` so far (1, 0, -1 unknown, with the
    ``reason``), and the raw costs of that stage's constraints at this instant."""

    stage: int
    success: int
    names: tuple[str, ...]
    costs: tuple[float, ...]
    reason: str = ""


class Reducer:
    """Push the events of one episode in order, then ``finish``. Eq. 8 to 12 of paper 002.

    A stage that was never reached costs its declared worst. So does the stage in which an episode broke off before
    its step limit without success, and no cost exceeds its worst: whatever the rest of the episode would have been, it
    would have cost no more, so an episode never gains by ending early.

    ``hold_seconds``: success must also have lasted that long. Raises TaskError for an unknown objective."""

    def __init__(
        self,
        task: TaskSpec,
        objective: str,
        identity: Identity,
        lambdas: gcpg.Lambdas = gcpg.PRESETS["paper"],
        hold_seconds: float = 0.0,
    ) -> None:
        self.task = task
        self.objective = objective or DEFAULT_OBJECTIVE
        self._limits = [task.stage_constraints(i, self.objective) for i in range(len(task.stages))]
        self._identity, self._lambdas, self._hold_seconds = identity, lambdas, hold_seconds
        self._program_hash = task.program_hash
        self._step_limit = identity.step_limit or task.step_limit
        self._digest = hashlib.sha256(struct.pack("<q", self._step_limit))
        self._reduced: list[list[float]] = [[] for _ in task.stages]
        self._costs: tuple[float, ...] = ()
        self._start: Event | None = None
        self._last: Event | None = None
        self._stamp: int | None = None
        self._stage = 0
        self._held: list[int] = []
        self._success = gcpg.UNKNOWN
        self._steps = 0
        self._logprobs: list[NDArray[np.float32] | None] = []
        self._problems: list[str] = []

    def push(self, event: Event) -> Live:
        """Take the next event. One that cannot be judged leaves stage and costs as they are and is a problem of the
        score; success is unknown at it."""
        self._enter(event)
        fault = event.fault
        if not fault and self._last is not None and len(event.keypoints) != len(self._last.keypoints):
            fault = f"{len(event.keypoints)} keypoints instead of {len(self._last.keypoints)}"
        if not fault:
            try:
                self._judge(event)
            except CostError as error:
                fault = str(error)
        if fault:
            self._held = []
            self._note(f"{_where(event)}: {fault}")
            if self._success != gcpg.YES:
                self._success = gcpg.UNKNOWN
        names = tuple(term.name for term in self.task.program.stages[self._stage])
        costs = (float("nan"),) * len(names) if fault else self._costs
        return Live(self._stage, self._success, names, costs, fault)

    def finish(self, outcome: Outcome, problems: tuple[str, ...] = ()) -> Score:
        """The score, once the last event has been pushed; ``problems`` are those of the timeline."""
        for problem in problems:
            self._note(problem)
        if outcome.mixed_adapter:
            self._note("the adapter changed within the episode")
        if outcome.steps != self._steps:
            self._note(f"{self._steps} steps seen, the outcome counts {outcome.steps}")
        whole = self._success == gcpg.YES or self._steps >= self._step_limit
        named: list[tuple[str, float]] = []
        stage_costs = []
        for stage, terms in enumerate(self.task.program.stages):
            limits = self._limits[stage]
            values = [limit.worst for limit in limits]
            if self._reduced[stage] and (stage < self._stage or whole):
                values = [min(c, limit.worst) for c, limit in zip(self._reduced[stage], limits, strict=True)]
            named += [(term.name, value) for term, value in zip(terms, values, strict=True)]
            stage_costs.append(gcpg.stage_cost(values, [x.tau for x in limits], [x.beta for x in limits]))
        log_r_ext = gcpg.log_external_reward(stage_costs)
        r_self, per_token = gcpg.self_reward(self._logprobs)
        identity = self._identity
        return Score(
            episode_id=identity.episode_id,
            task=identity.task,
            initial_state=identity.initial_state,
            objective=self.objective,
            log_r_ext=log_r_ext,
            stage_costs=tuple(stage_costs),
            stages_reached=sum(1 for reduced in self._reduced if reduced),
            r_self=r_self,
            r_self_per_token=per_token,
            success=self._success,
            reward=gcpg.gcpg_reward(r_self, log_r_ext, self._success, self._lambdas),
            incomplete=bool(self._problems),
            cost_program_hash=self._program_hash,
            inputs_hash=self._digest.copy().hexdigest(),
            lambdas=(self._lambdas.self_reward, self._lambdas.external, self._lambdas.success),
            constraints=tuple(named),
            problems=_listed(self._problems),
        )

    def _enter(self, event: Event) -> None:
        """Book-keeping that does not need the event to be judged."""
        for line in event.missing:
            self._note(line)
        if event.step is not None:
            if event.step != self._steps:
                self._note(f"step {event.step} where step {self._steps} was due")
            self._steps += 1
            self._logprobs.append(event.logprobs)
        if self._stamp is not None and event.stamp <= self._stamp:
            self._note(f"{_where(event)}: stamp {event.stamp} is not later than the one before")
        self._stamp = event.stamp
        self._digest.update(_packed(event))

    def _judge(self, event: Event) -> None:
        if self._start is None:
            self._start = event
        if self._success == gcpg.YES:
            return
        if self._last is not None:
            duration = max(0, event.stamp - self._last.stamp) / 1e9
            for j, term in enumerate(self.task.program.stages[self._stage]):
                if term.kind == "path":
                    self._reduced[self._stage][j] += self._costs[j] * duration
        self._observe(event)
        while self._stage < len(self.task.boundaries) and self.task.boundaries[self._stage].holds(event, self._start):
            self._next_stage(event)
        if self._last is None or _moved(self._last, event) > self.task.still:
            self._held = []
        self._held = [*self._held, event.stamp] if self.task.success.holds(event, self._start) else []
        lasted = bool(self._held) and (self._held[-1] - self._held[0]) / 1e9 >= self._hold_seconds
        self._success = gcpg.YES if lasted and len(self._held) >= self.task.hold else gcpg.NO
        # A task that is done has passed all its stages, whether or not their boundaries were seen.
        while self._success == gcpg.YES and self._stage < len(self.task.boundaries):
            self._next_stage(event)
        self._last = event

    def _next_stage(self, event: Event) -> None:
        self._stage += 1
        self._observe(event)

    def _observe(self, event: Event) -> None:
        """The event as an observation of the current stage."""
        terms = self.task.program.stages[self._stage]
        self._costs = self.task.program.evaluate(self._stage, event.tcp[:3], event.keypoints)
        reduced = self._reduced[self._stage]
        if not reduced:
            reduced += [0.0 if term.kind == "path" else cost for term, cost in zip(terms, self._costs, strict=True)]
        for j, (term, cost) in enumerate(zip(terms, self._costs, strict=True)):
            if term.kind == "collision":
                reduced[j] = max(reduced[j], cost)
            elif term.kind != "path":
                reduced[j] = cost

    def _note(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.append(problem)


def _listed(problems: list[str], most: int = 10) -> tuple[str, ...]:
    """In an order that does not depend on who noticed first; a few tell the story."""
    lines = sorted(problems)
    return tuple(lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"])


def _moved(before: Event, after: Event) -> float:
    """Way of the object between two events, metres."""
    return float(np.sqrt(np.sum((after.keypoints[0] - before.keypoints[0]) ** 2)))


def _where(event: Event) -> str:
    return "the last observation" if event.step is None else f"step {event.step}"


def _packed(event: Event) -> bytes:
    """Every number of an event that a score depends on, little-endian; all NaNs are one."""
    step = -1 if event.step is None else event.step
    logprobs = np.zeros(0) if event.logprobs is None else np.asarray(event.logprobs, np.float64)
    numbers = np.concatenate([event.tcp, [event.gripper_width], event.keypoints.ravel(), logprobs]).astype("<f8")
    numbers[np.isnan(numbers)] = np.nan
    head = struct.pack("<qqqq", event.stamp, step, len(event.keypoints), len(logprobs))
    return head + numbers.tobytes()
