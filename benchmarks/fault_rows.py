"""The rows of fault_matrix.py: how each fault is made, what is waited for, and the promise's bound in seconds."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fault_rig import ACCEPTED, ACTIVE, HOLD, PERIOD, Rig
from lab_node import second_commander, second_policy

from grape_episode.testing import wait_for

PATIENCE = 3.0
"""Seconds that a row waits for the gate's word: more than any bound."""
BEGUN = 1_000
"""Bytes of a bag that has more on the disk than its head."""
STOPPED_EPISODE = "gate_fault"
"""How an episode ends when the gate has stopped."""


@dataclass(frozen=True)
class Found:
    """What a row saw: in words, the seconds that count, the promise's bound, and what was wrong (empty: nothing)."""

    seen: str
    seconds: float
    bound: float
    problem: str = ""


def _fault(rig: Rig, make: Callable[[], object], bound: float, check: str = "", ends: str = "") -> Found:
    """Makes a fault, and measures until the gate's hold or stop and the set point's rest.

    ``check``: the name the gate must give it; ``ends``: how the episode must then end, empty: not looked at."""
    since = time.monotonic()
    make()
    seconds, status = rig.held(since, PATIENCE, check.split())
    at_rest = rig.at_rest(since)
    state = "HOLD" if status.state == HOLD else "STOPPED"
    seen = f"{state} {status.check}: {status.reason}; set point at rest after {at_rest:.3f} s"
    problem = "" if not check or status.check in check.split() else f"named {status.check!r}, expected {check!r}"
    if ends:
        outcome = rig.outcome()
        seen += f"; episode: {outcome}"
        if not outcome.startswith(ends):
            problem = problem or f"the episode ended with {outcome}"
    return Found(seen, max(seconds, at_rest), bound, problem)


def _break(rig: Rig, **faults: object) -> Callable[[], None]:
    def make() -> None:
        for name, value in faults.items():
            setattr(rig.lab.faults, name, value)

    return make


def _no_step(rig: Rig, more: float = 0.0) -> float:
    """Seconds from the last step to the hold that its absence brings."""
    return PERIOD + float(rig.profile["hold_margin"]) + more


def policy_killed(rig: Rig) -> Found:
    found = _fault(rig, lambda: rig.signal("policy", signal.SIGKILL), _no_step(rig))
    rig.stop("policy")
    return found


def policy_hung(rig: Rig) -> Found:
    found = _fault(rig, lambda: rig.signal("policy", signal.SIGSTOP), _no_step(rig))
    rig.signal("policy", signal.SIGCONT)
    outcome = rig.outcome()
    problem = found.problem or ("" if outcome.startswith(STOPPED_EPISODE) else f"the episode ended with {outcome}")
    return Found(f"{found.seen}; woken again, the episode ends: {outcome}", found.seconds, found.bound, problem)


def gate_killed(rig: Rig) -> Found:
    """The arm's set point stays where it was told last; the policy ends the episode when the gate is silent."""
    since = time.monotonic()
    rig.signal("gate", signal.SIGKILL)
    at_rest = rig.at_rest(since)
    outcome = rig.outcome()
    ended = rig.lab.seen.outcomes[-1][0] - since
    rig.stop("gate")
    tick = 1.0 / float(rig.profile["slew_rate"])
    problem = "" if outcome.startswith(STOPPED_EPISODE) else f"the episode ended with {outcome}"
    if ended > 1.5:
        problem = problem or f"the policy went on for {ended:.2f} s"
    return Found(f"set point at rest; after {ended:.2f} s {outcome}", at_rest, tick, problem)


def camera_frozen(rig: Rig) -> Found:
    # one step may still answer a frame that was there before
    return _fault(rig, _break(rig, camera="frozen"), _no_step(rig, PERIOD), "timeout")


def camera_gone(rig: Rig) -> Found:
    return _fault(rig, _break(rig, camera="gone"), _no_step(rig, PERIOD), "timeout")


def clock_jump(rig: Rig) -> Found:
    """The clock of robot and camera jumps an hour ahead of the gate's."""
    return _fault(rig, _break(rig, skew=3600.0), _no_step(rig, PERIOD))


def clock_jump_back(rig: Rig) -> Found:
    return _fault(rig, _break(rig, skew=-3600.0), _no_step(rig, PERIOD))


def robot_state_silent(rig: Rig) -> Found:
    return _fault(rig, _break(rig, state_silent=True), float(rig.profile["state_timeout"]))


def _named(rig: Rig, found: Found) -> Found:
    """The gate stops at once, and finds the stranger's name, which takes a second, behind that."""
    told = wait_for(
        lambda: next((m.reason for _, m in reversed(rig.lab.seen.gate) if "/intruder" in m.reason), ""), "its name"
    )
    return Found(f"{found.seen}; then: {told}", found.seconds, found.bound, found.problem)


def second_publisher(rig: Rig) -> Found:
    """Another node begins to publish steps: the gate looks at the graph every half second."""
    with second_policy(rig.domain):
        return _named(rig, _fault(rig, lambda: None, 1.0, "foreign", STOPPED_EPISODE))


