"""An episode that a person drives: the policy decides nothing and shows what its model would have seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from grape_episode import topics
from grape_episode.episode import Identity
from grape_policy.ending import ERROR, STEP_LIMIT, EpisodeEnd
from grape_policy.observation import Inbox, Observation
from grape_policy.pacing import Pacer
from grape_policy.parameters import EpisodeSettings
from grape_policy.rollout import Rollout, RolloutPorts


class DemonstrationPorts(RolloutPorts, Protocol):
    """What a demonstration needs from outside. ``show`` makes the model's image of a frame, publishes it with the
    frame's stamp and tells the ``stage`` of the control period ``index``; it raises EpisodeEnd."""

    def show(self, seen: Observation, index: int, stage: int) -> None: ...


class Demonstration(Rollout):
    """Runs one episode that a person drives. It begins with the first movement and ends by success, after
    ``step_limit`` control periods, or by the operator's word."""

    def __init__(
        self,
        inbox: Inbox,
        ports: DemonstrationPorts,
        settings: EpisodeSettings,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inbox, ports, settings, steady)
        self._ports = ports

    def _go(self, identity: Identity, first: int) -> None:
        self._await_person()
        watch, pacer = self._watch, Pacer(identity.control_period, self._ports.now())
        while True:
            seen = watch.newest(pacer, driven=True)
            pacer.step(self._ports.now())
            watch.success()
            if watch.answered >= identity.step_limit:
                raise EpisodeEnd(STEP_LIMIT, f"{watch.answered} control periods")
            self._ports.show(seen, watch.answered, self._inbox.task.stage if self._inbox.task else 0)
            watch.answered += 1

    def _await_person(self) -> None:
        """What comes before the first movement shows nothing worth imitating."""

        def moved() -> bool | None:
            self._watch.interrupt()
            self._watch.alive()
            return True if self._inbox.drove else None

        seconds = self._settings.begin_deadline
        if self._inbox.wait(moved, seconds, poll=0.1) is None:
            raise EpisodeEnd(ERROR, f"nobody has driven for {seconds:g} s: nothing on {topics.OPERATOR_STEP}")
