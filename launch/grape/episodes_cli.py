"""`grape episodes`: what people decide about recorded episodes."""

from __future__ import annotations

import getpass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from grape.console import console, table
from grape.score_cli import Bags

app = typer.Typer(help="Recorded episodes, and what people decide about them.", no_args_is_help=True)


class Success(StrEnum):
    yes = "yes"
    no = "no"


@app.command()
def review(
    bags: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    success: Annotated[Success, typer.Option(help="Whether the task was done.")],
    note: Annotated[str, typer.Option(help="What was looked at, for whoever asks later.")],
    who: Annotated[str, typer.Option(help="Who says so. Default: the user's name on this machine.")] = "",
) -> None:
    """Decide whether the task was done in episodes that the predicate cannot decide: the last word counts.

    It goes into reviews.jsonl in the bag's folder; the recording itself is not touched."""
    from grape_episode.reader import read_identity
    from grape_reward.offline import bags_at
    from grape_reward.reviews import add_review

    found = [bag.parent if bag.is_file() else bag for path in bags for bag in bags_at(path)]
    # every bag is opened before the first word is written: all of them are decided on, or none
    named = [(bag, read_identity(bag).episode_id) for bag in found]
    for bag, episode_id in named:
        console.print(
            f"{bag}: {add_review(bag, episode_id, success.value, who or getpass.getuser(), note)}", markup=False
        )


@app.command()
def reviews(bags: Bags) -> None:
    """List what has been decided, oldest first."""
    from grape_reward.offline import bags_at
    from grape_reward.reviews import read_reviews

    rows = []
    for bag in (bag.parent if bag.is_file() else bag for path in bags for bag in bags_at(path)):
        rows += [[bag.name, one.success, one.who, one.when, one.note] for one in read_reviews(bag)]
    table("reviews", ["episode", "success", "who", "when", "note"], rows)
