"""Scoring of many bags: a damaged one is named and skipped, the others are scored."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from grape_episode.episode import Episode, EpisodeError
from grape_episode.reader import find_bags, read_episode
from grape_reward.errors import RewardError, ScoreError
from grape_reward.gcpg import PRESETS, Lambdas
from grape_reward.score import Score, score_episode
from grape_reward.stages import StagePoints
from grape_reward.tasks import TASKS, TaskLibrary

if TYPE_CHECKING:
    from grape_reward.frames import TrackingSetup

Progress = Callable[[int, int, Path], None]


@dataclass(frozen=True)
class Scoring:
    """How to score. ``objective``: None for each episode's own; ``tasks``: where the tasks are looked for;
    ``unapproved``: also by cost programs that nobody approved; ``stage_points``: by episode id, ``*`` for all others,
    where stages end; ``tracking``: follow the keypoints in the recorded images, in place of those recorded."""

    objective: str | None = None
    lambdas: Lambdas = PRESETS["paper"]
    tasks: TaskLibrary = field(default_factory=lambda: TASKS)
    unapproved: bool = False
    stage_points: Mapping[str, StagePoints] = field(default_factory=dict)
    tracking: TrackingSetup | None = None

    def score(self, episode: Episode) -> Score:
        """The score of one episode. Raises RewardError."""
        points = self.stage_points.get(episode.identity.episode_id, self.stage_points.get("*"))
        return score_episode(episode, self.objective, self.lambdas, self.tasks, self.unapproved, points)


@dataclass(frozen=True)
class ScoreTable:
    """``scores`` of ``bags``, in their order; ``skipped``: the bags that have none, and why; ``interventions``: what a
    person did in each, "" for nothing: such a score is not the policy's."""

    scores: tuple[Score, ...]
    skipped: tuple[tuple[Path, str], ...]
    bags: tuple[Path, ...]
    interventions: tuple[str, ...]


def score_bags(
    paths: Iterable[Path | str],
    objective: str | None = None,
    progress: Progress | None = None,
    scoring: Scoring | None = None,
) -> ScoreTable:
    """Score every bag of ``paths``; a folder that holds bags stands for all of them.

    ``progress`` is called with (bags done, bags, the bag at hand) before each. Bags that are damaged, incomplete, of
    an unknown task or of one whose cost program is not approved are skipped with their reason. Raises ScoreError for a
    path that holds no bag at all."""
    how = scoring or Scoring()
    how = replace(how, objective=objective) if objective is not None else how
    bags = [bag for path in paths for bag in bags_at(Path(path))]
    scores: list[Score] = []
    scored: list[Path] = []
    interventions: list[str] = []
    skipped: list[tuple[Path, str]] = []
    for done, bag in enumerate(bags):
        if progress is not None:
            progress(done, len(bags), bag)
        try:
            score, intervention = _score_bag(bag, how)
            scores.append(score)
            scored.append(bag)
            interventions.append(intervention)
        except (RewardError, EpisodeError, OSError) as error:
            skipped.append((bag, str(error)))
    return ScoreTable(tuple(scores), tuple(skipped), tuple(scored), tuple(interventions))


def bags_at(path: Path) -> list[Path]:
    """The bag at this path, or all bags in this folder. Raises ScoreError where there is none."""
    if not path.exists():
        raise ScoreError(f"{path}: no such bag or folder")
    bags = [path] if path.is_file() else find_bags(path)
    if not bags:
        raise ScoreError(f"{path}: holds no bag")
    return list(bags)


def _score_bag(bag: Path, scoring: Scoring) -> tuple[Score, str]:
    # The images themselves do not enter; that one is missing is among the episode's problems all the same.
    episode = read_episode(bag, images=False)
    if episode.outcome is None:
        raise ScoreError(f"{bag}: no outcome, the recording broke off")
    if episode.identity.demonstration:
        raise ScoreError(f"{bag}: {episode.intervention}: no steps of a policy to score")
    if scoring.tracking is not None:
        from grape_reward.retrack import retracked

        episode = retracked(episode, bag, scoring.tasks.named(episode.identity.task), scoring.tracking)
    score = scoring.score(episode)
    problems = [*episode.problems, *score.problems]
    if problems:
        raise ScoreError(f"{bag}: incomplete: {'; '.join(problems[:3])}")
    return score, episode.intervention


def main(arguments: list[str] | None = None) -> int:
    """``python -m grape_reward.offline BAG... [--objective NAME] [--json OUT]``: one line a bag.

    Exit status 0, 1 where nothing could be scored, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="grape_reward.offline", description="Score recorded episodes.")
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="a bag, or a folder of bags")
    parser.add_argument("--objective", help="score towards this objective instead of each episode's own")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the scores there, one canonical JSON a line")
    options = parser.parse_args(arguments)
    try:
        table = score_bags(options.bags, options.objective)
        if options.json is not None:
            options.json.write_text("".join(score.to_json() + "\n" for score in table.scores))
    except (RewardError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for score, intervention in zip(table.scores, table.interventions, strict=True):
        print(json.dumps(_row(score) | ({"intervention": intervention} if intervention else {})))
    for bag, reason in table.skipped:
        print(f"skipped: {reason if str(bag) in reason else f'{bag}: {reason}'}", file=sys.stderr)
    return 0 if table.scores else 1


def _row(score: Score) -> dict[str, object]:
    return {
        "episode": score.episode_id,
        "task": score.task,
        "objective": score.objective,
        "success": score.success,
        "log_r_ext": round(score.log_r_ext, 4),
        "stages": score.stages_reached,
        "reward": None if score.reward != score.reward else round(score.reward, 4),
        "hash": score.hash[:12],
    }


if __name__ == "__main__":
    sys.exit(main())
