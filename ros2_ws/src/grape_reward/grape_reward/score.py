"""The score of a recorded episode."""

from __future__ import annotations

from grape_episode.episode import Episode
from grape_reward.errors import ScoreError
from grape_reward.gcpg import PRESETS, Lambdas
from grape_reward.reducer import Reducer
from grape_reward.result import Score
from grape_reward.reviews import review_of
from grape_reward.stages import StagePoints
from grape_reward.tasks import TASKS, TaskLibrary
from grape_reward.timeline import read_timeline

__all__ = ["Score", "score_episode"]


def score_episode(
    episode: Episode,
    objective: str | None = None,
    lambdas: Lambdas = PRESETS["paper"],
    tasks: TaskLibrary = TASKS,
    unapproved: bool = False,
    stage_points: StagePoints | None = None,
) -> Score:
    """GCPG (Eq. 8 to 12 of paper 002) of a recorded episode, bit for bit what the live node said of it.

    ``objective``: None for the episode's own. ``unapproved``: score by a cost program that nobody has approved.
    ``stage_points``: where the stages end, in place of the task's conditions. What a person decided about the episode
    (``reviews``, beside its bag) counts. An episode that lacks something the score needs gets a score marked
    ``incomplete``. Raises TaskError for an unknown task or objective, NotApprovedError, ReviewError, ScoreError for an
    episode without an outcome."""
    identity = episode.identity
    if episode.outcome is None:
        raise ScoreError(f"{episode.path or identity.episode_id}: no outcome, the recording broke off")
    task, approved = tasks.cleared(identity.task, unapproved)
    review = None if episode.path is None else review_of(episode.path, identity.episode_id)
    events, problems = read_timeline(episode, task.confidence, task.reads_force)
    boundaries = None if stage_points is None else stage_points.boundaries(events)
    reducer = Reducer(
        task, objective or identity.objective, identity, lambdas, boundaries=boundaries, approved=approved
    )
    if len(episode.keypoints):
        reducer.name_keypoints(episode.keypoints.names)
    reducer.foresee(events)
    for event in events:
        reducer.push(event)
    return reducer.finish(episode.outcome, tuple(problems), review)
