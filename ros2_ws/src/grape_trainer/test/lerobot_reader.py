"""Run by the Python of an environment that has LeRobot: `python lerobot_reader.py DATASET SCRATCH`.

Reads an exported dataset through LeRobot's own classes, as its trainers do, and edits copies of it with LeRobot's own
tools; the last line of stdout is one JSON object with what was seen. Nothing of GRAPE is imported or fetched."""

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import: a local dataset must do without the hub
logging.disable(logging.WARNING)  # it warns at length of video decoders, of which no dataset here has need

import numpy as np  # noqa: E402
import torch  # noqa: E402
from lerobot import __version__  # noqa: E402
from lerobot.datasets import LeRobotDataset, delete_episodes, merge_datasets  # noqa: E402
from lerobot.datasets.compute_stats import get_feature_stats  # noqa: E402
from lerobot.utils.feature_utils import dataset_to_policy_features  # noqa: E402

IMAGE = "observation.images.model_input"


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def pixels(frame: torch.Tensor) -> np.ndarray:
    """(H, W, 3) uint8 of the (3, H, W) float in [0, 1] that LeRobot hands to a policy."""
    return np.rint(frame.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)


def gap(mine: dict, theirs: dict) -> float:
    """Largest difference of two features' statistics, quantiles apart: LeRobot's are estimates."""
    names = ("min", "max", "mean", "std", "count")
    return max(float(np.abs(np.asarray(mine[n]) - np.asarray(theirs[n])).max()) for n in names)


def main() -> None:
    root, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    dataset = LeRobotDataset("grape/exported", root=root)
    frames = [dataset[i] for i in range(len(dataset))]
    vectors = ("observation.state", "action", "grape.tokens", "grape.log_probs")
    stacked = {name: np.stack([frame[name].numpy() for frame in frames]) for name in vectors}
    pictures = np.stack([pixels(frame[IMAGE]) for frame in frames])

    fps = dataset.fps
    window = LeRobotDataset(
        "grape/exported",
        root=root,
        episodes=[1],
        delta_timestamps={"action": [0.0, 1 / fps, 2 / fps], IMAGE: [-1 / fps, 0.0]},
    )
    last = window[len(window) - 1]
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=False)))

    rest = delete_episodes(dataset, [0], output_dir=scratch / "rest", repo_id="grape/rest")
    merged = merge_datasets([dataset, rest], output_repo_id="grape/merged", output_dir=scratch / "merged")

    told = {
        "lerobot": __version__,
        "torch": torch.__version__,
        "format": dataset.meta.info.codebase_version,
        "fps": fps,
        "episodes": dataset.meta.total_episodes,
        "frames": len(dataset),
        "lengths": [int(n) for n in dataset.meta.episodes["length"]],
        "episode_ids": list(dataset.meta.episodes["grape/episode_id"]),
        "tasks": [frame["task"] for frame in frames],
        "episode_index": [int(frame["episode_index"]) for frame in frames],
        "timestamp": [float(frame["timestamp"]) for frame in frames],
        "done": [bool(frame["next.done"]) for frame in frames],
        "reward": [float(frame["next.reward"]) for frame in frames] if "next.reward" in frames[0] else None,
        "stamps": [int(frame["grape.stamp"]) for frame in frames],
        "images": digest(pictures),
        "vectors": {name: digest(values) for name, values in stacked.items()},
        "dtypes": {name: str(values.dtype) for name, values in stacked.items()},
        "batch": {name: list(value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor)},
        "window": {
            "frames": len(window),
            "action": list(last["action"].shape),
            "image": list(last[IMAGE].shape),
            "padded": last["action_is_pad"].tolist(),
        },
        "policy_features": {
            name: [feature.type.value, list(feature.shape)]
            for name, feature in dataset_to_policy_features(dataset.meta.features).items()
        },
        "stats_gap": {
            name: gap(dataset.meta.stats[name], get_feature_stats(values.astype(np.float64), axis=0, keepdims=False))
            for name, values in stacked.items()
        },
        "rest": [rest.meta.total_episodes, len(rest), list(rest[0][IMAGE].shape)],
        "merged": [merged.meta.total_episodes, len(merged), digest(pixels(merged[0][IMAGE])) == digest(pictures[0])],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
