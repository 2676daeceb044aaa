"""`grape export --format lerobot`: recorded episodes as a LeRobot dataset, preference pairs beside."""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from grape_episode.episode import EpisodeError
from grape_episode.reader import read_episode
from grape_reward.offline import Scoring
from grape_trainer.errors import PairsError
from grape_trainer.export.folder import DataFiles, write_episodes, write_info, write_tasks
from grape_trainer.export.frames import IMAGE, ExportError, Layout, columns, pictures, png
from grape_trainer.export.scores import Scorer
from grape_trainer.export.statistics import Gathered, plain
from grape_trainer.export.survey import Known, Progress, Survey, survey
from grape_trainer.files import publish_folder, write_json
from grape_trainer.pairs import PairSet, build, read_pairs

EPISODES_FORMAT, PAIRS_FORMAT = "grape-export-episodes/1", "grape-export-pairs/1"
_NUMBERS = ("log_r_ext", "r_self_per_token", "reward")


@dataclass(frozen=True)
class Export:
    """What to export. ``paths``: bags, or folders of bags; none: those that the pairs file names. ``scorer``: None
    leaves episodes unscored. ``pairs``: a pairs file; None: pairs by ``ranking`` (m best against m worst of each
    initial state) of what is scored. ``ranking`` empty and no file: no pairs."""

    paths: tuple[Path, ...]
    out: Path
    scorer: Scorer | None = field(default_factory=lambda: Scoring().score)
    pairs: Path | None = None
    ranking: str = "balanced"
    m: int = 2


@dataclass(frozen=True)
class Exported:
    """What was written. ``skipped``: bags, and why; ``pairs`` None where none were asked for; ``lost``: pairs of which
    a side was not exported; ``unknown``: ids of the episodes of unknown success, for which reward and success are no
    features; ``unscored``: why the episodes without a score have none."""

    folder: Path
    episodes: int
    frames: int
    pairs: int | None
    lost: int
    skipped: tuple[tuple[Path, str], ...]
    unknown: tuple[str, ...]
    unscored: tuple[str, ...]


def export_lerobot(told: Export, surveying: Progress, writing: Progress) -> Exported:
    """Write the new folder ``told.out``: it appears whole, or not at all.

    The same bags give the same bytes, whatever their order. Raises ExportError for a folder that is there already,
    for episodes that do not fit into one dataset, and where none is fit; PairsError for a pairs file that cannot be
    used; ScoreError for a path without a bag."""
    if told.out.exists() or told.out.is_symlink():
        raise ExportError(f"{told.out}: is there already; nothing is overwritten")
    chosen = read_pairs(told.pairs) if told.pairs is not None else None
    paths = told.paths or tuple(Path(c.path) for c in chosen.candidates if c.path) if chosen else told.paths
    if not paths:
        raise ExportError("no bag named, and no pairs file that names any")
    found = survey(paths, told.scorer, surveying)
    if chosen is None and told.ranking:
        try:
            chosen = build((known.entry for known in found.episodes), told.ranking, told.m)
        except PairsError as error:
            raise ExportError(f"no pairs can be made ({error}): export them apart, or with --ranking none") from None
    told.out.parent.mkdir(parents=True, exist_ok=True)
    beside = told.out.with_name(f".{told.out.name}.{uuid.uuid4().hex}")
    try:
        beside.mkdir()
        frames = _write_dataset(beside, found, writing)
        _write_episodes(beside / "grape/episodes.json", found)
        lost = 0 if chosen is None else _write_pairs(beside / "grape/pairs.json", chosen, found.episodes)
        publish_folder(beside, told.out)
    except OSError as error:
        raise ExportError(f"{error.filename or told.out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Exported(
        folder=told.out,
        episodes=len(found.episodes),
        frames=frames,
        pairs=None if chosen is None else len(chosen.pairs) - lost,
        lost=lost,
        skipped=found.skipped,
        unknown=tuple(known.identity.episode_id for known in found.episodes if known.success is None),
        unscored=tuple(known.unscored for known in found.episodes if known.score is None),
    )


