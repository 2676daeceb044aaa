"""A rollout of the policy: it answers observations with steps until the episode ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from grape_episode.episode import Identity, Step
from grape_policy.ending import STEP_LIMIT, EpisodeEnd
from grape_policy.observation import Inbox, Observation
from grape_policy.pacing import Pacer
from grape_policy.parameters import EpisodeSettings
from grape_policy.rollout import EpisodeReport, Rollout, RolloutPorts

__all__ = ["EpisodeEnd", "EpisodeReport", "EpisodeRunner", "Ports"]

JUDGEMENT_SECONDS = 0.05
"""Real time: for the verdict on the last observation. The gate stops, and latches, 0.2 s after a step that is due."""


class Ports(RolloutPorts, Protocol):
    """What a rollout of the policy needs from outside. ``decide`` raises EpisodeEnd."""

    def decide(self, seen: Observation, identity: Identity, index: int) -> Step: ...
    def publish_step(self, step: Step, identity: Identity) -> None: ...
    def feedback(self, step: Step, stage: int) -> None: ...


class EpisodeRunner(Rollout):
    """Runs one episode of the policy over ``ports`` from what comes into ``inbox``.

    While a person drives it sends nothing; its steps stay numbered without a gap, and it goes on from a frame taken
    after the arm was handed back."""

    def __init__(
        self, inbox: Inbox, ports: Ports, settings: EpisodeSettings, steady: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(inbox, ports, settings, steady)
        self._ports = ports

    def _go(self, identity: Identity, first: int) -> None:
        watch, pacer = self._watch, Pacer(identity.control_period, first)
        while True:
            if identity.lock_step:
                seen = watch.exact(identity.control_period)
            else:
                seen, now = watch.newest(pacer), self._ports.now()
                if not self._steps or watch.waited:  # the first step sets the phase
                    pacer, watch.waited = Pacer(identity.control_period, now), False
                pacer.step(now)
            if self._steps >= identity.step_limit:
                if not identity.lock_step:
                    watch.catch_up(lambda: self._inbox.task, JUDGEMENT_SECONDS)
                watch.success()
                raise EpisodeEnd(STEP_LIMIT, f"{self._steps} steps")
            watch.success()
            step = self._ports.decide(seen, identity, self._steps)
            if not watch.clear(seen):
                continue
            self._mixed |= (step.adapter_id, step.adapter_seq) != (identity.adapter_id, identity.adapter_seq)
            self._adapter_id = step.adapter_id
            step = replace(step, latency=self._steady() - seen.frame.received)
            self._ports.publish_step(step, identity)
            self._steps += 1
            watch.answered = self._steps
            self._ports.feedback(step, self._inbox.task.stage if self._inbox.task else 0)
            if identity.lock_step:
                watch.verdict(step.index)
