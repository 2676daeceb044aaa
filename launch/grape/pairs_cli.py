"""`grape pairs`: preference pairs from recorded episodes, in a file that a person can read, edit and train on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from grape.console import CommandError, progress
from grape.score_cli import Bags, TasksFolder

if TYPE_CHECKING:
    from grape_trainer.pairs import Excluded
    from grape_trainer.ranking import Candidate

MAKE = "make"


class BagsOrCommand(TyperGroup):
    """``grape pairs BAGS...`` is ``grape pairs make BAGS...``; a folder named as a command is ``./show``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [MAKE, *args]
        return super().parse_args(ctx, args)


class Ranking(StrEnum):
    balanced = "balanced"
    paper = "paper"
    success = "success"


class EqualSuccess(StrEnum):
    all = "all"
    successes = "successes"
    none = "none"


app = typer.Typer(cls=BagsOrCommand, help="Preference pairs from recorded episodes.", no_args_is_help=True)


@app.command(MAKE)
def make(
    bags: Bags,
    out: Annotated[Path, typer.Option(help="The pairs file; one that is there is not overwritten.")] = Path(
        "pairs.json"
    ),
    objective: Annotated[
        str | None, typer.Option(help="Score towards this objective instead of each episode's own.")
    ] = None,
    ranking: Annotated[Ranking, typer.Option(help="How rollouts of one initial state are ranked.")] = Ranking.balanced,
    m: Annotated[int, typer.Option("--m", min=1, help="Top m of an initial state against its bottom m.")] = 2,
    min_margin: Annotated[
        float, typer.Option(min=0.0, help="Of equal success, only pairs whose rank scores differ by more.")
    ] = 0.0,
    equal_success: Annotated[
        EqualSuccess | None,
        typer.Option(help="Pairs of equal success that are kept. Default: the usual preset's; of other rankings all."),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Only episodes recorded under this adapter, by its whole id; `base`: under none.")
    ] = None,
    tasks: TasksFolder = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, and what was edited in it.")
    ] = False,
) -> None:
    """Score episodes and pair the better with the worse of each initial state; say what is left out, and why."""
    from grape.pairs_show import left_out, summary
    from grape_trainer.pairs import build, write_pairs
    from grape_trainer.settings import settings, usual

    if out.exists() and not overwrite:
        raise CommandError(f"{out}: is there already, and may have been edited; --overwrite replaces it")
    entries = _scored(bags, adapter, objective, tasks)
    told = settings(usual(objective=objective or "") if ranking is Ranking.balanced else "default")
    equal = equal_success.value if equal_success else told.equal_success
    pairs = build(entries, ranking.value, m, min_margin=min_margin, equal=equal)
    write_pairs(out, pairs)
    left_out(pairs)
    summary(str(out), pairs)
    if not pairs.pairs:
        raise CommandError(f"{out}: no pair of a better and a worse episode from the same initial state")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A pairs file.")],
    every: Annotated[bool, typer.Option("--all", help="Every pair, widest margin first.")] = False,
) -> None:
    """Show a pairs file: a line a task, what is left out, the margins, the pairs."""
    from grape.pairs_show import left_out, list_pairs, summary
    from grape_trainer.pairs import read_pairs

    pairs = read_pairs(file)
    left_out(pairs)
    summary(str(file), pairs)
    list_pairs(pairs, every)


def _scored(
    bags: list[Path], adapter: str | None, objective: str | None, tasks: Path | None
) -> list[Candidate | Excluded]:
    from grape_reward.offline import bags_at
    from grape_reward.tasks import library
    from grape_trainer.iteration import score_rollout
    from grape_trainer.rig import Rollout

    wanted = "" if adapter == "base" else adapter
    known = library(tasks)
    found = list(dict.fromkeys(bag.resolve() for path in bags for bag in bags_at(path)))
    entries = []
    with progress("scoring") as report:
        for number, bag in enumerate(found):
            report(number, len(found), bag.name)
            entries.append(score_rollout(Rollout(str(bag), str(bag)), wanted, objective, known)[0])
        report(len(found), len(found), "")
    return entries
