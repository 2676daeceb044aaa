import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_episode.geometry import Pose
from grape_policy.observation import Frame, GateSample, History, Inbox, TaskSample

POSE = Pose(np.array([0.4, 0.0, 0.3]))


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(0, 60), st.integers(0, 60))
def test_history_finds_what_a_plain_search_finds(stamps: list[int], asked: int, within: int) -> None:
    history: History[int] = History(100)
    for order, stamp in enumerate(stamps):
        history.put(stamp, order)
    newest = {stamp: order for order, stamp in enumerate(stamps)}
    assert history.at(asked) == newest.get(asked)
    eligible = [stamp for stamp in newest if asked - within <= stamp <= asked]
    assert history.before(asked, within / 1e9) == (newest[max(eligible)] if eligible else None)


def test_history_forgets_the_oldest_and_never_the_newest() -> None:
    history: History[int] = History(3)
    for stamp in (10, 20, 30, 40):
        history.put(stamp, stamp)
    history.put(5, 5)
    assert [history.at(stamp) for stamp in (5, 10, 20, 30, 40)] == [None, None, 20, 30, 40]


def test_the_newest_frame_wins() -> None:
    inbox = Inbox()
    inbox.put_frame(Frame(1, 0.0, b"first"))
    inbox.put_frame(Frame(2, 0.1, b"second"))
    frame = inbox.wait(lambda: inbox.frame, 0.0)
    assert frame is not None and frame.data == b"second"


def test_only_the_running_episode_is_kept() -> None:
    inbox = Inbox()
    inbox.begin("now")
    inbox.put_task(TaskSample(1, "before", 0, 1))
    inbox.put_gate(GateSample(0.0, "before", 1, 4, 2, "box", "outside"))
    assert inbox.task is None and not inbox.verdicts
    assert inbox.gate is not None, "the gate's state counts whatever it is armed for"
    inbox.put_task(TaskSample(1, "now", 0, 1))
    inbox.put_gate(GateSample(0.0, "now", 1, 4, 2, "box", "outside"))
    assert inbox.task is not None and len(inbox.verdicts) == 1
    inbox.begin("next")
    assert inbox.task is None and inbox.gate is None and not inbox.verdicts


def test_wait_wakes_on_arrival_long_before_its_poll() -> None:
    inbox = Inbox()
    threading.Timer(0.05, inbox.put_width, (7, 0.04)).start()
    began = time.monotonic()
    assert inbox.wait(lambda: inbox.width.at(7), 10.0, poll=10.0) == 0.04
    assert time.monotonic() - began < 5.0


def test_wait_gives_up_at_its_deadline_and_lets_errors_through() -> None:
    inbox = Inbox()
    assert inbox.wait(lambda: inbox.frame, 0.02) is None

    def fail() -> None:
        raise KeyError("from the check")

    with pytest.raises(KeyError, match="from the check"):
        inbox.wait(fail, 1.0)


def test_a_failure_is_not_covered_by_what_comes_after_until_the_next_goal() -> None:
    inbox = Inbox()
    inbox.stop("cancelled by the client")
    inbox.stop("the inference process is gone", failed=True)
    inbox.stop("the node is deactivated", leaving=True)
    assert (inbox.stop_reason, inbox.failed, inbox.leaving) == ("the inference process is gone", True, True)
    inbox.clear_stop()
    assert (inbox.stop_reason, inbox.failed, inbox.leaving) == (None, False, False)


def test_waking_has_the_waiting_look_again() -> None:
    inbox, done = Inbox(), threading.Event()
    threading.Timer(0.05, lambda: (done.set(), inbox.wake())).start()
    began = time.monotonic()
    assert inbox.wait(lambda: done.is_set() or None, 10.0, poll=10.0)
    assert time.monotonic() - began < 5.0


def test_what_was_said_before_a_clock_was_set_back_is_forgotten() -> None:
    history: History[str] = History(3)
    for number in range(3):
        history.put(3_600_000_000_000 + number, "ahead")
    history.put(1_000_000_000, "now")
    assert history.before(1_000_000_001, 0.1) == "now"
    # a late message is none
    history.put(900_000_000, "late")
    assert history.before(950_000_000, 0.1) == "late" and history.before(1_000_000_001, 0.1) == "now"
