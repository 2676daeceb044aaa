"""One episode as it happens: samples, steps and the outcome go in, judgements and at last the score come out.

Two reducers run side by side. One takes the events of the timeline and makes the score, the same as offline. The other
takes every observation as it becomes known and says how the task stands, because the policy waits for that before its
next step; in lock-step both see the same observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_episode.episode import Identity, Outcome
from grape_episode.geometry import Array
from grape_reward.gcpg import PRESETS, UNKNOWN, Lambdas
from grape_reward.reducer import Live, Reducer
from grape_reward.result import Score
from grape_reward.tasks import TASKS, TaskLibrary
from grape_reward.timeline import known_points, timeline_of

NOT_BEGUN = "nobody has begun"


@dataclass(frozen=True)
class Judgement:
    """How the task stands at the observation of ``stamp``; ``step``: the PolicyStep it belongs to, None where this
    says how the task stands and not what a step cost."""

    stamp: int
    live: Live
    step: int | None = None


class LiveEpisode:
    """Feed it in any order, then ask ``advance`` for what is new. ``unapproved``: score by a cost program that nobody
    has approved. ``since``: observations up to that stamp, nanoseconds, are of the episode before, whatever this one's
    announcement says. Raises TaskError for an unknown task or objective, NotApprovedError."""

    def __init__(
        self,
        identity: Identity,
        objective: str = "",
        lambdas: Lambdas = PRESETS["paper"],
        tasks: TaskLibrary = TASKS,
        unapproved: bool = False,
        since: int = 0,
    ) -> None:
        self.identity = identity
        self.task, approved = tasks.cleared(identity.task, unapproved)
        objective = objective or identity.objective
        # Outside lock-step observations come more often than steps: a success must have lasted long enough that the
        # score, which sees one observation a step and the last one, sees it last as long as the task asks for.
        hold = 0.0 if identity.lock_step else self.task.success.hold + 1.5 * identity.control_period
        self._scorer = Reducer(self.task, objective, identity, lambdas, approved=approved)
        self._watcher = Reducer(self.task, objective, identity, lambdas, hold_seconds=hold)
        wrench = self.task.reads_force
        self._timeline = timeline_of(identity.lock_step, identity.control_period, identity.stamp, wrench)
        self._names: list[tuple[int, tuple[str, ...]]] = []
        self._unseen: list[int] = []
        self._watched = max(identity.stamp, since)
        self._begin: int | None = None
        self._outcome: Outcome | None = None

    @property
    def ended(self) -> bool:
        """The outcome has arrived."""
        return self._outcome is not None

    @property
    def outcome_stamp(self) -> int:
        """Stamp of the last observation, ns; 0 before the outcome."""
        return 0 if self._outcome is None else self._outcome.stamp

    def sample(self, topic: str, stamp: int, value: Any) -> None:
        """A sample of one of the timeline's ``TOPICS``. A keypoints sample is what makes an observation."""
        self._timeline.add(topic, stamp, value)
        if topic == "keypoints" and stamp > self._watched and stamp not in self._unseen:
            self._unseen = sorted([*self._unseen, stamp])

    def keypoints(self, stamp: int, names: Sequence[str], points: Array, confidence: Array) -> None:
        """A sample of the keypoints: ``names`` (K), ``points`` (K, 3) metres, ``confidence`` (K,), or empty where the
        source says nothing of it. Below the task's confidence a keypoint is lost."""
        if stamp > self.identity.stamp:
            self._names.append((stamp, tuple(names)))
        self.sample("keypoints", stamp, known_points(points, confidence, self.task.confidence))

    def step(self, index: int, stamp: int, logprobs: NDArray[np.float32] | None) -> None:
        """A PolicyStep."""
        self._begin = stamp if self._begin is None else min(self._begin, stamp)
        self._timeline.add_step(index, stamp, logprobs)

    def drive(self, stamp: int) -> None:
        """A person has moved the arm: that is how a demonstration begins."""
        if self.identity.demonstration and self._begin is None:
            self._begin = stamp

    def end(self, outcome: Outcome) -> None:
        """The outcome: what it announces is waited for, until ``finish`` is called."""
        self._outcome = outcome
        self._timeline.close(outcome.stamp, outcome.steps)

    def trouble(self, problem: str) -> None:
        """Something went wrong that the bag may not show, messages lost on the way: the score is not to be used."""
        if problem not in self._timeline.problems:
            self._timeline.problems.append(problem)

    def advance(self) -> tuple[list[Judgement], list[Judgement], Score | None]:
        """What is new: how the task stands at each new observation, what each step that can be closed cost, and the
        score as soon as nothing is missing any more."""
        standing = self._watch()
        costs = [Judgement(event.stamp, self._scorer.push(event), event.step) for event in self._timeline.pop()]
        score = None
        if self._outcome is not None and self._timeline.done:
            score = self._score(self._outcome)
        return standing, [judgement for judgement in costs if judgement.step is not None], score

    def finish(self) -> Score | None:
        """The score from what has arrived, when nothing more will; None without an outcome."""
        if self._outcome is None:
            return None
        for event in self._timeline.flush():
            self._scorer.push(event)
        return self._score(self._outcome)

    def _score(self, outcome: Outcome) -> Score:
        # as the reader has it: under the names that they had when the policy began
        at_work = [names for stamp, names in self._names if self._begin is None or stamp >= self._begin]
        names = at_work or [names for _, names in self._names]
        if names:
            self._scorer.name_keypoints(names[0])
        for other in sorted(set(at_work) - set(at_work[:1])):
            self.trouble(f"the keypoints changed their names from {', '.join(at_work[0])} to {', '.join(other)}")
        return self._scorer.finish(outcome, tuple(self._timeline.problems))

    def _watch(self) -> list[Judgement]:
        standing = []
        while self._unseen:
            stamp = self._unseen[0]
            event = self._timeline.observation(stamp)
            if event is None:
                break
            self._unseen.pop(0)
            self._watched = stamp
            if self._outcome is not None and stamp > self._outcome.stamp:
                continue
            if not self.identity.lock_step and (self._begin is None or stamp < self._begin):
                # In real time the world before the reset may still be seen: nothing of it may count.
                standing.append(Judgement(stamp, Live(0, UNKNOWN, (), (), NOT_BEGUN)))
                continue
            standing.append(Judgement(stamp, self._watcher.push(event)))
        return standing
