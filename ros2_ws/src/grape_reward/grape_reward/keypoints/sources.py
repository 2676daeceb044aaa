"""Mask sources and features by name. What needs torch is imported only where it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from grape_reward.keypoints.errors import KeypointsError, WeightsError
from grape_reward.keypoints.features import Features, GeometryFeatures
from grape_reward.keypoints.masks import MaskSource, read_label_image
from grape_reward.keypoints.weights import DINOV2, GROUNDING_DINO, SAM


def mask_source(
    masks: str,
    names: Sequence[str] = (),
    text: Sequence[str] = (),
    sam: Path | None = None,
    grounding_dino: Path | None = None,
    device: str = "auto",
    points: int = 32,
    report: Callable[[int, int, str], None] | None = None,
) -> MaskSource:
    """``masks``: ``sam``, or the path of a label image whose values 1, 2, ... are called ``names``. With ``text``, the
    things of these names only. ``points`` a side of segment-anything's grid; ``report``: see ``SamMasks``.

    Raises WeightsError saying which file goes where, and KeypointsError."""
    if masks != "sam":
        if text:
            raise KeypointsError(f"--text: needs --masks sam; {masks} has its masks already")
        return read_label_image(Path(masks), names)
    if names:
        raise KeypointsError("--names: segment-anything's masks have no names; --text looks for things by name")
    weights = SAM.folder(sam) / SAM.files[0]
    detector_folder = GROUNDING_DINO.folder(grounding_dino) if text else None
    from grape_reward.keypoints.pretrained import best_device
    from grape_reward.keypoints.sam_masks import SamMasks, SamSettings, Segmenter
    from grape_reward.keypoints.sam_model import load_sam

    model = load_sam(weights, best_device(device))
    if detector_folder is None:
        return SamMasks(model, SamSettings(points_per_side=points), report)
    from grape_reward.keypoints.grounding import GroundedMasks, load_detector

    return GroundedMasks(load_detector(detector_folder, device=best_device(device)), Segmenter(model), text)


def feature_source(features: str, dinov2: Path | None = None, device: str = "auto") -> Features:
    """``features``: ``dinov2`` or ``geometry``. Raises WeightsError saying which file goes where."""
    if features == "geometry":
        return GeometryFeatures()
    if features != "dinov2":
        raise KeypointsError(f"features: {features!r}: expected dinov2 or geometry")
    try:
        folder = DINOV2.folder(dinov2)
    except WeightsError as error:
        raise WeightsError(f"{error} (without weights: --features geometry)") from None
    from grape_reward.keypoints.dinov2 import load_dinov2
    from grape_reward.keypoints.pretrained import best_device

    return load_dinov2(folder, best_device(device))
