"""Does every thing on the table get a keypoint at the middle of what is seen of it?

    python benchmarks/keypoint_proposal.py
    python benchmarks/keypoint_proposal.py --features dinov2 --dinov2 FOLDER

Scenes of the simulator: the four tasks, clean and with distractors, initial states from 0; 640x480; the masks are the
simulator's own. A thing is met where a keypoint whose pixel lies in its mask is within 15 mm of the centroid of its
visible surface; a scene, where all of its things are. The centroid is found without the depth image: points spread
evenly over the thing's mesh, those kept that project into its own mask and are not hidden behind a nearer surface.

Every scene is proposed twice: with the renderer's exact depth, which the measure is about, and with depth as from a
stereo camera (noise of 1.5 mm at 1 m growing with the square of the range, 5 % holes, mixed depth along edges).
`surface_share` is the share of things of which the surface at a keypoint's own pixel is that near: what deprojecting
the pixel gives; `surface_share_at_best` the same for the best pixel of the mask. Where the centroid lies inside a mug
or above a basket's floor no pixel's surface is near it: a keypoint of kind `centre` is the centroid itself.

Without weights of DINOv2 the features are `geometry` (colour and surface direction); the output says which were used.
Prints one JSON object; exits with 1 below 95 % of the scenes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import _paths  # noqa: F401
import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from grape_episode.geometry import Array
from grape_reward.camera import Calibration, calibration_hash
from grape_reward.keypoints.features import Features, GeometryFeatures
from grape_reward.keypoints.frame import RgbdFrame
from grape_reward.keypoints.masks import GivenMasks
from grape_reward.keypoints.pipeline import Proposed, propose_keypoints
from grape_sim.camera import View
from grape_sim.objects import object_model
from grape_sim.tasks import SIM_TASKS
from grape_sim.world import World

WIDTH, HEIGHT = 640, 480
NEAR = 0.015
WANTED = 0.95
VARIANTS = ("clean", "distractors")
SAMPLES = 40_000
HIDDEN = 0.004


@dataclass(frozen=True)
class Thing:
    """What was found of one thing, as distances in metres from its visible surface's centroid, infinite without any:
    ``distance`` of the nearest keypoint in its mask, ``surface`` of the surface at such a keypoint's pixel, ``best`` of
    the surface at any pixel of the mask."""

    name: str
    distance: float
    surface: float
    best: float


def scenes(count: int) -> list[tuple[str, str, int]]:
    """(task, variant, initial state), all tasks and variants of an id before the next id."""
    order = ((task, variant, state) for state in itertools.count() for task in SIM_TASKS for variant in VARIANTS)
    return list(itertools.islice(order, count))


def calibration_of(world: World) -> Calibration:
    matrix = world.camera.intrinsics(WIDTH, HEIGHT)
    lens = {name: float(matrix[at]) for name, at in (("fx", (0, 0)), ("fy", (1, 1)), ("cx", (0, 2)), ("cy", (1, 2)))}
    return Calibration(WIDTH, HEIGHT, **lens, pose=world.camera.pose(), camera="simulated camera")


def visible_centroid(world: World, view: View, index: int, seed: int) -> Array | None:
    """(3,) metres, base frame, by the mesh, or None for a thing that is not seen."""
    mesh, pose = object_model(world.keypoint_names[index]).mesh, world.body_pose(index)
    corners = mesh.vertices[mesh.faces]
    sides = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    rng = np.random.default_rng(seed)
    faces = rng.choice(len(area), SAMPLES, p=area / area.sum())
    share = rng.random((SAMPLES, 2, 1))
    share = np.where(share.sum(axis=1, keepdims=True) > 1, 1 - share, share)
    points = pose.rotation.apply(corners[faces, 0] + np.sum(share * sides[faces], axis=1)) + pose.position
    depth = (points - world.camera.pose().position) @ world.camera.pose().rotation.as_matrix()[:, 2]
    pixels = np.round(world.camera.project(points, WIDTH, HEIGHT)).astype(int)
    inside = ((pixels >= 0) & (pixels < [WIDTH, HEIGHT])).all(axis=1)
    points, depth, (u, v) = points[inside], depth[inside], pixels[inside].T
    seen = (view.labels[v, u] == index) & (np.abs(view.depth[v, u] - depth) < HIDDEN)
    return points[seen].mean(axis=0) if seen.any() else None


def as_from_stereo(depth: Array, seed: int) -> Array:
    """Depth (H, W) metres with a stereo camera's faults."""
    rng = np.random.default_rng(seed)
    known = depth > 0
    mixed = cv2.blur(depth, (3, 3))
    edges = cv2.dilate(depth, np.ones((3, 3))) - cv2.erode(depth, np.ones((3, 3))) > 0.02
    noisy = np.where(edges, mixed, depth)
    noisy = noisy + rng.normal(0.0, 0.0015, depth.shape) * noisy**2
    return np.where(known & (rng.random(depth.shape) >= 0.05), noisy, 0.0).astype(np.float32)


