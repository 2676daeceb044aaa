"""Film strips of single trials: rollouts are repeatable, so a trial is run again with its images.

A strip that shows the recorded rollout, token by token, is kept as a file, and not run a second time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from grape import charts
from grape.evaluation import Job, Progress, Result
from grape.suites import Suite
from grape.worlds import Plan, decoding, trials
from grape_sim.scene import instruction_of
from grape_trainer.files import write_bytes


@dataclass(frozen=True)
class Cell:
    """What is shown of a suite: one state, and every policy's trial there with how it is called."""

    suite: str
    title: str
    trials: tuple[tuple[str, Result], ...]


@dataclass(frozen=True)
class Strip:
    """What a policy saw in a trial. ``uri``: a PNG as a data URI, empty where the trial had no step."""

    caption: str
    uri: str


@dataclass(frozen=True)
class Film:
    """The strips of a cell, to be looked at one above the other."""

    title: str
    strips: tuple[Strip, ...]


class Repeats(Protocol):
    """Runs jobs again with their images: a ``ClosedLoop``."""

    def run(self, job: Job): ...  # a closed_loop.Rollout, whose module imports the engine


def cells(plan: Plan, results: Sequence[Result]) -> list[Cell]:
    """At most two a suite, in the plan's first decoding: the first state where the first policy fails and the last
    succeeds, and the first where it is the other way round. Of a policy alone: its first failure and success.

    A pair is of the same training seed, the lowest that has such a state."""
    known = {result.job.key: result for result in results}
    found = []
    for suite in plan.suites:
        for last_succeeds in (True, False):
            if cell := _first(plan, suite, known, last_succeeds):
                found.append(cell)
    return found


def _first(plan: Plan, suite: Suite, known: dict[str, Result], last_succeeds: bool) -> Cell | None:
    temperature = plan.temperatures[0]
    first, last = plan.policies[0], plan.policies[-1]
    for number in range(max(len(policy.adapters) for policy in (first, last))):
        sides = []
        for policy in dict.fromkeys((first, last)):
            seed = min(number, len(policy.adapters) - 1)
            jobs = trials(plan, suite, policy, seed, temperature)
            name = policy.name + (f", training seed {seed + 1}" if len(policy.adapters) > 1 else "")
            sides.append([(name, known[job.key]) for job in jobs])
        for shown in zip(*sides, strict=True):
            outcomes = [result.success for _, result in shown]
            if outcomes[-1] == last_succeeds and (len(outcomes) == 1 or outcomes[0] != last_succeeds):
                told = ", ".join(f"{name} {_verdict(result)}" for name, result in shown)
                job = shown[0][1].job
                where = f"{suite.name}, {job.task.replace('_', ' ')}, initial state {job.initial_state}"
                return Cell(suite.name, f"{where}, {decoding(temperature)}: {told}", shown)
    return None


def films(
    chosen: Sequence[Cell], folder: Path, start: Callable[[], Repeats], progress: Progress | None = None
) -> list[Film]:
    """The cells' strips. ``folder``: where strips are kept; ``start``: gives what runs a trial again, called when the
    first is needed."""
    loop: Repeats | None = None
    total, done = sum(len(cell.trials) for cell in chosen), 0
    made = []
    for cell in chosen:
        strips = []
        for name, recorded in cell.trials:
            path = folder / f"{_mark(recorded)}.png"
            kept = _kept(path)
            repeated = recorded
            if kept is None:
                loop = loop or start()
                kept, repeated = _again(loop, recorded, path)
            strips.append(Strip(_caption(name, recorded, repeated), kept))
            done += 1
            if progress:
                progress(done, total, cell.title)
        made.append(Film(cell.title, tuple(strips)))
    return made


def _again(loop: Repeats, recorded: Result, path: Path) -> tuple[str, Result]:
    """Run a trial again: its strip, and how it ended this time."""
    rollout = loop.run(recorded.job)
    images = rollout.episode.images
    if not len(images):
        return "", rollout.result
    # 256 colours a strip: a report of many suites stays of a size that can be sent
    strip = charts.film_strip(images).quantize(256, method=Image.Quantize.MEDIANCUT)
    if rollout.result.tokens_hash == recorded.tokens_hash:
        content = io.BytesIO()
        strip.save(content, format="PNG", optimize=True)
        write_bytes(path, content.getvalue())
    return charts.as_data_uri(strip), rollout.result


def _kept(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
            return charts.as_data_uri(image)
    except (OSError, SyntaxError):  # missing, or no whole PNG: Pillow raises SyntaxError for a broken one
        return None


def _mark(recorded: Result) -> str:
    told = f"{recorded.job.key} {recorded.adapter_id} {recorded.tokens_hash}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _caption(name: str, recorded: Result, repeated: Result) -> str:
    job = recorded.job
    words = instruction_of(job.task, job.variant, job.initial_state)
    told = f"{name}: “{words}”; {_ending(recorded)}."
    if not recorded.tokens_hash:
        return f"{told} The record has no hash of its tokens: whether this is the same rollout is not known."
    if repeated.tokens_hash != recorded.tokens_hash:
        return f"{told} What is shown is not that rollout: run again, its tokens differ ({_ending(repeated)})."
    return told


def _ending(result: Result) -> str:
    """Judgement, steps, why it ended, and what else the world saw."""
    parts = [f"{_verdict(result)} after {result.steps} steps ({result.end_reason.replace('_', ' ')})"]
    if not result.success:
        parts.append("grasped" if result.grasp else "never grasped")
    if result.mistaken:
        parts.append("took the wrong candidate")
    parts.append("COLLISION" if result.collision else "no collision")
    return ", ".join(parts)


def _verdict(result: Result) -> str:
    return "succeeds" if result.success else "fails"
