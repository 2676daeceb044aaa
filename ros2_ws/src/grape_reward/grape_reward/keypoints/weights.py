"""Where the weights of the pretrained models lie: folders named by the user, safetensors only, nothing downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grape_reward.keypoints.errors import WeightsError

_WEIGHTS = "model.safetensors"
_PICKLES = {".pth", ".pt", ".bin", ".ckpt"}


@dataclass(frozen=True)
class Weights:
    """A pretrained model: ``variable`` of the environment that names its folder, the ``files`` that belong into it
    (the first holds the weights), and the model on the Hugging Face hub that has them as ``source``."""

    title: str
    variable: str
    option: str
    source: str
    files: tuple[str, ...]

    def folder(self, named: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
        """The folder that holds all files: ``named``, else the environment's. A path to the weights' file itself
        stands for its folder. Raises WeightsError saying which file goes where."""
        told = named or (Path(environment[self.variable]) if environment.get(self.variable, "").strip() else None)
        if told is None:
            raise WeightsError(
                f"{self.title}: no weights named: put {' and '.join(self.files)} of {self.source} into a folder "
                f"and name it by {self.option} or {self.variable}"
            )
        self._refuse_pickle(told)
        folder = told.parent if told.name == self.files[0] else told
        missing = [name for name in self.files if not (folder / name).is_file()]
        if missing:
            for old in sorted(folder.glob("*")) if folder.is_dir() and self.files[0] in missing else ():
                self._refuse_pickle(old)
            raise WeightsError(f"{folder / missing[0]}: missing; {self.files_wanted(folder)}")
        return folder

    def files_wanted(self, folder: Path) -> str:
        """How to fill the folder, for a message."""
        return (
            f"{self.title} needs {' and '.join(self.files)} of {self.source} in {folder}: "
            f"hf download {self.source} {' '.join(self.files)} --local-dir {folder}"
        )

    def _refuse_pickle(self, path: Path) -> None:
        if path.suffix in _PICKLES:
            raise WeightsError(
                f"{path}: refused: a pickle can run code when it is opened; {self.files_wanted(path.parent)} "
                "(or write its tensors with safetensors.torch.save_file on a machine you can spare)"
            )


SAM = Weights("segment-anything", "GRAPE_SAM", "--sam", "facebook/sam-vit-base", (_WEIGHTS,))
DINOV2 = Weights("DINOv2", "GRAPE_DINOV2", "--dinov2", "facebook/dinov2-small", (_WEIGHTS, "config.json"))
GROUNDING_DINO = Weights(
    "GroundingDINO",
    "GRAPE_GROUNDING_DINO",
    "--grounding-dino",
    "IDEA-Research/grounding-dino-tiny",
    (_WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"),
)
