"""The frame of every episode: announce, reset, wait for the gate, go, end. No ROS here: the world is behind ports.

A rollout blocks its thread; everything it waits for comes through the inbox, and every wait has a deadline and ends
in one line for people.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from grape_episode import topics
from grape_episode.episode import PERSON_DROVE, Identity, Outcome
from grape_policy.ending import ERROR, EpisodeEnd
from grape_policy.observation import LEAVING_SECONDS, UNKNOWN, Inbox, WorldSample
from grape_policy.parameters import EpisodeSettings
from grape_policy.watch import Watch

WORLD_SECONDS = 0.5
"""For the world's own word on the last observation, which only the result carries."""


@dataclass(frozen=True)
class EpisodeReport:
    """The end of a rollout; ``outcome`` None: it never began (nothing was announced). ``steps``: control periods, in
    each of which a policy sent a step or a person drove."""

    identity: Identity
    reason: str
    detail: str
    steps: int
    success: int
    outcome: Outcome | None
    world: WorldSample | None
    adapter_id: str
    bag_path: str


class RolloutPorts(Protocol):
    """What every rollout needs from outside. ``prepare_recording`` and ``reset_world`` raise EpisodeEnd."""

    def now(self) -> int: ...
    def check_world(self) -> None: ...
    def prepare_recording(self, identity: Identity) -> str: ...
    def announce(self, identity: Identity) -> None: ...
    def reset_world(self, identity: Identity) -> int: ...
    def publish_outcome(self, identity: Identity, outcome: Outcome) -> None: ...


class Rollout(ABC):
    """Runs one episode over ``ports`` from what comes into ``inbox``; what happens in it is the subclass's."""

    def __init__(
        self,
        inbox: Inbox,
        ports: RolloutPorts,
        settings: EpisodeSettings,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox, self._world, self._settings, self._steady = inbox, ports, settings, steady
        self._watch = Watch(inbox, ports.now, settings, steady)
        self._steps = 0
        """PolicySteps sent."""
        self._adapter_id = ""
        self._mixed = False

    @abstractmethod
    def _go(self, identity: Identity, first: int) -> None:
        """From the first observation, at ``first``, to an EpisodeEnd, which it raises."""

    def run(self, identity: Identity, record: bool) -> EpisodeReport:
        """The whole rollout; raises nothing: whatever goes wrong is the report's reason and detail."""
        announced, bag = False, ""
        self._adapter_id = identity.adapter_id
        try:
            self._world.check_world()
            if record:
                bag = self._world.prepare_recording(identity)
            self._inbox.begin(identity.episode_id)
            self._world.announce(identity)
            announced = True
            first = self._world.reset_world(identity)
            self._watch.last = first - 1
            self._watch.armed(identity)
            self._go(identity, first)
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

    def _close(self, identity: Identity, end: EpisodeEnd, bag: str) -> EpisodeReport:
        task = self._inbox.task
        detail = end.detail
        if self._inbox.drove and not identity.demonstration:
            detail += f"; {PERSON_DROVE}"
        outcome = Outcome(
            end_reason=end.reason,
            detail=detail,
            steps=self._steps,
            success_reward=task.success if task else UNKNOWN,
            mixed_adapter=self._mixed,
            stamp=max(self._watch.last, identity.stamp),
        )
        self._world.publish_outcome(identity, outcome)
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
        self._watch.catch_up(lambda: self._inbox.world, WORLD_SECONDS)
        return EpisodeReport(
            identity,
            end.reason,
            detail,
            self._watch.answered,
            outcome.success_reward,
            outcome,
            self._inbox.world,
            self._adapter_id,
            bag,
        )