def measured(world: World, view: View, proposed: Proposed, calibration: Calibration, seed: int) -> Iterator[Thing]:
    cloud = calibration.cloud(view.depth)
    for index, name in enumerate(world.keypoint_names):
        truth = visible_centroid(world, view, index, seed)
        if truth is None:
            continue
        mine = [one for one in proposed.proposal.keypoints if view.labels[one.pixel[1], one.pixel[0]] == index]
        gaps = [np.linalg.norm(np.array(one.point) - truth) for one in mine]
        surface = [np.linalg.norm(cloud[one.pixel[1], one.pixel[0]] - truth) for one in mine]
        best = np.linalg.norm(cloud[view.labels == index] - truth, axis=1)
        yield Thing(name, *(float(min(some, default=np.inf)) for some in (gaps, surface, best)))


def told(things: Sequence[Sequence[Thing]]) -> dict[str, float]:
    every = [thing for scene in things for thing in scene]
    gaps = np.array([thing.distance for thing in every])
    return {
        "share": float(np.mean([all(thing.distance <= NEAR for thing in scene) for scene in things])),
        "things": len(every),
        "share_of_things": float(np.mean(gaps <= NEAR)),
        "surface_share": float(np.mean([thing.surface <= NEAR for thing in every])),
        "surface_share_at_best": float(np.mean([thing.best <= NEAR for thing in every])),
        "median_mm": round(float(np.median(gaps)) * 1e3, 2),
        "worst_mm": round(float(gaps.max()) * 1e3, 2),
        "worst_thing": max(every, key=lambda thing: thing.distance).name,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--features", choices=("geometry", "dinov2"), default="geometry")
    parser.add_argument("--dinov2", type=Path, help="folder of DINOv2's weights; default: GRAPE_DINOV2")
    parser.add_argument("--picture", type=Path, help="write a contact sheet of four scenes' overlays there")
    arguments = parser.parse_args()
    features: Features = GeometryFeatures()
    if arguments.features == "dinov2":
        from grape_reward.keypoints.dinov2 import load_dinov2
        from grape_reward.keypoints.weights import DINOV2

        features = load_dinov2(DINOV2.folder(arguments.dinov2))
    exact, stereo, counts, seconds, pictures = [], [], [], [], []
    with World() as world:
        calibration = calibration_of(world)
        file_hash = hash_of(calibration)
        for number, (task, variant, state) in enumerate(
            track(scenes(arguments.scenes), "proposing", console=Console(stderr=True))
        ):
            world.reset(task, variant, state)
            view = world.view(WIDTH, HEIGHT)
            masks = GivenMasks(view.labels, world.keypoint_names, 0, "simulator")
            began = time.perf_counter()
            proposed = propose_keypoints(RgbdFrame(view.color, view.depth), calibration, file_hash, masks, features)
            seconds.append(time.perf_counter() - began)
            counts.append(len(proposed.proposal.keypoints))
            exact.append(list(measured(world, view, proposed, calibration, number)))
            noisy = RgbdFrame(view.color, as_from_stereo(view.depth, number))
            again = propose_keypoints(noisy, calibration, file_hash, masks, features)
            stereo.append(list(measured(world, view, again, calibration, number)))
            if arguments.picture is not None and state == 0 and variant == "distractors":
                pictures.append(proposed.overlay())
    if arguments.picture is not None:
        save_sheet(pictures, arguments.picture)
    result = {
        "benchmark": "keypoint_proposal",
        "features": features.described,
        "masks": "simulator",
        "scenes": len(exact),
        "near_mm": NEAR * 1e3,
        "wanted_share": WANTED,
        **told(exact),
        "stereo_depth": told(stereo),
        "keypoints_a_scene": round(float(np.mean(counts)), 1),
        "seconds_a_frame": round(float(np.median(seconds)), 3),
    }
    print(json.dumps(result))
    return 0 if result["share"] >= WANTED else 1


def hash_of(calibration: Calibration) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "camera.yaml"
        calibration.save(path)
        return calibration_hash(path)


def save_sheet(pictures: Sequence[Array], path: Path) -> None:
    """Two columns; eight bits a pixel, so that the documentation stays small."""
    rows = [np.concatenate(pictures[start : start + 2], axis=1) for start in range(0, len(pictures) - 1, 2)]
    sheet = Image.fromarray(np.concatenate(rows)).quantize(128, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
