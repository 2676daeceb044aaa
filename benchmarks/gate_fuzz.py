"""Can anything make the gate send the arm beyond its profile's limits, crash it, or keep it busy for long?

    python benchmarks/gate_fuzz.py --n 1000000

Judges ``--n`` steps of streams in which everything goes wrong (``gate_streams``), under the three shipped profiles,
with the timers and the set point's slew in between. What the gate lets pass is examined by ``gate_checker``, which
shares no code with it. A finding, or any exception, is cut down to a short stream and printed as one line of JSON on
stderr, which ``--replay FILE`` plays again.

Prints one JSON object; times in microseconds, of one ``judge``, by the wall's clock: run it where nobody else computes.
``cpu`` beside them is the processor's time of the same judgements, which tells what others took of the wall's; what is
held against ``--limit`` is the wall's. How far it is goes to stderr. Exits with 1 where there is a finding or a crash,
or where p99 is above ``--limit``.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gate_player import PARAMS, PROFILES, Failure, Player
from gate_rules import limits_of
from gate_streams import Event, Stream
from rich.console import Console
from rich.progress import Progress

CHUNK = 20
"""Streams that a worker plays between two words of its progress."""
EVERY = 20.0
"""Seconds between two words of how far it is, where nobody sees a bar."""
FINDINGS = 5
"""Failing streams that are cut down and printed; the others are counted."""


def play(profile: str, seed: int, number: int, times: Any) -> tuple[list[Event], Failure | None, Counter[str]]:
    """One stream: its events up to the first failure, that failure, and how often what was said."""
    path = PARAMS / f"gate_{profile}.yaml"
    stream, player = Stream(limits_of(path), seed, number), Player(path, times)
    played: list[Event] = []
    for event in stream.events():
        played.append(event)
        failure = player.apply(event)
        if failure is not None:
            return played, failure, player.said
        stream.follow(player.setpoint, player.stopped)
    return played, None, player.said


def replay(profile: str, events: list[Event]) -> Failure | None:
    """The first failure of a stream that is written down."""
    player = Player(PARAMS / f"gate_{profile}.yaml", defaultdict(list))
    return next((failure for event in events if (failure := player.apply(event)) is not None), None)


def shrink(profile: str, events: list[Event], failure: Failure) -> list[Event]:
    """The stream without what it does not need to fail in the same way: ever smaller parts are left out."""
    size = max(1, len(events) // 2)
    while size:
        start = 0
        while start < len(events):
            fewer = events[:start] + events[start + size :]
            found = replay(profile, fewer)
            if found is not None and found.kind == failure.kind:
                events = fewer
            else:
                start += size
        size //= 2
    return events


def worker(work: tuple[int, int, int]) -> dict[str, Any]:
    """``CHUNK`` streams of a seed from a number on, at most ``most`` judgements."""
    seed, first, most = work
    times: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    said: Counter[str] = Counter()
    failures = []
    judged = 0
    for number in range(first, first + CHUNK):
        if judged >= most:
            break
        gc.freeze()  # as the node does: what the benchmark itself has gathered is not for the gate to look through
        profile = PROFILES[number % len(PROFILES)]
        events, failure, words = play(profile, seed, number, times)
        said += words
        judged = sum(map(len, times.values()))
        if failure is not None:
            failures.append({"profile": profile, "stream": number, "failure": failure, "events": events})
    return {"times": dict(times), "said": said, "failures": failures, "judged": judged}


def percentiles(nanoseconds: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Microseconds of the wall's clock; ``cpu``: of the processor, without what others took of it."""
    wall, work = np.array(list(nanoseconds)).T / 1e3
    return {**_ranks(wall), "samples": len(wall), "cpu": _ranks(work)}


def _ranks(values: Any) -> dict[str, float]:
    ranks = {f"p{rank:g}": round(float(np.percentile(values, rank)), 1) for rank in (50, 99, 99.9)}
    return {**ranks, "max": round(float(values.max()), 1)}


def fuzz(count: int, seed: int, workers: int, console: Console) -> dict[str, Any]:
    """The report."""
    times: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    said: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    judged, began = 0, time.monotonic()
    told = began

    def rounds() -> Iterator[tuple[int, int, int]]:
        first = 0
        while judged < count:
            yield seed, first, count
            first += CHUNK

    with Progress(console=console, disable=not console.is_terminal) as shown:
        bar = shown.add_task("judged", total=count)
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            waiting: list[Any] = []
            todo = rounds()
            while judged < count:
                while len(waiting) < 2 * workers:
                    waiting.append(pool.apply_async(worker, (next(todo),)))
                done = waiting.pop(0).get()
                judged += done["judged"]
                said += done["said"]
                failures += done["failures"]
                for check, values in done["times"].items():
                    times[check] += values
                shown.update(bar, completed=min(judged, count))
                now = time.monotonic()
                if not console.is_terminal and now - told > EVERY:
                    told, left = now, (now - began) * max(count - judged, 0) / judged
                    console.print(f"judged {judged} of {count}, {len(failures)} fail, about {left:.0f} s left")
    for failed in failures[:FINDINGS]:
        report(failed, console)
    kinds = Counter(failed["failure"].kind for failed in failures)
    return {
        "judged": judged,
        "accepted": said["accepted"],
        "told": said["told"],
        "moved": said["moved"],
        "stops": said["stop"],
        "findings": sum(number for kind, number in kinds.items() if not kind.startswith("crash")),
        "crashes": sum(number for kind, number in kinds.items() if kind.startswith("crash")),
        "kinds": dict(kinds),
        "judge_us": percentiles([value for values in times.values() for value in values]),
        "checks_us": {check or "accepted": percentiles(times[check]) for check in sorted(times)},
        "seconds": round(time.monotonic() - began, 1),
        "workers": workers,
        "seed": seed,
    }


def report(failed: dict[str, Any], console: Console) -> None:
    """One line of JSON with a stream that fails, as short as it could be made."""
    profile, failure = failed["profile"], failed["failure"]
    events = shrink(profile, failed["events"], failure)
    last = replay(profile, events) or failure
    line = {"profile": profile, "stream": failed["stream"], "kind": last.kind, "what": last.what, "events": events}
    console.print(json.dumps(line), markup=False, highlight=False, soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="steps to judge")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=max(1, multiprocessing.cpu_count()))
    parser.add_argument("--limit", type=float, default=50.0, help="microseconds of one judge at p99")
    parser.add_argument("--replay", type=Path, help="play a printed finding (one line of JSON) again")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    if arguments.replay:
        failed = json.loads(arguments.replay.read_text(encoding="utf-8"))
        failure = replay(failed["profile"], failed["events"])
        print(json.dumps({"kind": failure.kind, "what": failure.what} if failure else {}))
        return 1 if failure else 0
    found = fuzz(arguments.n, arguments.seed, arguments.workers, console)
    found["limit_us"] = arguments.limit
    found["met"] = not found["kinds"] and found["judge_us"]["p99"] <= arguments.limit
    print(json.dumps(found))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
