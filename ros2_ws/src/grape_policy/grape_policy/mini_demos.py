"""Demonstrations for behaviour cloning, in memory: the shards that `python -m grape_sim.demos` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grape_policy.config import ACTION_SIZE

FIELDS = ("images", "actions", "instruction", "task", "episode", "keypoints", "instructions")
STILL = 0.005
STILL_RANGE = 0.1


class DemosError(Exception):
    """Shards that cannot be trained on; the text names the file and the field."""


@dataclass(frozen=True)
class Demos:
    """N frames. images (N, S, S, 3) uint8; actions (N, 7) metres, radians, opening; keypoints (N, K, 3) metres.

    instruction (N,) indexes `instructions`; task (N,) and episode (N,) number tasks and episodes.
    """

    images: NDArray[np.uint8]
    actions: NDArray[np.float32]
    instruction: NDArray[np.int64]
    task: NDArray[np.int64]
    episode: NDArray[np.int64]
    keypoints: NDArray[np.float32]
    instructions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.actions)

    def split(self, every: int = 25) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Frame indices for training and for validation: every n-th episode is held out whole."""
        numbers = np.unique(self.episode)
        held = np.isin(self.episode, numbers[::every]) if len(numbers) > 1 else np.zeros(len(self), bool)
        return np.flatnonzero(~held), np.flatnonzero(held)


def load_demos(folder: Path) -> Demos:
    """All shards (*.npz) of a folder, in order of their names, images memory-mapped from one array beside them.

    Mapped, so that several processes share one copy of the images. Raises DemosError.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise DemosError(f"{folder}: no *.npz shards")
    shards = [_read(path) for path in paths]
    instructions = tuple(sorted({str(text) for shard in shards for text in shard["instructions"]}))
    for path, shard in zip(paths, shards, strict=True):
        if not np.isin(shard["instruction"], np.arange(len(shard["instructions"]))).all():
            raise DemosError(f"{path}: instruction points beyond the {len(shard['instructions'])} instructions")
        places = np.array([instructions.index(str(text)) for text in shard["instructions"]])
        shard["instruction"] = places[shard["instruction"]]
    columns = {name: np.concatenate([s[name] for s in shards]) for name in FIELDS[1:-1]}
    return Demos(
        images=_images(folder / "images.npy", paths, [len(s["actions"]) for s in shards]),
        actions=columns["actions"].astype(np.float32),
        instruction=columns["instruction"].astype(np.int64),
        task=columns["task"].astype(np.int64),
        episode=columns["episode"].astype(np.int64),
        keypoints=columns["keypoints"].astype(np.float32),
        instructions=instructions,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in FIELDS if name not in file.files]
            if missing:
                raise DemosError(f"{path}: missing {missing}")
            shard = {name: file[name] for name in FIELDS if name != "images"}
    except (OSError, ValueError) as error:
        raise DemosError(f"{path}: not a shard of demonstrations: {error}") from None
    count = len(shard["actions"])
    if shard["actions"].shape != (count, ACTION_SIZE) or shard["keypoints"].shape[::2] != (count, 3):
        raise DemosError(f"{path}: actions {shard['actions'].shape} or keypoints {shard['keypoints'].shape} misshapen")
    for name in ("actions", "keypoints"):
        if not np.all(np.isfinite(shard[name])):
            raise DemosError(f"{path}: {name} are not finite")
    return shard


def _images(cache: Path, paths: list[Path], counts: list[int]) -> NDArray[np.uint8]:
    newest = max(path.stat().st_mtime for path in paths)
    if cache.exists() and cache.stat().st_mtime >= newest:
        mapped = np.load(cache, mmap_mode="r")
        if len(mapped) == sum(counts):
            return mapped
    with np.load(paths[0], allow_pickle=False) as file:
        shape = file["images"].shape[1:]
    partial = cache.with_suffix(".partial")
    images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(sum(counts), *shape))
    start = 0
    for path, count in zip(paths, counts, strict=True):
        with np.load(path, allow_pickle=False) as file:
            if file["images"].shape != (count, *shape) or file["images"].dtype != np.uint8:
                raise DemosError(f"{path}: images {file['images'].shape} are not ({count}, *{shape}) uint8")
            images[start : start + count] = file["images"]
        start += count
    images.flush()
    partial.replace(cache)
    return np.load(cache, mmap_mode="r")


def action_statistics(actions: NDArray[Any], episodes: int) -> dict[str, Any]:
    """One entry of `dataset_statistics.json`: percentiles of (N, 7) actions, the gripper left as it is.

    A dimension whose percentiles lie within 0.005 (metres, radians) gets -0.1 and 0.1 instead.
    """
    actions = actions.astype(np.float64)
    q01, q99 = np.quantile(actions, 0.01, axis=0), np.quantile(actions, 0.99, axis=0)
    # A dimension that hardly moves would spread its noise over all bins.
    still = q99 - q01 < STILL
    q01[still], q99[still] = -STILL_RANGE, STILL_RANGE
    columns = {"mean": actions.mean(0), "std": actions.std(0), "min": actions.min(0), "max": actions.max(0)}
    columns |= {"q01": q01, "q99": q99}
    action: dict[str, Any] = {name: [float(v) for v in value] for name, value in columns.items()}
    action["mask"] = [True] * (ACTION_SIZE - 1) + [False]
    return {"action": action, "num_trajectories": episodes, "num_transitions": len(actions)}
