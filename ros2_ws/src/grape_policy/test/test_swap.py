import threading
from pathlib import Path

import pytest

from grape_policy.decision import AdapterInfo
from grape_policy.errors import AdapterError, ProcessEndedError
from grape_policy.swap import AdapterSwitch


class Slots:
    """An engine without a model: a name is an adapter, `bad` is refused, a load may be held up."""

    def __init__(self) -> None:
        self.serving = AdapterInfo("", 0, "base", "", 0)
        self.previous: AdapterInfo | None = None
        self.staged: AdapterInfo | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.gone = False

    def load_adapter(self, folder: Path | None) -> AdapterInfo:
        assert self.gate.wait(10.0)
        if self.gone:
            raise ProcessEndedError("killed")
        if folder is not None and folder.name == "bad":
            raise AdapterError("bad: refused")
        self.staged = AdapterInfo(folder.name if folder else "", self.serving.adapter_seq, "base", str(folder), 2)
        return self.staged

    def flip(self) -> AdapterInfo:
        assert self.staged is not None
        return self._serve(self.staged)

    def rollback(self) -> AdapterInfo:
        assert self.previous is not None
        return self._serve(self.previous)

    def _serve(self, to: AdapterInfo) -> AdapterInfo:
        if self.gone:
            raise ProcessEndedError("killed")
        self.previous, self.staged = self.serving, None
        self.serving = AdapterInfo(to.adapter_id, self.serving.adapter_seq + 1, "base", to.path, to.rank)
        return self.serving


@pytest.fixture
def slots() -> Slots:
    return Slots()


@pytest.fixture
def switch(slots: Slots) -> AdapterSwitch:
    return AdapterSwitch(slots)


def test_between_episodes_a_load_serves_at_once(switch: AdapterSwitch) -> None:
    reply = switch.load(Path("a"), force=False)
    assert reply.accepted and not reply.pending
    assert (reply.adapter.adapter_id, reply.adapter.adapter_seq) == ("a", 1) == (switch.serving.adapter_id, 1)


def test_within_an_episode_a_load_waits_for_its_end(switch: AdapterSwitch) -> None:
    assert switch.begin_episode().adapter_id == ""
    assert switch.load(Path("a"), force=False).pending
    assert switch.serving.adapter_id == "" and [known.adapter_id for known in switch.known()] == ["a"]
    switch.end_episode()
    assert switch.serving.adapter_id == "a" and [known.adapter_id for known in switch.known()] == [""]
    assert switch.serving.adapter_seq == 1, "one flip, not two"
    switch.end_episode()
    assert switch.serving.adapter_seq == 1


def test_force_flips_within_an_episode_and_the_last_load_counts(switch: AdapterSwitch) -> None:
    switch.begin_episode()
    switch.load(Path("a"), force=False)
    assert not switch.load(Path("b"), force=True).pending
    assert switch.serving.adapter_id == "b"
    switch.end_episode()
    assert switch.serving.adapter_id == "b"


def test_a_refused_load_changes_nothing_not_even_what_is_pending(switch: AdapterSwitch) -> None:
    switch.begin_episode()
    switch.load(Path("a"), force=False)
    reply = switch.load(Path("bad"), force=True)
    assert not reply.accepted and reply.reason == "bad: refused" and reply.adapter.adapter_id == ""
    switch.end_episode()
    assert switch.serving.adapter_id == "a"


def test_rollback_returns_to_what_served_before(switch: AdapterSwitch) -> None:
    assert not switch.rollback(force=True).accepted
    switch.load(Path("a"), force=False)
    switch.load(Path("b"), force=False)
    switch.begin_episode()
    assert switch.rollback(force=False).pending and switch.serving.adapter_id == "b"
    switch.end_episode()
    assert (switch.serving.adapter_id, switch.serving.adapter_seq) == ("a", 3)
    assert switch.load(None, force=False).adapter.adapter_id == ""


def test_a_load_across_the_end_of_an_episode_serves_the_next(slots: Slots, switch: AdapterSwitch) -> None:
    switch.begin_episode()
    slots.gate.clear()
    loader = threading.Thread(target=switch.load, args=(Path("a"), False))
    loader.start()
    ended = threading.Thread(target=switch.end_episode)
    ended.start()
    ended.join(0.05)
    assert ended.is_alive(), "the end waits for the load under way"
    slots.gate.set()
    loader.join(10.0)
    ended.join(10.0)
    assert switch.begin_episode().adapter_id == "a"


def test_an_engine_that_is_gone_refuses_and_holds_nothing_pending(slots: Slots, switch: AdapterSwitch) -> None:
    switch.load(Path("a"), force=False)
    switch.begin_episode()
    switch.load(Path("b"), force=False)
    slots.gone = True
    for reply in (switch.load(Path("c"), force=True), switch.rollback(force=True)):
        assert not reply.accepted and reply.reason == "killed" and reply.adapter.adapter_id == "a"
    switch.load(Path("b"), force=False)
    switch.end_episode()
    assert switch.serving.adapter_id == "a"


def test_the_end_of_an_episode_says_that_the_engine_is_gone(slots: Slots, switch: AdapterSwitch) -> None:
    switch.begin_episode()
    switch.load(Path("a"), force=False)
    slots.gone = True
    with pytest.raises(ProcessEndedError, match="killed"):
        switch.end_episode()
    switch.end_episode()
