"""`grape export`: recorded episodes in a format that other people's trainers read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grape.console import CommandError, console, errors
from grape.score_cli import TasksFolder, Unapproved


class Format(StrEnum):
    lerobot = "lerobot"


class Ranking(StrEnum):
    balanced = "balanced"
    paper = "paper"
    success = "success"
    none = "none"


def export(
    out: Annotated[Path, typer.Option(help="New folder of the dataset; one that is there is never overwritten.")],
    bags: Annotated[
        list[Path] | None, typer.Argument(help="Bags, or folders of bags. Default: those that --pairs names.")
    ] = None,
    format: Annotated[Format, typer.Option(help="LeRobot's dataset format v3.0.")] = Format.lerobot,
    pairs: Annotated[
        Path | None, typer.Option(help="Pairs file whose pairs go beside. Default: pairs made by --ranking.")
    ] = None,
    ranking: Annotated[
        Ranking, typer.Option(help="How pairs are made where no pairs file is given; none: no pairs.")
    ] = Ranking.balanced,
    m: Annotated[int, typer.Option(min=1, help="Pairs are the m best against the m worst of an initial state.")] = 2,
    objective: Annotated[
        str | None, typer.Option(help="Score towards this objective instead of each episode's own.")
    ] = None,
    scores: Annotated[bool, typer.Option(help="Score the episodes; pairs are made of scored ones only.")] = True,
    score_file: Annotated[
        Path | None, typer.Option(help="Take the scores from this .jsonl of `grape score --out` instead.")
    ] = None,
    tasks: TasksFolder = None,
    unapproved: Unapproved = False,
) -> None:
    """Export episodes with the exact images that the model saw, and preference pairs by id.

    Exit 1 where a bag had to be skipped; the others are exported."""
    from grape_reward.offline import Scoring
    from grape_reward.tasks import library
    from grape_trainer.export.lerobot import Export, export_lerobot
    from grape_trainer.export.scores import Scorer, read_scores

    if not scores and score_file is None and pairs is None and ranking is not Ranking.none:
        raise CommandError("--no-scores leaves nothing to make pairs of: add --ranking none, or --pairs FILE")
    scorer: Scorer | None = None
    if score_file is not None:
        scorer = read_scores(score_file)
    elif scores:
        scorer = Scoring(objective=objective, tasks=library(tasks), unapproved=unapproved).score
    told = Export(
        paths=tuple(bags or ()),
        out=out,
        scorer=scorer,
        pairs=pairs,
        ranking="" if ranking is Ranking.none else ranking.value,
        m=m,
    )
    with _bars("reading", "writing") as (reading, writing):
        done = export_lerobot(told, reading, writing)
    beside = "" if done.pairs is None else f", {done.pairs} pairs"
    console.print(
        f"{done.folder}: {done.episodes} episodes, {done.frames} frames{beside}", markup=False, soft_wrap=True
    )
    if done.lost:
        print(f"grape: {done.lost} pairs name an episode that is not exported: grape/pairs.json", file=sys.stderr)
    if done.unscored and scorer is not None:
        print(f"grape: {len(done.unscored)} episodes have no score; the first: {done.unscored[0]}", file=sys.stderr)
    if done.unknown:
        named = f"{done.unknown[0]}{f' and {len(done.unknown) - 1} more' if len(done.unknown) > 1 else ''}"
        print(f"grape: next.reward and next.success left out: success unknown in {named}", file=sys.stderr)
    for bag, reason in done.skipped:
        print(f"grape: skipped {reason if str(bag) in reason else f'{bag}: {reason}'}", file=sys.stderr)
    if done.skipped:
        raise CommandError(f"{len(done.skipped)} of {len(done.skipped) + done.episodes} bags were skipped")


@contextmanager
def _bars(*titles: str) -> Iterator[tuple[Callable[[int, int, str], None], ...]]:
    """A bar a phase on stderr: what is printed on stdout is the result alone."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=errors, transient=not errors.is_terminal) as bars:

        def teller(title: str) -> Callable[[int, int, str], None]:
            row = bars.add_task(title, total=None, said="")

            def tell(done: int, total: int, said: str) -> None:
                bars.update(row, completed=done, total=total, said=said[:60])

            return tell

        yield tuple(map(teller, titles))
