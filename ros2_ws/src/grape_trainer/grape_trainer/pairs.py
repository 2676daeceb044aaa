"""Preference pairs: the top m of each initial state against its bottom m, and a file a person can read and edit."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from grape_trainer.errors import PairsError
from grape_trainer.files import read_json, write_json
from grape_trainer.ranking import Candidate, Group, rank

FORMAT = "grape-pairs/1"
UNFIT_ENDS = ("cancelled", "error", "stale_camera", "gate_fault")
"""End reasons that say nothing about the policy."""


class IdentityLike(Protocol):
    """What a candidate needs of an episode's identity."""

    @property
    def episode_id(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def initial_state(self) -> int: ...
    @property
    def base_hash(self) -> str: ...
    @property
    def adapter_id(self) -> str: ...


@dataclass(frozen=True)
class Excluded:
    """An episode that enters no pair, and why."""

    episode_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Pair:
    """``chosen`` and ``rejected`` are episode ids; ``margin`` is the difference of their rank scores."""

    chosen: str
    rejected: str
    task: str
    variant: str
    initial_state: int
    margin: float

    @property
    def group(self) -> Group:
        return (self.task, self.variant, self.initial_state)

    @property
    def episodes(self) -> tuple[str, ...]:
        return (self.chosen, self.rejected)

    @property
    def name(self) -> str:
        return f"{self.chosen} over {self.rejected}"


@dataclass(frozen=True)
class PairSet:
    """Everything a pairs file holds. ``scores`` maps episode id to rank score."""

    ranking: str
    m: int
    objective: str
    candidates: tuple[Candidate, ...]
    scores: dict[str, float]
    pairs: tuple[Pair, ...]
    excluded: tuple[Excluded, ...]
    shares: dict[str, float]
    warnings: tuple[str, ...]

    @property
    def by_id(self) -> dict[str, Candidate]:
        return {c.episode_id: c for c in self.candidates}

    def tasks(self) -> dict[str, dict[str, int]]:
        """Per task: episodes, successes, initial states, pairs."""
        result: dict[str, dict[str, int]] = {}
        for task in sorted({c.task for c in self.candidates}):
            own = [c for c in self.candidates if c.task == task]
            result[task] = {
                "episodes": len(own),
                "successes": sum(c.success for c in own),
                "states": len({c.group for c in own}),
                "pairs": sum(p.task == task for p in self.pairs),
            }
        return result


def candidate(episode: Any, score: Any) -> Candidate | Excluded:
    """What ranking needs of an episode (``grape_episode.episode.Episode``) and its score
    (``grape_reward.score.Score``), or why the episode must not train."""
    identity: IdentityLike = episode.identity
    path = "" if episode.path is None else str(episode.path)
    reason = _unfit(episode, score)
    if reason:
        return Excluded(identity.episode_id, path, reason)
    return Candidate(
        episode_id=identity.episode_id,
        path=path,
        task=identity.task,
        variant=identity.variant,
        initial_state=int(identity.initial_state),
        objective=score.objective,
        base_hash=identity.base_hash,
        adapter_id=identity.adapter_id,
        cost_program_hash=score.cost_program_hash,
        steps=len(episode.steps),
        success=int(score.success),
        log_r_ext=float(score.log_r_ext),
        r_self=float(score.r_self),
        r_self_per_token=float(score.r_self_per_token),
        task_hash=score.task_hash,
    )


def _unfit(episode: Any, score: Any) -> str:
    if score.episode_id != episode.identity.episode_id:
        raise PairsError(f"score of {score.episode_id} given for episode {episode.identity.episode_id}")
    if episode.outcome is None:
        return "no outcome: the bag was cut off"
    if episode.intervention:
        return str(episode.intervention)
    if episode.outcome.mixed_adapter:
        return "the adapter changed within the episode"
    if episode.problems:
        return f"incomplete: {episode.problems[0]}"
    if not episode.steps:
        return "no steps"
    if episode.outcome.end_reason in UNFIT_ENDS:
        return f"ended by {episode.outcome.end_reason}"
    if len({(step.adapter_id, step.base_hash) for step in episode.steps}) > 1:
        return "its steps name more than one adapter"
    if score.incomplete:
        return "its score is incomplete"
    if not score.approved:
        return "scored by a cost program that nobody approved"
    if score.outcome == "review":
        why = f" ({score.undecided[0]})" if score.undecided else ""
        return f"a person must decide on it{why}: `grape episodes review`"
    if score.success not in (0, 1):
        return "success unknown"
    for name in ("log_r_ext", "r_self", "r_self_per_token"):
        if not math.isfinite(getattr(score, name)):
            return f"{name} is not finite"
    return ""


def build(
    entries: Iterable[Candidate | Excluded],
    ranking: str = "balanced",
    m: int = 2,
    weights: Sequence[float] | None = None,
    min_margin: float = 0.0,
    equal: str = "all",
) -> PairSet:
    """Pairs by (task, variant, initial state): top m against bottom m, 2m at most the number of rollouts,
    strictly better over worse only; ``equal``: of settings.EQUALS, which of those of equal success; where that
    leaves none at all, every one is kept, with a warning: a policy that never succeeds learns from costs.

    Raises PairsError when the episodes come from several base models, objectives or, within a task,
    cost programs or task files: their scores cannot be compared."""
    by_id: dict[str, Candidate] = {}
    excluded: list[Excluded] = []
    for entry in entries:
        if isinstance(entry, Excluded):
            excluded.append(entry)
        elif entry.episode_id in by_id:
            excluded.append(Excluded(entry.episode_id, entry.path, "the same episode a second time"))
        else:
            by_id[entry.episode_id] = entry
    candidates = list(by_id.values())
    _comparable(candidates)
    ranked = rank(candidates, ranking, weights)
    groups: dict[Group, list[int]] = {}
    for i, c in enumerate(candidates):
        groups.setdefault(c.group, []).append(i)
    pairs: list[Pair] = []
    for group in sorted(groups):
        order = ranked.order(groups[group])
        size = min(m, len(order) // 2)
        for i in order[:size]:
            for j in order[len(order) - size :]:
                if ranked.better(i, j, min_margin):
                    margin = float(ranked.scores[i] - ranked.scores[j])
                    task, variant, state = group
                    pairs.append(Pair(candidates[i].episode_id, candidates[j].episode_id, task, variant, state, margin))
    kept = [p for p in pairs if _wanted(by_id[p.chosen], by_id[p.rejected], equal)]
    warnings = ranked.warnings()
    if pairs and not kept:
        warnings.append(
            f"equal_success {equal}: leaves no pair, so all are kept: costs and likelihood alone tell them apart"
        )
    return PairSet(
        ranking=ranking,
        m=m,
        objective=candidates[0].objective if candidates else "",
        candidates=tuple(candidates),
        scores={c.episode_id: float(s) for c, s in zip(candidates, ranked.scores, strict=True)},
        pairs=tuple(kept or pairs),
        excluded=tuple(excluded),
        shares=ranked.shares,
        warnings=tuple(warnings),
    )


def _wanted(chosen: Candidate, rejected: Candidate, equal: str) -> bool:
    if chosen.success != rejected.success:
        return True
    return equal == "all" or (equal == "successes" and chosen.success == 1)


def _comparable(candidates: Sequence[Candidate]) -> None:
    def one(name: str, members: Sequence[Candidate], where: str = "") -> None:
        first: dict[str, str] = {}
        for c in members:
            first.setdefault(getattr(c, name), c.episode_id)
        if len(first) > 1:
            (value, here), (other, there), *_ = first.items()
            raise PairsError(
                f"{name} differs{where}: {value or 'none'} in {here}, {other or 'none'} in {there}; "
                "their scores cannot be compared"
            )

    one("base_hash", candidates)
    one("objective", candidates)
    for task in {c.task for c in candidates}:
        for name in ("cost_program_hash", "task_hash"):
            one(name, [c for c in candidates if c.task == task], f" within task {task}")


def write_pairs(path: Path, pairs: PairSet) -> None:
    """Write a pairs file (JSON, atomic). Bags are named relative to the file's folder."""
    folder = path.parent.resolve()
    episodes = {}
    for c in pairs.candidates:
        entry = dataclasses.asdict(c)
        del entry["episode_id"]
        entry["path"] = _relative(c.path, folder)
        entry["score"] = pairs.scores[c.episode_id]
        episodes[c.episode_id] = entry
    write_json(
        path,
        {
            "format": FORMAT,
            "ranking": pairs.ranking,
            "m": pairs.m,
            "objective": pairs.objective,
            "tasks": pairs.tasks(),
            "shares": pairs.shares,
            "warnings": list(pairs.warnings),
            "pairs": [dataclasses.asdict(p) for p in pairs.pairs],
            "excluded": [{**dataclasses.asdict(e), "path": _relative(e.path, folder)} for e in pairs.excluded],
            "episodes": episodes,
        },
    )


def read_pairs(path: Path) -> PairSet:
    """Read a pairs file, also one edited by hand.

    Raises PairsError naming the file and the field: another format, an unknown episode in a pair, a pair of
    an episode with itself or across initial states."""
    data = read_json(path, PairsError)
    if data.get("format") != FORMAT:
        raise PairsError(f"{path}: format is {data.get('format')!r}, expected {FORMAT!r}")
    try:
        candidates, scores = [], {}
        for episode_id, entry in data["episodes"].items():
            entry = dict(entry)
            scores[episode_id] = float(entry.pop("score"))
            entry["path"] = _absolute(entry["path"], path.parent)
            candidates.append(Candidate(episode_id=episode_id, **entry))
        pairs = tuple(Pair(**entry) for entry in data["pairs"])
        excluded = tuple(
            Excluded(e["episode_id"], _absolute(e["path"], path.parent), e["reason"]) for e in data["excluded"]
        )
        result = PairSet(
            ranking=data["ranking"],
            m=int(data["m"]),
            objective=data["objective"],
            candidates=tuple(candidates),
            scores=scores,
            pairs=pairs,
            excluded=excluded,
            shares=dict(data["shares"]),
            warnings=tuple(data["warnings"]),
        )
    except KeyError as missing:
        raise PairsError(f"{path}: field {missing} is missing") from None
    except (TypeError, ValueError, AttributeError) as reason:
        raise PairsError(f"{path}: {reason}") from None
    known = result.by_id
    for pair in pairs:
        for side in (pair.chosen, pair.rejected):
            if side not in known:
                raise PairsError(f"{path}: pair {pair.name}: episode {side} is not in the file")
            if known[side].group != pair.group:
                raise PairsError(f"{path}: pair {pair.name}: {side} started from {known[side].group}, not {pair.group}")
        if pair.chosen == pair.rejected:
            raise PairsError(f"{path}: pair {pair.name}: the same episode on both sides")
    return result


def _relative(path: str, folder: Path) -> str:
    return os.path.relpath(Path(path).resolve(), folder) if path else ""


def _absolute(path: str, folder: Path) -> str:
    return str((folder / path).resolve()) if path else ""
