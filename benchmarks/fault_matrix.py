"""How long from a fault to the arm's hold or stop, over real processes and topics at 10 Hz?

    python benchmarks/fault_matrix.py

Gate, policy (a small random one, in its own process) and recorder run as a lab runs them; the lab itself is made up
(``lab_node``): an arm that follows, a camera, a gripper, a gamepad. Each row breaks one thing while an episode runs and
takes the time until the gate says HOLD or STOPPED on /grape/gate_status, and until the set point on /target_pose is at
rest; the later of the two counts, against the promise's bound and ``SLACK`` for the way of a message. Every episode is
recorded; afterwards each bag is read, or recovered.

Prints a table on stderr and one JSON object; exits with 1 where a promise is missed or a record cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _paths
from fault_rig import Rig
from fault_rows import ROWS, Found
from rich.console import Console
from rich.table import Table

from grape_episode.testing import Timeout

SLACK = 0.05
"""Seconds of a message's way and of a timer's grain, on top of every promise: the gate's own timer has 0.02."""
ATTEMPTS = 4
"""To get an episode under way: on a machine that others use, it may end before anything is broken."""
HALF = ("wrench_above_limit", "user_stop", "joy_lost", "robot_state_silent", "controller_deactivated")
HALF += ("second_publisher", "camera_gone", "policy_killed")
"""The rows of ``--half``: the cheaper ones, in this order; the last leaves no policy behind."""


def measure(rig: Rig, name: str, slack: float) -> dict[str, Any]:
    """One row: the fault, what was seen, seconds, the bound, whether it was met."""
    seen, problem, seconds, bound = "", "", None, None
    try:
        begin(rig)
        found: Found = ROWS[name](rig)
        seen, seconds, bound, problem = found.seen, found.seconds, found.bound, found.problem
    except (AssertionError, RuntimeError) as error:  # a wait in vain, or a process that has ended
        problem = str(error)
    return {
        "fault": name,
        "seen": seen or problem,
        "seconds": None if seconds is None else round(seconds, 3),
        "bound": bound,
        "pass": not problem and seconds is not None and bound is not None and seconds <= bound + slack,
        "problem": problem,
        "episode": rig.newest_episode(),
    }


def begin(rig: Rig) -> None:
    """An episode is under way. Raises Timeout."""
    for attempt in range(ATTEMPTS):
        try:
            return rig.episode()
        except Timeout:
            if attempt + 1 == ATTEMPTS:
                raise


def show(rows: list[dict[str, Any]], slack: float, console: Console) -> None:
    table = Table(title=f"from the fault to hold or stop, seconds; bound: the promise, and {slack:g} s for the way")
    for name in ("fault", "seen", "seconds", "bound", "pass", "record"):
        table.add_column(name, overflow="fold")
    for row in rows:
        cells = (row["fault"], row["seen"], row["seconds"], row["bound"], "yes" if row["pass"] else "NO", row["record"])
        table.add_row(*("-" if cell is None else str(cell) for cell in cells))
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=sorted(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--half", action="store_true", help="the cheaper half")
    parser.add_argument("--profile", type=Path, default=_paths.ROOT / "launch/params/gate_real.yaml")
    parser.add_argument("--slack", type=float, default=SLACK, help="seconds on top of every promise")
    parser.add_argument("--keep", type=Path, help="folder of logs and bags; default: one that is removed")
    arguments = parser.parse_args()
    names = arguments.rows or (HALF if arguments.half else tuple(ROWS))
    console = Console(stderr=True)
    from grape_policy.testing import write_random_checkpoint  # torch: seconds

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        model = write_random_checkpoint(folder / "model", max_translation=0.008, max_rotation=0.02)
        rows = []
        with console.status("starting") as status, Rig(folder, model, arguments.profile) as rig:
            for name in names:
                status.update(name)
                rows.append(measure(rig, name, arguments.slack))
                verdict = "met" if rows[-1]["pass"] else "MISSED"
                console.print(f"{name}: {verdict}: {rows[-1]['seconds']} s: {rows[-1]['seen']}")
            rig.finish()
            for kind in ("policy", "recorder"):
                rig.stop(kind)
            for row in rows:
                row["record"] = rig.record(row.pop("episode"))
        show(rows, arguments.slack, console)
    report = {"rows": rows, "period": 0.1, "slack": arguments.slack, "date": time.strftime("%Y-%m-%d")}
    readable = all(row["record"].startswith(("whole", "recovered")) for row in rows)
    report["met"] = readable and all(row["pass"] for row in rows)
    print(json.dumps(report))
    return 0 if report["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
