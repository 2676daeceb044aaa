"""From one RGB-D frame to numbered keypoints: masks, features, candidates, merge, points, files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from grape_reward.camera import Calibration
from grape_reward.keypoints.candidates import Candidate, CandidateSettings, in_order, merged, of_mask
from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.features import Features
from grape_reward.keypoints.frame import RgbdFrame, check_frame
from grape_reward.keypoints.masks import Color, Mask, MaskSource, label_image
from grape_reward.keypoints.result import KeypointProposal, keypoints_of
from grape_reward.keypoints.surface import Surface
from grape_reward.overlay import numbered

PROPOSAL, OVERLAY, MASKS = "keypoints.json", "overlay.png", "masks.png"


@dataclass(frozen=True, eq=False)
class Proposed:
    """A proposal, the frame it is of, and its masks in the order of their indices."""

    proposal: KeypointProposal
    frame: RgbdFrame
    masks: tuple[Mask, ...]

    def overlay(self) -> Color:
        """The frame's image (H, W, 3) uint8 RGB with a numbered disc at every keypoint's pixel."""
        return numbered(self.frame.color, self.proposal.pixels.astype(np.float64))

    def save(self, folder: Path) -> Path:
        """Write keypoints.json, the numbered overlay.png and masks.png (16 bits: 0 nothing, else 1 + the index of the
        mask; where masks overlap the smaller one shows). Returns the path of the first, which is written last. Raises
        KeypointsError naming a folder that cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label_image(self.masks)).save(folder / MASKS)
            Image.fromarray(self.overlay()).save(folder / OVERLAY)
            self.proposal.save(folder / PROPOSAL)
        except OSError as error:
            raise KeypointsError(f"{error.filename or folder}: {error.strerror or error}") from None
        return folder / PROPOSAL


def propose_keypoints(
    frame: RgbdFrame,
    calibration: Calibration,
    calibration_hash: str,
    masks: MaskSource,
    features: Features,
    settings: CandidateSettings | None = None,
) -> Proposed:
    """Keypoints of the things in a frame, numbered from the top down. The same input gives the same keypoints.

    ``calibration_hash``: sha256 of the calibration's file (``camera.calibration_hash``). Raises KeypointsError where
    sizes differ, no pixel has depth, or nothing is left to propose."""
    settings = settings or CandidateSettings()
    frame = check_frame(frame, calibration)
    found = masks(frame.color)
    if not found:
        raise KeypointsError(f"{masks.described}: no mask in the image")
    surface = Surface.of(frame.depth, calibration)
    grid = features(frame.color, surface.cloud)
    candidates = [
        one for index, mask in enumerate(found) for one in of_mask(index, mask, surface, grid, calibration, settings)
    ]
    kept = in_order(merged(candidates, found, settings), settings)
    if not kept:
        raise KeypointsError(f"{masks.described}: {len(found)} masks, none of a thing that has depth and is in reach")
    proposal = KeypointProposal(
        camera=calibration.camera,
        calibration=calibration_hash,
        width=calibration.width,
        height=calibration.height,
        masks=masks.described,
        features=features.described,
        seed=settings.seed,
        keypoints=keypoints_of(kept, [mask.name for mask in found]),
        notes=tuple(_notes(found, candidates, kept)),
    )
    return Proposed(proposal, frame, tuple(found))


def _notes(masks: list[Mask], candidates: list[Candidate], kept: list[Candidate]) -> list[str]:
    """Which masks have no keypoint."""
    tried, left = {one.mask for one in candidates}, {one.mask for one in kept}
    notes = []
    for index, mask in enumerate(masks):
        told = f"mask {index}{f' ({mask.name})' if mask.name else ''}"
        if index not in tried:
            notes.append(f"{told}: skipped: too large, too small, without depth, or outside the workspace")
        elif index not in left:
            notes.append(f"{told}: no keypoint of its own: merged into others or over the limit")
    return notes
