"""Waiting for the world's reset, which in a lab takes people's time: its own deadline, and a cancel ends it at once."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rclpy.task import Future

from grape_episode.synthetic import make_episode
from grape_policy.ending import CANCELLED, ERROR, GATE_FAULT, EpisodeEnd
from grape_policy.observation import STOPPED, GateSample, Inbox
from grape_policy.parameters import PARAMETERS, EpisodeSettings
from grape_policy.ros import Outlets, RosPorts

IDENTITY = make_episode(seed=1, steps=1).identity
SETTINGS = EpisodeSettings.read({parameter.name: parameter.default for parameter in PARAMETERS}.__getitem__)


class Silent:
    """A client of a service that never answers."""

    def __init__(self) -> None:
        self.pending: list[Future] = []

    def call_async(self, request: object) -> Future:
        self.pending.append(Future())
        return self.pending[-1]

    def remove_pending_request(self, future: Future) -> None:
        self.pending.remove(future)


def ends(inbox: Inbox, settings: EpisodeSettings) -> EpisodeEnd:
    client = Silent()
    outlets = cast(Outlets, SimpleNamespace(reset_world=client))
    ports = RosPorts(cast(Any, None), outlets, inbox, cast(Any, None), settings, lambda told: None)
    with pytest.raises(EpisodeEnd) as end:
        ports.reset_world(IDENTITY)
    assert not client.pending
    return end.value


def test_the_reset_has_a_deadline_of_its_own() -> None:
    end = ends(Inbox(), replace(SETTINGS, reset_deadline=0.3, deadline=60.0))
    assert (end.reason, end.detail) == (ERROR, "no answer from /grape/reset_world after 0.3 s")


def test_a_cancel_does_not_wait_for_it() -> None:
    inbox, began = Inbox(), time.monotonic()
    timer = threading.Timer(0.2, lambda: inbox.stop("cancelled by the client"))
    timer.start()
    end = ends(inbox, replace(SETTINGS, reset_deadline=60.0))
    assert (end.reason, end.detail) == (CANCELLED, "cancelled by the client") and time.monotonic() - began < 20.0
    timer.join()


def test_a_gate_that_stops_meanwhile_ends_it() -> None:
    inbox = Inbox()
    inbox.put_gate(GateSample(0.0, IDENTITY.episode_id, STOPPED, 0, 0, "wrench", "40 N"))
    assert ends(inbox, replace(SETTINGS, reset_deadline=60.0)).reason == GATE_FAULT
