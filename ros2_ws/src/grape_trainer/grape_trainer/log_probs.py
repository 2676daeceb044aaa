"""Log-probs of whole trajectories under fixed weights, the base model's or an adapter's, each computed once.

They are kept on disk by episode, base model, adapter, number type and code, so that a restart, another method or
another process finds them: the log-probs of the reference policy, and of the adapter that recorded the episode."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from grape_policy.adapters import AdapterError, LoraWeights, read_adapter
from grape_policy.identity import CODE_VERSION
from grape_trainer import tpo
from grape_trainer.blur import SURE
from grape_trainer.errors import NonFiniteError, TrainingError
from grape_trainer.files import write_bytes
from grape_trainer.learner import Learner
from grape_trainer.trajectories import Trajectory

REVISION = 1
"""To be raised with every change of the code that changes the numbers."""


class Adapters:
    """Adapters by id, from the folders of a registry; ``known``: further folders by id."""

    def __init__(self, base_hash: str, registry: Path | None, known: dict[str, Path] | None = None) -> None:
        self._base_hash, self._registry, self._known = base_hash, registry, dict(known or {})
        self._last: LoraWeights | None = None

    def get(self, adapter_id: str) -> LoraWeights | None:
        """The adapter's weights, None for the base model alone. Raises TrainingError naming it."""
        if not adapter_id:
            return None
        if self._last is not None and self._last.manifest.adapter_id == adapter_id:
            return self._last
        folder = self._known.get(adapter_id)
        if folder is None and self._registry is not None and Path(adapter_id).name == adapter_id:
            folder = self._registry / adapter_id
        if folder is None or not folder.is_dir():
            where = f"not in {self._registry}" if self._registry else "no registry is given"
            raise TrainingError(f"adapter {adapter_id[:12]} that recorded it is not at hand: {where}")
        try:
            found = read_adapter(folder, self._base_hash)
        except AdapterError as error:
            raise TrainingError(str(error)) from None
        if found.manifest.adapter_id != adapter_id:
            raise TrainingError(f"{folder}: holds adapter {found.manifest.adapter_id[:12]}")
        self._last = found
        return found


class LogProbs:
    """(T, 7) float64 log-probs by trajectory and adapter id (empty: the base model alone). ``folder``: on the disk;
    ``blur``: the learner's own where the actions are to be as its loss sees them, 0: the exact tokens'."""

    def __init__(self, learner: Learner, adapters: Adapters, folder: Path, blur: float = 0.0) -> None:
        self._learner, self._adapters, self._folder, self._blur = learner, adapters, folder, blur
        self._known: dict[str, Tensor] = {}
        self.computed = 0
        """Trajectories that have been passed through the model."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the base weights."""
        return self._learner.dtype

    def of(self, trajectory: Trajectory, adapter_id: str) -> Tensor:
        """Raises TrainingError naming an adapter that is not at hand, NonFiniteError naming the bag."""
        key = self._key(trajectory, adapter_id)
        if key not in self._known:
            values = self._read(key, len(trajectory))
            if values is None:
                values = self._compute(trajectory, adapter_id)
                write_bytes(self._path(key), save({"log_probs": values}))
            self._known[key] = values
        return self._known[key]

    def _compute(self, trajectory: Trajectory, adapter_id: str) -> Tensor:
        learner = self._learner
        learner.reference_sure(trajectory)  # before another adapter takes its place
        with learner.under(self._adapters.get(adapter_id)):
            read = learner.seen_log_probs if self._blur else learner.log_probs
            values = tpo.token_log_probs(read, trajectory, learner.chunk).cpu()
        self.computed += 1
        if not bool(torch.isfinite(values).all()):
            under = f"adapter {adapter_id[:12]}" if adapter_id else "the base model"
            raise NonFiniteError(f"{trajectory.path}: log-probs under {under} are not finite")
        return values

    def _read(self, key: str, steps: int) -> Tensor | None:
        try:
            values = load_file(self._path(key))["log_probs"]
        except (OSError, SafetensorError, KeyError):
            return None  # not there, or damaged: it is computed again
        whole = values.shape == (steps, 7) and values.dtype == torch.float64 and bool(torch.isfinite(values).all())
        return values if whole else None

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _key(self, trajectory: Trajectory, adapter_id: str) -> str:
        learner = self._learner
        told = {
            "episode": trajectory.episode_id,
            "digest": trajectory.digest,
            "base": learner.base_hash,
            "adapter": adapter_id,
            "dtype": str(learner.dtype),
            "device": learner.device.type,
            "chunk": learner.chunk,  # another one may change the last bits
            "code": f"{CODE_VERSION}/{REVISION}/{torch.__version__}",
            **({"blurred": [self._blur, SURE]} if self._blur else {}),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
