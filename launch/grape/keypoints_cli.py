"""`grape keypoints`: numbered keypoints from one RGB-D frame, for a vision-language model and for the tracker."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from grape.console import CommandError, console, progress, table

app = typer.Typer(help="Keypoints: points on things, in the robot's base frame.", no_args_is_help=True)


class FeatureKind(StrEnum):
    dinov2 = "dinov2"
    geometry = "geometry"


@app.callback()
def keypoints() -> None:
    """Keypoints: points on things, in the robot's base frame."""


@app.command()
def propose(
    color: Annotated[Path, typer.Option(help="PNG or JPEG of the scene, rectified.")],
    depth: Annotated[Path, typer.Option(help="Aligned to it: PNG (16 bits, millimetres) or NPZ (`depth`, metres).")],
    calibration: Annotated[Path, typer.Option(help="Calibration file of the camera; its hash goes into the result.")],
    masks: Annotated[str, typer.Option(help="sam, or a PNG label image: 0 nothing, any other value a thing.")],
    out: Annotated[Path, typer.Option(help="Folder for keypoints.json, overlay.png and masks.png.")],
    names: Annotated[str, typer.Option(help="Names of the label image's values 1, 2, ..., with commas.")] = "",
    text: Annotated[str, typer.Option(help='Only things of these names, e.g. "carrot, plate" (GroundingDINO).')] = "",
    features: Annotated[
        FeatureKind, typer.Option(help="What divides a thing into parts; geometry (with colour) needs no weights.")
    ] = FeatureKind.dinov2,
    sam: Annotated[Path | None, typer.Option(help="Folder of segment-anything's weights. Default: GRAPE_SAM.")] = None,
    dinov2: Annotated[Path | None, typer.Option(help="Folder of DINOv2's weights. Default: GRAPE_DINOV2.")] = None,
    grounding_dino: Annotated[
        Path | None, typer.Option(help="Folder of GroundingDINO's weights. Default: GRAPE_GROUNDING_DINO.")
    ] = None,
    points: Annotated[
        int, typer.Option(min=1, max=128, help="Points a side at which segment-anything looks for things.")
    ] = 32,
    workspace: Annotated[
        str, typer.Option(help='Only what is in this box, base frame, metres: "x0 y0 z0 x1 y1 z1".')
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=64, help="So many keypoints at most.")] = 32,
    bandwidth: Annotated[float, typer.Option(min=0.001, max=1.0, help="Keypoints nearer than this merge, m.")] = 0.06,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of k-means.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Propose keypoints: masks, features, clusters, points in the base frame, and a numbered overlay image.

    Weights are safetensors in folders on this machine; nothing is downloaded."""
    from grape_reward.camera import calibration_hash, load_calibration
    from grape_reward.keypoints.candidates import CandidateSettings
    from grape_reward.keypoints.frame import read_frame
    from grape_reward.keypoints.pipeline import OVERLAY, propose_keypoints
    from grape_reward.keypoints.sources import feature_source, mask_source

    settings = CandidateSettings(bandwidth=bandwidth, limit=limit, workspace=_box(workspace), seed=seed)
    camera = load_calibration(calibration)
    frame = read_frame(color, depth, camera)
    extractor = feature_source(features.value, dinov2, device)
    with progress("segmenting") as report:
        source = mask_source(masks, _words(names), _words(text), sam, grounding_dino, device, points, report)
        proposed = propose_keypoints(frame, camera, calibration_hash(calibration), source, extractor, settings)
    written = proposed.save(out)
    told = proposed.proposal
    rows = [
        [
            f"{one.number} {one.name}".strip(),
            one.kind,
            " ".join(f"{x:.3f}" for x in one.point),
            " ".join(str(x) for x in one.pixel),
            f"{one.confidence:.2f}",
        ]
        for one in told.keypoints
    ]
    table(f"{written} (features: {told.features})", ["keypoint", "kind", "x y z (m)", "u v", "confidence"], rows)
    for note in told.notes:
        console.print(note, markup=False, soft_wrap=True)
    count = len(told.keypoints)
    console.print(
        f"next: grape costs propose --image {out / OVERLAY} --keypoints {count} ...", markup=False, soft_wrap=True
    )


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(words):
        raise CommandError(f"{text!r}: an empty name between commas")
    return words


def _box(text: str) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    if not text.strip():
        return None
    try:
        x0, y0, z0, x1, y1, z1 = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise CommandError(f"--workspace: {text!r}: expected six numbers: x0 y0 z0 x1 y1 z1") from None
    return (x0, y0, z0), (x1, y1, z1)
