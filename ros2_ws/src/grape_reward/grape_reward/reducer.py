"""From events to a score: the one reducer that the live node, a replay and offline scoring share.

A stage holds the observations from the one that began it to the one that ended it, both included. Over them its costs
are reduced as the task file says (``totals``).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grape_episode.episode import Identity, Outcome
from grape_reward import gcpg
from grape_reward.errors import CostError, TaskError
from grape_reward.holding import Holding
from grape_reward.predicates import Predicate, described
from grape_reward.result import Score
from grape_reward.reviews import Review
from grape_reward.sight import Sight
from grape_reward.spec import DEFAULT_OBJECTIVE, TaskSpec
from grape_reward.timeline import Event
from grape_reward.totals import StageTotals
from grape_reward.version import code_version


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
    would have cost no more, so an episode never gains by ending early. The costs of a stage in which a keypoint was
    lost for longer than the task allows are unknown.

    ``hold_seconds``: success must also have lasted that long. ``boundaries``: what ends the stages, in place of the
    task's own conditions. ``approved``: what the score says of the cost program. Raises TaskError for an unknown
    objective, or another number of boundaries."""

    def __init__(
        self,
        task: TaskSpec,
        objective: str,
        identity: Identity,
        lambdas: gcpg.Lambdas = gcpg.PRESETS["paper"],
        hold_seconds: float = 0.0,
        boundaries: tuple[Predicate, ...] | None = None,
        approved: bool = False,
    ) -> None:
        self.task = task
        self.objective = objective or DEFAULT_OBJECTIVE
        self._limits = [task.stage_constraints(i, self.objective) for i in range(len(task.stages))]
        self._identity, self._lambdas, self._approved = identity, lambdas, approved
        self._boundaries = task.boundaries if boundaries is None else boundaries
        if len(self._boundaries) != len(task.boundaries):
            told = f"{len(self._boundaries)} stage points for {len(task.stages)} stages"
            raise TaskError(f"task {task.name}: {told}: the last stage ends with success")
        self._step_limit = identity.step_limit or task.step_limit
        self._digest = hashlib.sha256(struct.pack("<q", self._step_limit))
        if boundaries is not None:
            self._digest.update(repr([described(boundary) for boundary in boundaries]).encode())
        self._decomposition = "conditions" if boundaries is None else "stage points"
        self._totals = [StageTotals(limits) for limits in self._limits]
        self._costs: tuple[float, ...] = ()
        self._foreseen: dict[Event, int] = {}
        self._foreseen_costs: list[NDArray[np.float64]] = []
        self._start: Event | None = None
        self._last: Event | None = None
        self._stamp: int | None = None
        self._sight = Sight(task.lost_at_most)
        self._stage = 0
        self._holding = Holding(task.success, hold_seconds)
        self._success = gcpg.UNKNOWN
        self._steps = 0
        self._logprobs: list[NDArray[np.float32] | None] = []
        self._problems: list[str] = []

    def name_keypoints(self, names: Sequence[str]) -> None:
        """What the keypoints of the events are called: other names than the task's are a problem of the score."""
        known = self.task.keypoints
        if tuple(names[: len(known)]) != known:
            self._note(f"keypoints: {', '.join(names) or 'none'} instead of {', '.join(known)}")

    def foresee(self, events: Sequence[Event]) -> None:
        """Work out the costs at these events all at once; ``push`` then looks them up. Changes no bit of a score."""
        good = [event for event in events if not (event.fault or event.lost or self._misfit(event))]
        if len({len(event.keypoints) for event in good}) != 1:
            return
        tcp = np.array([event.tcp[:3] for event in good])
        points = np.array([event.keypoints for event in good])
        try:
            found = self.task.program.evaluate_all(tcp, points)
        except CostError:
            return  # whether the event that it is about matters at all is seen in ``push``
        self._foreseen_costs = [
            np.stack([found[term.name] for term in stage], axis=1) for stage in self.task.program.stages
        ]
        self._foreseen = {event: row for row, event in enumerate(good)}

    def push(self, event: Event) -> Live:
        """Take the next event. At one that cannot be judged stage and costs stay as they are and success is unknown;
        where something is missing that should have been measured, that is a problem of the score."""
        self._enter(event)
        fault = event.fault or self._misfit(event)
        lost = "" if fault else self._lost(event)
        if not fault and not lost:
            try:
                self._judge(event)
            except CostError as error:
                fault = str(error)
        if fault:
            self._note(f"{_where(event)}: {fault}")
        if lost and self._success != gcpg.YES:
            self._sight.lose(event.stamp, lost)
        if fault or lost:
            self._holding.interrupt()
            if self._success != gcpg.YES:
                self._success = gcpg.UNKNOWN
        names = tuple(term.name for term in self.task.program.stages[self._stage])
        costs = (math.nan,) * len(names) if fault or lost else self._costs
        return Live(self._stage, self._success, names, costs, fault or lost)

    def finish(self, outcome: Outcome, problems: tuple[str, ...] = (), review: Review | None = None) -> Score:
        """The score, once the last event has been pushed; ``problems`` are those of the timeline, ``review`` is a
        person's word on success. With it what is unknown costs its declared worst."""
        for problem in problems:
            self._note(problem)
        if outcome.mixed_adapter:
            self._note("the adapter changed within the episode")
        if outcome.steps != self._steps:
            self._note(f"{self._steps} steps seen, the outcome counts {outcome.steps}")
        success = self._success if review is None else review.indicator
        unknown, undecided = self._sight.at_the_end(self._stage, decided=success != gcpg.UNKNOWN)
        whole = success == gcpg.YES or self._steps >= self._step_limit
        named: list[tuple[str, float]] = []
        stage_costs = []
        for stage, terms in enumerate(self.task.program.stages):
            limits, totals = self._limits[stage], self._totals[stage]
            values = [limit.worst for limit in limits]
            if stage in unknown:
                if review is None:
                    values = [math.nan] * len(limits)
            elif totals.begun and (stage < self._stage or whole):
                values = [min(c, limit.worst) for c, limit in zip(totals.values(), limits, strict=True)]
            named += [(term.name, value) for term, value in zip(terms, values, strict=True)]
            stage_costs.append(gcpg.stage_cost(values, [x.tau for x in limits], [x.beta for x in limits]))
        log_r_ext = gcpg.log_external_reward(stage_costs)
        r_self, per_token = gcpg.self_reward(self._logprobs)
        identity, lambdas = self._identity, self._lambdas
        return Score(
            episode_id=identity.episode_id,
            task=identity.task,
            initial_state=identity.initial_state,
            objective=self.objective,
            log_r_ext=log_r_ext,
            stage_costs=tuple(stage_costs),
            stages_reached=sum(1 for totals in self._totals if totals.begun),
            r_self=r_self,
            r_self_per_token=per_token,
            success=success,
            reward=gcpg.gcpg_reward(r_self, log_r_ext, success, lambdas),
            incomplete=bool(self._problems),
            cost_program_hash=self.task.program_hash,
            inputs_hash=self._digest.copy().hexdigest(),
            lambdas=(lambdas.self_reward, lambdas.external, lambdas.success),
            constraints=tuple(named),
            problems=_listed(self._problems),
            task_hash=self.task.task_hash,
            code_version=code_version(),
            approved=self._approved,
            decomposition=self._decomposition,
            outcome=_outcome(success, log_r_ext),
            undecided=() if review is not None else _listed(undecided),
            review="" if review is None else str(review),
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

    def _misfit(self, event: Event) -> str:
        """What is wrong with the number of the keypoints."""
        count, known = len(event.keypoints), len(self.task.keypoints)
        if count < known or (count > known and not self.task.obstacles):
            return f"{count} keypoints instead of {known}"
        if self._last is not None and count != len(self._last.keypoints):
            return f"{count} keypoints instead of {len(self._last.keypoints)}"
        return ""

    def _lost(self, event: Event) -> str:
        names = dict(enumerate(self.task.keypoints))
        lost = [names.get(index, str(index)) for index in event.lost]
        return f"lost keypoint {', '.join(lost)}" if lost else ""

    def _judge(self, event: Event) -> None:
        if self._success == gcpg.YES:
            return
        self._sight.see(event.stamp, self._stage)
        if self._start is None:
            self._start = event
        if self._last is not None:
            self._totals[self._stage].pass_time(max(0, event.stamp - self._last.stamp) / 1e9)
        self._observe(event)
        while self._stage < len(self._boundaries) and self._boundaries[self._stage].holds(event, self._start):
            self._next_stage(event)
        self._success = gcpg.YES if self._holding.push(event, self._start) else gcpg.NO
        # A task that is done has passed all its stages, whether or not their boundaries were seen.
        while self._success == gcpg.YES and self._stage < len(self._boundaries):
            self._next_stage(event)
        self._last = event

    def _next_stage(self, event: Event) -> None:
        self._stage += 1
        self._observe(event)

    def _observe(self, event: Event) -> None:
        """The event as an observation of the current stage."""
        row = self._foreseen.get(event)
        if row is None:
            self._costs = self.task.program.evaluate(self._stage, event.tcp[:3], event.keypoints)
        else:
            self._costs = tuple(self._foreseen_costs[self._stage][row].tolist())
        self._totals[self._stage].observe(self._costs)

    def _note(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.append(problem)


def _outcome(success: int, log_r_ext: float) -> str:
    if success == gcpg.UNKNOWN or math.isnan(log_r_ext):
        return "review"
    return "success" if success == gcpg.YES else "failure"


def _listed(problems: list[str], most: int = 10) -> tuple[str, ...]:
    """In an order that does not depend on who noticed first; a few tell the story."""
    lines = sorted(problems)
    return tuple(lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"])


def _where(event: Event) -> str:
    return "the last observation" if event.step is None else f"step {event.step}"


def _packed(event: Event) -> bytes:
    """Every number of an event that a score depends on, little-endian; all NaNs are one."""
    step = -1 if event.step is None else event.step
    logprobs = np.zeros(0) if event.logprobs is None else np.asarray(event.logprobs, np.float64)
    wrench = np.zeros(0) if event.wrench is None else event.wrench
    numbers = np.concatenate([event.tcp, [event.gripper_width], event.keypoints.ravel(), logprobs, wrench])
    numbers = numbers.astype("<f8")
    numbers[np.isnan(numbers)] = np.nan
    head = struct.pack("<qqqqq", event.stamp, step, len(event.keypoints), len(logprobs), len(wrench))
    return head + numbers.tobytes()
