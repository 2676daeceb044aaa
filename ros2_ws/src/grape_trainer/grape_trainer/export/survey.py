"""Which recorded episodes go into a dataset, in which order, and what is known of each: nothing is written yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grape_episode.episode import Episode, EpisodeError, Identity, Outcome
from grape_episode.reader import read_episode
from grape_reward.errors import RewardError
from grape_reward.offline import bags_at
from grape_reward.result import Score
from grape_reward.reviews import review_of
from grape_trainer.export.frames import ExportError, rotation_of
from grape_trainer.export.scores import Scorer
from grape_trainer.pairs import Excluded, candidate
from grape_trainer.ranking import Candidate

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Known:
    """An episode to export. ``success``: 1 or 0 by the word of ``success_by`` (score, person, recorder), None where
    nobody knows; ``unscored``: why ``score`` is None; ``entry``: what pairing makes of it."""

    bag: Path
    identity: Identity
    outcome: Outcome
    steps: int
    rotation: str
    score: Score | None
    unscored: str
    success: int | None
    success_by: str
    entry: Candidate | Excluded

    @property
    def order(self) -> tuple[str, str, int, str]:
        identity = self.identity
        return (identity.task, identity.variant, identity.initial_state, identity.episode_id)


@dataclass(frozen=True)
class Survey:
    """``episodes`` by task, variant, initial state and id, whatever the order of the bags; ``skipped``: why a bag is
    not among them."""

    episodes: tuple[Known, ...]
    skipped: tuple[tuple[Path, str], ...]


def survey(paths: Iterable[Path], scorer: Scorer | None, progress: Progress) -> Survey:
    """Read every bag at or under ``paths`` without its pictures, and score it; ``scorer`` None: it stays unscored.

    Bags that are damaged, incomplete, without steps of a policy, in which a person interfered, or that hold an episode
    a second time are skipped with their reason. Raises ScoreError for a path without a bag, ExportError where no
    episode is left or where they do not fit into one dataset."""
    bags = list(dict.fromkeys(bag.resolve() for path in paths for bag in bags_at(Path(path))))
    found: list[Known] = []
    skipped: list[tuple[Path, str]] = []
    seen: dict[str, Path] = {}
    for done, bag in enumerate(sorted(bags)):
        progress(done, len(bags), bag.name)
        try:
            known = _known(bag, scorer)
        except (EpisodeError, ExportError, RewardError, OSError) as error:
            skipped.append((bag, str(error)))
            continue
        first = seen.setdefault(known.identity.episode_id, bag)
        if first != bag:
            skipped.append((bag, f"{bag}: episode {known.identity.episode_id} is in {first}, too"))
        else:
            found.append(known)
    if not found:
        why = f"; the first: {skipped[0][1]}" if skipped else ""
        raise ExportError(f"no episode can be exported: all {len(skipped)} bags are skipped{why}")
    found.sort(key=lambda known: known.order)
    _together(found)
    return Survey(tuple(found), tuple(skipped))


def _known(bag: Path, scorer: Scorer | None) -> Known:
    episode = read_episode(bag, images=False)
    if not episode.steps:
        raise ExportError(f"{bag}: no steps of a policy in it")
    if episode.intervention:
        raise ExportError(f"{bag}: {episode.intervention}: what came of it is not the policy's")
    if episode.outcome is None or not episode.complete:
        raise ExportError(f"{bag}: incomplete: {'; '.join(episode.problems[:3])}")
    for name, least in (("control_period", 1e-6), ("temperature", 0.0)):
        if not least <= (value := getattr(episode.identity, name)) < math.inf:
            raise ExportError(f"{bag}: its identity says {name} {value}")
    score, unscored = _score(episode, scorer)
    success, by = _success(bag, episode, score)
    identity = episode.identity
    return Known(
        bag=bag,
        identity=identity,
        outcome=episode.outcome,
        steps=len(episode.steps),
        rotation=rotation_of(episode),
        score=score,
        unscored=unscored,
        success=success,
        success_by=by,
        entry=Excluded(identity.episode_id, str(bag), f"not scored: {unscored}")
        if score is None
        else candidate(episode, score),
    )


def _score(episode: Episode, scorer: Scorer | None) -> tuple[Score | None, str]:
    if scorer is None:
        return None, "not asked for"
    try:
        return scorer(episode), ""
    except RewardError as error:
        return None, str(error)


def _success(bag: Path, episode: Episode, score: Score | None) -> tuple[int | None, str]:
    """What is known of the success, and by whose word. The world's own is not asked: no training may see it."""
    assert episode.outcome is not None
    if score is not None and score.success in (0, 1):
        return score.success, "score"
    review = review_of(bag.parent if bag.is_file() else bag, episode.identity.episode_id)
    if review is not None:
        return review.indicator, "person"
    told = episode.outcome.success_reward
    return (told, "recorder") if score is None and told in (0, 1) else (None, "")


def _together(episodes: Sequence[Known]) -> None:
    first = episodes[0]
    for other in episodes:
        for what, mine, theirs in (
            ("control period", first.identity.control_period, other.identity.control_period),
            ("rotation", first.rotation, other.rotation),
        ):
            if mine != theirs:
                raise ExportError(
                    f"{other.bag}: {what} {theirs}, but {mine} in {first.bag}: one dataset has one; export them apart"
                )