def _write_dataset(root: Path, found: Survey, progress: Progress) -> int:
    """Data and meta; returns the number of frames."""
    layout = _layout(found.episodes)
    files = DataFiles(root, layout.features())
    gathered = Gathered()
    tasks: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    start = 0
    try:
        for number, known in enumerate(found.episodes):
            progress(number, len(found.episodes), known.identity.episode_id)
            try:
                episode = read_episode(known.bag)
                seen = pictures(episode, layout)
            except EpisodeError as error:  # it was whole a moment ago
                raise ExportError(str(error)) from error
            instructions = [step.instruction for step in episode.steps]
            values = columns(episode, layout, known.success)
            values["episode_index"] = np.full(len(seen), number, np.int64)
            values["index"] = np.arange(start, start + len(seen), dtype=np.int64)
            values["task_index"] = np.array([tasks.setdefault(told, len(tasks)) for told in instructions], np.int64)
            place = files.add({**values, IMAGE: [png(image) for image in seen]})
            stats = plain(gathered.add(values, {IMAGE: seen}), layout.features())
            rows.append(
                _row(number, known, list(dict.fromkeys(instructions)), place, (start, start + len(seen)), stats)
            )
            start += len(seen)
    finally:
        files.close()
    write_tasks(root, list(tasks))
    write_episodes(root, rows, _TYPES)
    write_json(root / "meta/stats.json", plain(gathered.stats(), layout.features()))
    write_info(root, layout, len(rows), start, len(tasks))
    return start


def _layout(episodes: Sequence[Known]) -> Layout:
    first = read_episode(episodes[0].bag)
    height, width, _ = first.images.shape[1:]
    rewarded = all(known.success is not None for known in episodes)
    return Layout(first.identity.control_period, height, width, episodes[0].rotation, rewarded)


_TYPES = {
    "grape/success": pa.int64(),
    "grape/log_r_ext": pa.float64(),
    "grape/r_self_per_token": pa.float64(),
    "grape/reward": pa.float64(),
}


def _row(
    number: int, known: Known, tasks: list[str], place: tuple[int, int], span: tuple[int, int], stats: dict[str, Any]
) -> dict[str, Any]:
    score = {} if known.score is None else json.loads(known.score.to_json())
    return {
        "episode_index": number,
        "tasks": tasks,
        "length": span[1] - span[0],
        "data/chunk_index": place[0],
        "data/file_index": place[1],
        "dataset_from_index": span[0],
        "dataset_to_index": span[1],
        "grape/episode_id": known.identity.episode_id,
        "grape/success": known.success,
        **{f"grape/{name}": score.get(name) for name in _NUMBERS},
        **{f"stats/{name}/{key}": value for name, each in stats.items() for key, value in each.items()},
    }


def _write_episodes(path: Path, found: Survey) -> None:
    told = []
    start = 0
    for number, known in enumerate(found.episodes):
        score = None if known.score is None else {**json.loads(known.score.to_json()), "score_hash": known.score.hash}
        told.append(
            {
                "episode_index": number,
                "episode_id": known.identity.episode_id,
                "bag": known.bag.name,
                "frames": known.steps,
                "dataset_from_index": start,
                "success": known.success,
                "success_by": known.success_by or None,
                "identity": dataclasses.asdict(known.identity),
                "outcome": dataclasses.asdict(known.outcome),
                "score": score,
                "unscored": known.unscored or None,
            }
        )
        start += known.steps
    skipped = [{"bag": bag.name, "reason": reason} for bag, reason in found.skipped]
    write_json(path, {"format": EPISODES_FORMAT, "episodes": told, "skipped": skipped})


def _write_pairs(path: Path, chosen: PairSet, episodes: Sequence[Known]) -> int:
    """Pairs by index and id; returns how many of them name an episode that is not exported."""
    index = {known.identity.episode_id: number for number, known in enumerate(episodes)}
    pairs, lost = [], []
    for pair in chosen.pairs:
        missing = [name for name in (pair.chosen, pair.rejected) if name not in index]
        if missing:
            lost.append({"chosen_id": pair.chosen, "rejected_id": pair.rejected, "missing": missing})
            continue
        pairs.append(
            {
                "chosen": index[pair.chosen],
                "rejected": index[pair.rejected],
                "chosen_id": pair.chosen,
                "rejected_id": pair.rejected,
                "margin": pair.margin,
                "task": pair.task,
                "variant": pair.variant,
                "initial_state": pair.initial_state,
            }
        )
    unpaired = [{"episode_id": one.episode_id, "reason": one.reason} for one in chosen.excluded]
    head = {"format": PAIRS_FORMAT, "ranking": chosen.ranking, "m": chosen.m, "objective": chosen.objective}
    write_json(path, {**head, "pairs": pairs, "not_exported": lost, "excluded": unpaired})
    return len(lost)
