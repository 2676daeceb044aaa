"""The rows of fault_matrix.py: how each fault is made, what is waited for, and the promise's bound in seconds."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fault_rig import HOLD, PERIOD, Rig
from lab_node import second_commander, second_policy

from grape_episode.testing import wait_for

PATIENCE = 3.0
"""Seconds that a row waits for the gate's word: more than any bound."""
HOLDS = "gate_fault"


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
    seconds, status = rig.held(since, PATIENCE)
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
    problem = found.problem or ("" if outcome.startswith(HOLDS) else f"the episode ended with {outcome}")
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
    problem = "" if outcome.startswith(HOLDS) else f"the episode ended with {outcome}"
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


def second_publisher(rig: Rig) -> Found:
    """Another node begins to publish steps: the gate looks at the graph every half second."""
    with second_policy(rig.domain):
        return _fault(rig, lambda: None, 1.0, "foreign", HOLDS)


def second_commander_of_the_arm(rig: Rig) -> Found:
    with second_commander(rig.domain):
        return _fault(rig, lambda: None, 1.0, "foreign", HOLDS)


def gripper_server_absent(rig: Rig) -> Found:
    """Counted from the first step after the server has left that changes the gripper."""
    rig.lab.run_in_node(rig.lab.drop_gripper)
    try:
        since = time.monotonic()
        _, status = rig.held(since, 30.0)
        asked = max((when for when, _ in rig.lab.seen.steps), default=since)
        # the steps that came while the gate waited for the gripper are still in its queue: the one it waits for is the
        # first after the last one that it has judged
        judged = [m.step for _, m in list(rig.lab.seen.gate) if m.verdict]
        waiting = [when for when, m in rig.lab.seen.steps if m.step > max(judged, default=-1)]
        asked = waiting[0] if waiting else asked
        seconds = rig.held(since, 1.0)[0] + since - asked
        at_rest = rig.at_rest(asked)
        outcome = rig.outcome()
    finally:
        rig.lab.run_in_node(rig.lab.serve_gripper)
    seen = f"{status.check}: {status.reason}; episode: {outcome}"
    problem = "" if outcome.startswith(HOLDS) else f"the episode ended with {outcome}"
    return Found(seen, max(seconds, at_rest), float(rig.profile["gripper_deadline"]), problem)


def controller_deactivated(rig: Rig) -> Found:
    bound = float(rig.profile["controller_timeout"])
    return _fault(rig, _break(rig, controller="inactive"), bound, "controller", HOLDS)


def user_stop(rig: Rig) -> Found:
    return _fault(rig, _break(rig, mode=5), 0.1, "robot_mode", HOLDS)


def reflex(rig: Rig) -> Found:
    return _fault(rig, _break(rig, mode=4), 0.1, "robot_mode", HOLDS)


def wrench_above_limit(rig: Rig) -> Found:
    return _fault(rig, _break(rig, force=float(rig.profile["max_force"]) + 1.0), 0.1, "wrench", HOLDS)


def joy_lost(rig: Rig) -> Found:
    return _fault(rig, _break(rig, joy=False), float(rig.profile["dead_man"]["timeout"]), "dead_man")


def dead_man_released(rig: Rig) -> Found:
    return _fault(rig, _break(rig, held=False), 0.1, "dead_man")


def trainer_out_of_memory(rig: Rig) -> Found:
    """A training process loses the memory that it would need; the policy goes on."""
    folder = rig.folder / "training"
    command = [sys.executable, str(Path(__file__).with_name("starved_training.py")), str(rig.model), str(folder)]
    training = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert training.stdout is not None
        pid = int(training.stdout.readline())
        steps, since = len(rig.lab.seen.steps), time.monotonic()
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used, used))
        said = training.communicate(timeout=60.0)[0].strip()
        seconds = time.monotonic() - since
    finally:
        training.kill()
        training.wait()
    wait_for(lambda: len(rig.lab.seen.steps) > steps + 5, "further steps")
    stopped = [m.reason for when, m in rig.lab.seen.gate if when > since and m.state != 1]
    problem = "" if "memory" in said.lower() and "status" in said else f"the loop was told {said!r}"
    problem = problem or (f"the gate left ACTIVE: {stopped[0]}" if stopped else "")
    made = len(rig.lab.seen.steps) - steps
    return Found(f"{said}; the policy made {made} further steps, the gate stayed ACTIVE", seconds, 10.0, problem)


def disk_full(rig: Rig) -> Found:
    """The recorder's files may not grow any more; the policy goes on, the record says that it is cut short."""
    size = sum(file.stat().st_size for file in (rig.bags / rig.newest_episode()).iterdir())
    since = time.monotonic()
    soft = size + 20_000
    resource.prlimit(rig.pid("recorder"), resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
    wait_for(lambda: rig.lab.seen.records, "the record's end", 20.0)
    seconds, record = time.monotonic() - since, rig.lab.seen.records[-1]
    steps = len(rig.lab.seen.steps)
    wait_for(lambda: len(rig.lab.seen.steps) > steps + 5, "further steps")
    resource.prlimit(rig.pid("recorder"), resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    stopped = [m.reason for when, m in rig.lab.seen.gate if when > since and m.state != 1]
    problem = "the record calls itself complete" if record.complete else ""
    problem = problem or (f"the gate left ACTIVE: {stopped[0]}" if stopped else "")
    seen = f"record closed: {'; '.join(record.problems)}; the policy went on"
    return Found(seen, seconds, 5.0, problem)


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
