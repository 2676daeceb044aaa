"""Where the scores of exported episodes come from: computed at once, or read from a file of `grape score`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grape_episode.episode import Episode
from grape_reward.errors import ScoreError
from grape_reward.result import Score
from grape_trainer.export.frames import ExportError

Scorer = Callable[[Episode], Score]
"""The score of an episode; raises RewardError where it has none."""


def read_scores(path: Path) -> Scorer:
    """The scores in a ``.jsonl`` that `grape score --out` wrote, by episode id.

    Raises ExportError naming the file and line for one that holds anything else, or an episode twice."""
    scores: dict[str, Score] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(lines, 1):
        try:
            score = Score.from_json(line)
        except (ValueError, TypeError) as error:
            raise ExportError(f"{path}: line {number}: {error}") from None
        if scores.setdefault(score.episode_id, score) is not score:
            raise ExportError(f"{path}: line {number}: episode {score.episode_id} a second time")

    def scorer(episode: Episode) -> Score:
        try:
            return scores[episode.identity.episode_id]
        except KeyError:
            raise ScoreError(f"{path}: no score of episode {episode.identity.episode_id}") from None

    return scorer