def second_commander_of_the_arm(rig: Rig) -> Found:
    with second_commander(rig.domain):
        return _named(rig, _fault(rig, lambda: None, 1.0, "foreign", STOPPED_EPISODE))


def gripper_server_absent(rig: Rig) -> Found:
    """Counted from the arrival of the first step after the server has left that changes the gripper: the gate judges
    none after it."""
    lab = rig.lab
    lab.run_in_node(lab.drop_gripper)
    try:
        gone = time.monotonic()
        seconds, status = rig.held(gone, 30.0)
        last = max((m.step for _, m in lab.seen.gate if m.verdict == ACCEPTED), default=-1)
        asked = next((when for when, m in lab.seen.steps if m.step > last), gone)
        at_rest = rig.at_rest(asked)
        outcome = rig.outcome()
    finally:
        lab.run_in_node(lab.serve_gripper)
    seen = f"{status.check}: {status.reason}; episode: {outcome}"
    problem = "" if outcome.startswith(STOPPED_EPISODE) else f"the episode ended with {outcome}"
    return Found(seen, max(gone + seconds - asked, at_rest), float(rig.profile["gripper_deadline"]), problem)


def controller_deactivated(rig: Rig) -> Found:
    bound = float(rig.profile["controller_timeout"])
    return _fault(rig, _break(rig, controller="inactive"), bound, "controller", STOPPED_EPISODE)


def user_stop(rig: Rig) -> Found:
    return _fault(rig, _break(rig, mode=5), 0.1, "robot_mode", STOPPED_EPISODE)


def reflex(rig: Rig) -> Found:
    return _fault(rig, _break(rig, mode=4), 0.1, "robot_mode", STOPPED_EPISODE)


def wrench_above_limit(rig: Rig) -> Found:
    return _fault(rig, _break(rig, force=float(rig.profile["max_force"]) + 1.0), 0.1, "wrench", STOPPED_EPISODE)


def joy_lost(rig: Rig) -> Found:
    return _fault(rig, _break(rig, joy=False), float(rig.profile["dead_man"]["timeout"]), "dead_man")


def dead_man_released(rig: Rig) -> Found:
    return _fault(rig, _break(rig, held=False), 0.1, "dead_man")


def trainer_out_of_memory(rig: Rig) -> Found:
    """A training process is ended as the kernel ends one that memory has run out for; the policy goes on."""
    command = [sys.executable, str(Path(__file__).with_name("starved_training.py"))]
    command += [str(rig.model), str(rig.folder / "training")]
    training = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert training.stdout is not None
        pid = int(training.stdout.readline())
        rig.episode()  # the one before has seen the training start, which takes all the cores
        since, steps = time.monotonic(), len(rig.lab.seen.steps)
        os.kill(pid, signal.SIGKILL)
        said = training.communicate(timeout=60.0)[0].strip()
        seconds = time.monotonic() - since
    finally:
        training.kill()
        training.wait()
    problem = "" if "training ended with status" in said else f"the loop was told {said!r}"
    return _goes_on(rig, since, steps, said.split(" (see ")[0], seconds, 10.0, problem)


def _goes_on(rig: Rig, since: float, steps: int, seen: str, seconds: float, bound: float, problem: str) -> Found:
    """What does not concern the arm: the policy makes further steps, and the gate neither holds nor stops."""
    wait_for(lambda: len(rig.lab.seen.steps) > steps + 5, "further steps")
    left = [m.reason for when, m in list(rig.lab.seen.gate) if when > since and m.state != ACTIVE]
    problem = problem or (f"the gate left ACTIVE: {left[0]}" if left else "")
    return Found(f"{seen}; the policy goes on, the gate stays ACTIVE", seconds, bound, problem)


def disk_full(rig: Rig) -> Found:
    """The recorder's files may not grow any more; the policy goes on, the record says that it is cut short."""
    bag = rig.bags / rig.newest_episode()

    def size() -> int:
        return sum(file.stat().st_size for file in bag.iterdir())

    wait_for(lambda: size() > BEGUN, "the first messages on the disk", 20.0)
    since, free = time.monotonic(), resource.RLIM_INFINITY
    resource.prlimit(rig.pid("recorder"), resource.RLIMIT_FSIZE, (size() + 20_000, free))
    try:
        wait_for(lambda: rig.lab.seen.records, "the end of the record", 20.0)
    finally:
        resource.prlimit(rig.pid("recorder"), resource.RLIMIT_FSIZE, (free, free))
    seconds, record = time.monotonic() - since, rig.lab.seen.records[-1]
    problem = "the record calls itself complete" if record.complete else ""
    seen = f"record closed: {'; '.join(record.problems)}"
    return _goes_on(rig, since, len(rig.lab.seen.steps), seen, seconds, 5.0, problem)


ROWS: dict[str, Callable[[Rig], Found]] = {
    run.__name__: run
    for run in (
        wrench_above_limit,
        user_stop,
        reflex,
        joy_lost,
        dead_man_released,
        robot_state_silent,
        controller_deactivated,
        second_publisher,
        second_commander_of_the_arm,
        gripper_server_absent,
        camera_frozen,
        camera_gone,
        clock_jump,
        clock_jump_back,
        disk_full,
        trainer_out_of_memory,
        gate_killed,
        policy_hung,
        policy_killed,
    )
}
