"""The files of one iteration of the align loop, each written whole: what is there need not be done again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grape_episode.episode import EpisodeError
from grape_episode.reader import read_episode
from grape_reward.errors import RewardError
from grape_reward.score import score_episode
from grape_reward.tasks import TASKS, TaskLibrary
from grape_trainer.errors import LoopError
from grape_trainer.files import append_line, read_json, read_lines, write_json
from grape_trainer.pairs import Excluded, PairSet, build, candidate, read_pairs, write_pairs
from grape_trainer.ranking import Candidate
from grape_trainer.rig import Job, Rollout
from grape_trainer.settings import Settings


class IterationFiles:
    """``<run>/iteration_<k>/``: rollouts.jsonl, scores.json, pairs.json, train/, summary.json.

    ``towards``: the objective, part of the scores' name where rollouts are scored towards several."""

    def __init__(self, run: Path, number: int, towards: str = "") -> None:
        self.number = number
        self.folder = run / f"iteration_{number}"
        self.rollouts_path = self.folder / "rollouts.jsonl"
        self.scores_path = self.folder / (f"scores_{towards}.json" if towards else "scores.json")
        self.pairs_path = self.folder / "pairs.json"
        self.train_folder = self.folder / "train"
        self.summary_path = self.folder / "summary.json"

    def rollouts(self) -> dict[str, Rollout]:
        """The recorded rollouts so far, by the job's key."""
        held = [Rollout(**line) for line in read_lines(self.rollouts_path)]
        return {rollout.key: rollout for rollout in held if rollout.bag}

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that have no recorded rollout."""
        done = self.rollouts()
        return [job for job in jobs if job.key not in done]

    def add(self, rollout: Rollout) -> None:
        append_line(self.rollouts_path, dataclasses.asdict(rollout))

    def score(
        self, adapter_id: str | None, objective: str, progress: Callable[[int, int], None]
    ) -> list[Candidate | Excluded]:
        """Score every rollout, offline, once; an unreadable bag is left out with its reason, and so is one that was
        recorded under another adapter than ``adapter_id`` (None: any)."""
        if not self.scores_path.exists():
            rollouts = sorted(self.rollouts().values(), key=lambda r: r.key)
            entries, scores = [], []
            for number, rollout in enumerate(rollouts):
                entry, score = score_rollout(rollout, adapter_id, objective)
                entries.append(entry)
                scores.append(score)
                progress(number + 1, len(rollouts))
            held = [
                {"kind": type(e).__name__.lower(), "entry": dataclasses.asdict(e), "score": s}
                for e, s in zip(entries, scores, strict=True)
            ]
            write_json(self.scores_path, {"objective": objective, "episodes": held})
            return entries
        kinds: dict[str, Any] = {"candidate": Candidate, "excluded": Excluded}
        data = read_json(self.scores_path, LoopError)
        try:
            return [kinds[line["kind"]](**line["entry"]) for line in data["episodes"]]
        except (KeyError, TypeError) as error:
            raise LoopError(f"{self.scores_path}: {error}") from None

    def pair(self, entries: Sequence[Candidate | Excluded], settings: Settings) -> PairSet:
        """The pairs file, made where it is not there: one that a person has edited is used as it is."""
        if self.pairs_path.exists():
            return read_pairs(self.pairs_path)
        pairs = build(entries, settings.pairing, **settings.pair_rules)
        write_pairs(self.pairs_path, pairs)
        return pairs


def score_rollout(
    rollout: Rollout, adapter_id: str | None, objective: str | None, tasks: TaskLibrary = TASKS
) -> tuple[Candidate | Excluded, Any]:
    """A rollout with its score (the JSON of ``Score.to_json``), or why it must not train, with None.

    ``adapter_id``: under which it must have been recorded, None for any; ``objective``: None for the episode's own."""
    name = rollout.episode_id or Path(rollout.bag).name
    try:
        episode = read_episode(Path(rollout.bag), images=False)
    except EpisodeError as error:
        return Excluded(name, rollout.bag, str(error)), None
    if episode.outcome is None:
        return Excluded(name, rollout.bag, "no outcome: the bag was cut off"), None
    if adapter_id is not None and episode.identity.adapter_id != adapter_id:
        other = episode.identity.adapter_id[:12] or "the base model"
        return Excluded(name, rollout.bag, f"recorded under {other}, not under this iteration's policy"), None
    try:
        score = score_episode(episode, objective, tasks=tasks)
    except RewardError as error:
        return Excluded(name, rollout.bag, str(error)), None
    return candidate(episode, score), json.loads(score.to_json())
