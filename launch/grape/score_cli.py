"""`grape score`: score recorded episodes offline, exactly as the reward node does live."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grape.console import CommandError, progress, table

if TYPE_CHECKING:
    from grape_reward.offline import ScoreTable

Bags = Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")]
TasksFolder = Annotated[
    Path | None, typer.Option("--tasks", help="Folder of task folders of your own; the shipped tasks come after them.")
]
Unapproved = Annotated[
    bool, typer.Option("--unapproved", help="Score also by cost programs that nobody has approved; the score says so.")
]


def score(
    bags: Bags,
    objective: Annotated[
        str | None, typer.Option(help="Score towards this objective instead of each episode's own.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the scores there: .parquet, .csv, .json, or .jsonl, one score a line.")
    ] = None,
    tasks: TasksFolder = None,
    unapproved: Unapproved = False,
    weights: Annotated[str, typer.Option("--lambdas", help="Weights of Eq. 10: paper, or 'a,b,c'.")] = "paper",
    stage_points: Annotated[
        Path | None, typer.Option(help="JSON of points at which stages end, instead of the tasks' conditions.")
    ] = None,
    starts: Annotated[
        Path | None, typer.Option("--track", help="Follow the keypoints in this folder in the recorded images.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="The camera's calibration, for --track.")] = None,
) -> None:
    """Score recorded episodes offline, exactly as the reward node does live. Exit 1 where a bag had to be skipped."""
    from grape_reward.frames import TrackingSetup
    from grape_reward.gcpg import lambdas_named
    from grape_reward.offline import Scoring, score_bags
    from grape_reward.score_file import check_ending, write_scores
    from grape_reward.stages import read_stage_points
    from grape_reward.tasks import library

    if (starts is None) != (calibration is None):
        raise CommandError("--track and --calibration go together")
    if out is not None:
        check_ending(out)  # before an hour's work, not after it
    scoring = Scoring(
        objective=objective,
        lambdas=lambdas_named(weights),
        tasks=library(tasks),
        unapproved=unapproved,
        stage_points=read_stage_points(stage_points) if stage_points else {},
        tracking=TrackingSetup(calibration, starts) if starts and calibration else None,
    )
    with progress("scoring") as report:

        def tell(done: int, total: int, bag: Path) -> None:
            report(done, total, bag.name)

        scored = score_bags(bags, None, tell, scoring)
    if out is not None:
        write_scores(out, scored.scores, scored.bags, scored.interventions)
    _show(scored)
    for bag, reason in scored.skipped:
        print(f"grape: skipped {reason if str(bag) in reason else f'{bag}: {reason}'}", file=sys.stderr)
    if scored.skipped:
        raise CommandError(f"{len(scored.skipped)} of {len(scored.skipped) + len(scored.scores)} bags were skipped")


def _show(scored: ScoreTable) -> None:
    rows = [
        [
            one.episode_id,
            one.outcome
            + ("" if one.approved else " (unapproved)")
            + (" (reviewed)" if one.review else "")
            + (" (interfered)" if intervention else ""),
            *(_figure(number) for number in (one.log_r_ext, one.r_self_per_token, one.reward)),
            " ".join(_figure(cost, 3) for cost in one.stage_costs),
        ]
        for one, intervention in zip(scored.scores, scored.interventions, strict=True)
    ]
    for bag, intervention in zip(scored.bags, scored.interventions, strict=True):
        if intervention:
            print(
                f"grape: {bag}: {intervention}: its score is not the policy's, and it does not train", file=sys.stderr
            )
    table("scores", ["episode", "outcome", "log R_ext", "R_self a token", "R_GCPG", "stage costs"], rows)
    waiting = [(one, bag) for one, bag in zip(scored.scores, scored.bags, strict=True) if one.outcome == "review"]
    for one, bag in waiting:
        why = f": {one.undecided[0]}" if one.undecided else ""
        print(f"grape: {bag}: a person must decide on it{why}", file=sys.stderr)
    if waiting:
        print("grape: `grape episodes review BAG --success yes|no --note ...` decides", file=sys.stderr)


def _figure(number: float, digits: int = 4) -> str:
    return "unknown" if number != number else f"{number:.{digits}f}"
