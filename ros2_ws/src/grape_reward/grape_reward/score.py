"""The score of a recorded episode."""

from __future__ import annotations

from grape_episode.episode import Episode
from grape_reward.errors import ScoreError
from grape_reward.gcpg import PRESETS, Lambdas
from grape_reward.reducer import Reducer
from grape_reward.result import Score
from grape_reward.tasks import task_named
from grape_reward.timeline import read_timeline

__all__ = ["Score", "score_episode"]


def score_episode(episode: Episode, objective: str | None = None, lambdas: Lambdas = PRESETS["paper"]) -> Score:
    """GCPG (Eq. 8 to 12 of paper 002) of a recorded episode, bit for bit what the live node said of it.

    ``objective``: None for the episode's own. An episode that lacks something the score needs gets a score marked
    ``incomplete``. Raises TaskError for an unknown task or objective, ScoreError for an episode without an outcome."""
    if episode.outcome is None:
        raise ScoreError(f"{episode.path or episode.identity.episode_id}: no outcome, the recording broke off")
    task = task_named(episode.identity.task)
    reducer = Reducer(task, objective or episode.identity.objective, episode.identity, lambdas)
    events, problems = read_timeline(episode)
    for event in events:
        reducer.push(event)
    return reducer.finish(episode.outcome, tuple(problems))
