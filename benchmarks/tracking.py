"""Tracked keypoints against the simulator's ground truth, on episodes that nothing was tuned on.

    python benchmarks/tracking.py
    python benchmarks/tracking.py --rate 5 --frames-out runs/tracking

Per task five episodes of the scripted expert, 4 mm of noise in its actions: initial states from 0, variants clean,
distractors, obstacle in turn (the expert goes straight through the obstacle and knocks it over). 640x480 at 15 Hz of
simulated time. The tracker starts from the simulator's masks and keypoints of the first frame and sees nothing but
images, the TCP pose and the gripper's width from then on. Every episode is tracked twice: with the renderer's depth
rounded to millimetres, as the camera's topic has it, which the measure is about, and with depth as from a stereo camera
(`as_from_stereo` of keypoint_proposal.py).

A keypoint of a frame counts where its object shows at least 100 pixels in the simulator's mask. All of these enter the
errors, also where the tracker says that it does not know. Lost: confidence below the threshold, or 5 cm or more off.
`sure_but_wrong`: confidence above it and 3 cm or more off. `moved`: only from where the object is 5 mm off its start.

Prints one JSON object; exits 1 above 1 cm in the median, 3 cm in the 95th percentile, or 5 % lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import _paths  # noqa: F401
import numpy as np
from keypoint_proposal import HEIGHT, WIDTH, as_from_stereo, calibration_of
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from grape_episode.geometry import Array
from grape_reward.overlay import tracked_overlay
from grape_reward.tracking import KNOWN, ObjectStart, Tracked, Tracker
from grape_sim.camera import View
from grape_sim.demos import integrate
from grape_sim.expert import Expert
from grape_sim.tasks import SEEN, SIM_TASKS
from grape_sim.world import Observation, World

PIXELS = 100
NOISE = 0.004
AFTER_SUCCESS = 5
MEDIAN, P95, LOST = 0.010, 0.030, 0.05
FAR, WRONG, MOVED = 0.05, 0.03, 0.005
CONTROL = 0.2


@dataclass
class Samples:
    """Of every keypoint of every frame: error in metres, confidence, pixels in view, whether it has moved; of every
    frame: milliseconds by the clock, and of the processor, which do not depend on what else the machine does."""

    error: list[Array] = field(default_factory=list)
    confidence: list[Array] = field(default_factory=list)
    pixels: list[NDArray[np.int64]] = field(default_factory=list)
    moved: list[NDArray[np.bool_]] = field(default_factory=list)
    first: list[NDArray[np.bool_]] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add(self, tracked: Tracked, truth: Array, start: Array, pixels: NDArray[np.int64]) -> None:
        self.error.append(np.linalg.norm(tracked.keypoints - truth, axis=1))
        self.confidence.append(tracked.confidence)
        self.pixels.append(pixels)
        self.moved.append(np.linalg.norm(truth - start, axis=1) > MOVED)
        self.first.append(np.arange(len(truth)) == 0)

    def extend(self, other: Samples) -> None:
        for name in vars(self):
            getattr(self, name).extend(getattr(other, name))

    def told(self) -> dict[str, object]:
        """The figures: of all keypoints, of those that have moved, and of the object to be handled alone."""
        error, confidence, pixels, moved, first = (
            np.concatenate(values) for values in (self.error, self.confidence, self.pixels, self.moved, self.first)
        )
        seen = pixels >= PIXELS
        return {
            **_figures(error[seen], confidence[seen]),
            "moved": _figures(error[seen & moved], confidence[seen & moved]),
            "object": _figures(error[seen & first], confidence[seen & first]),
            "frames": len(self.error),
            "ms_per_frame": round(float(np.mean(self.wall)), 2),
            "processor_ms_per_frame": round(float(np.mean(self.processor)), 2),
            "processor_ms_per_frame_p95": round(float(np.percentile(self.processor, 95)), 2),
        }


def _figures(error: Array, confidence: Array) -> dict[str, float]:
    if not len(error):
        return {"keypoints_seen": 0}
    return {
        "keypoints_seen": len(error),
        "median_mm": round(1e3 * float(np.median(error)), 2),
        "p95_mm": round(1e3 * float(np.percentile(error, 95)), 2),
        "worst_mm": round(1e3 * float(error.max()), 2),
        "lost": round(float(np.mean((confidence < KNOWN) | (error >= FAR))), 4),
        "sure_but_wrong": round(float(np.mean((confidence >= KNOWN) & (error >= WRONG))), 4),
    }


def episodes(count: int, first_state: int) -> list[tuple[str, str, int]]:
    """(task, variant, initial state), ``count`` of each task."""
    return [(task, SEEN[i % len(SEEN)], first_state + i) for task in SIM_TASKS for i in range(count)]


def frames(world: World, task: str, variant: str, state: int, rate: float) -> Iterator[tuple[Observation, View]]:
    """What robot and camera say, ``rate`` times a second of simulated time, while the expert does an episode."""
    expert, observation = Expert(world), world.reset(task, variant, state)
    reference = observation.tcp
    rng = np.random.default_rng([state, list(SIM_TASKS).index(task)])
    parts = round(CONTROL * rate)
    after = 0
    for _ in range(SIM_TASKS[task].step_limit):
        action = expert.action(observation)
        action[:3] += NOISE * rng.normal(size=3)
        reference = integrate(reference, observation.tcp, action)
        world.set_target(reference, float(action[6]))
        for _ in range(parts):
            yield world.observe(color=False, depth=False), world.view(WIDTH, HEIGHT)
            world.advance(CONTROL / parts)
        observation = world.observe(color=False, depth=False)
        after = after + 1 if observation.status.success else 0
        if after > AFTER_SUCCESS:
            return


def follow_episode(
    world: World, task: str, variant: str, state: int, rate: float
) -> tuple[Samples, Samples, list[NDArray[np.uint8]]]:
    """Track an episode by the renderer's depth and by a stereo camera's; and the overlay of every fourth frame."""
    trackers: list[Tracker] = []
    exact, stereo = Samples(), Samples()
    pictures = []
    start: Array = np.zeros((0, 3))
    calibration = calibration_of(world)
    for number, (observation, view) in enumerate(frames(world, task, variant, state, rate)):
        if not trackers:
            start = observation.keypoints
            starts = [
                ObjectStart(name, start[i : i + 1], view.labels == i)
                for i, name in enumerate(observation.keypoint_names)
            ]
            trackers = [Tracker(calibration, starts, seed=state) for _ in range(2)]
        pixels = np.bincount(view.labels[view.labels >= 0], minlength=len(start))
        millimetres = (np.round(view.depth * 1000) / 1000).astype(np.float32)
        depths = (millimetres, as_from_stereo(view.depth, number).astype(np.float32))
        stamp = round(observation.time * 1e9)
        for samples, tracker, depth in zip((exact, stereo), trackers, depths, strict=True):
            began = time.perf_counter(), time.process_time()
            tracked = tracker.update(view.color, depth, observation.tcp, observation.gripper_width, stamp)
            samples.wall.append(1e3 * (time.perf_counter() - began[0]))
            samples.processor.append(1e3 * (time.process_time() - began[1]))
            samples.add(tracked, observation.keypoints, start, pixels)
            if samples is exact and number % 4 == 0:
                pictures.append(tracked_overlay(view.color, calibration, tracked))
    return exact, stereo, pictures


def save_sheet(pictures: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """Two columns, of eight bits a pixel, so that the documentation stays small."""
    rows = [np.concatenate(pictures[start : start + 2], axis=1) for start in range(0, len(pictures) - 1, 2)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=5, help="of each task")
    parser.add_argument("--first-state", type=int, default=0, help="initial state of each task's first episode")
    parser.add_argument("--rate", type=float, default=15.0, help="frames per second of simulated time: 5, 10 or 15")
    parser.add_argument("--frames-out", type=Path, help="write overlays of every fourth frame, and a sheet, there")
    arguments = parser.parse_args()
    if arguments.rate not in (5.0, 10.0, 15.0) or arguments.episodes < 1:
        parser.error("--rate must be 5, 10 or 15, and --episodes at least 1")
    tasks = {task: (Samples(), Samples()) for task in SIM_TASKS}
    console = Console(stderr=True)
    sheet: dict[str, NDArray[np.uint8]] = {}
    with World() as world:
        plan = episodes(arguments.episodes, arguments.first_state)
        for task, variant, state in track(plan, "tracking", console=console):
            exact, stereo, pictures = follow_episode(world, task, variant, state, arguments.rate)
            tasks[task][0].extend(exact)
            tasks[task][1].extend(stereo)
            told = exact.told()
            console.print(f"{task} {variant} {state}: " + ", ".join(f"{k} {told[k]}" for k in ("p95_mm", "lost")))
            if arguments.frames_out is not None:
                arguments.frames_out.mkdir(parents=True, exist_ok=True)
                for number, picture in enumerate(pictures):
                    name = f"{task}_{variant}_{state}_{4 * number:03d}.png"
                    Image.fromarray(picture).save(arguments.frames_out / name)
                # Each task shows another of its episodes, two thirds through: the object is on its way.
                if state - arguments.first_state == len(sheet) % arguments.episodes:
                    sheet[task] = pictures[2 * len(pictures) // 3]
    if arguments.frames_out is not None:
        save_sheet(list(sheet.values()), arguments.frames_out / "tracking.png")
    whole = (Samples(), Samples())
    for pair in tasks.values():
        whole[0].extend(pair[0])
        whole[1].extend(pair[1])
    figures = whole[0].told()
    result = {
        "benchmark": "tracking",
        "episodes": len(plan),
        "rate_hz": arguments.rate,
        "first_state": arguments.first_state,
        "visible_from_pixels": PIXELS,
        "wanted": {"median_mm": 1e3 * MEDIAN, "p95_mm": 1e3 * P95, "lost": LOST},
        **figures,
        "stereo_depth": whole[1].told(),
        "tasks": {task: pair[0].told() for task, pair in tasks.items()},
    }
    print(json.dumps(result))
    good = figures["median_mm"] <= 1e3 * MEDIAN and figures["p95_mm"] <= 1e3 * P95 and figures["lost"] < LOST
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
