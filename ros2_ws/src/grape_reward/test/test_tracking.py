"""Boxes of known motion: followed, covered, held, dropped, found again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array, Pose
from grape_reward.raycast import Box, lab_camera, raycast
from grape_reward.tracking import KNOWN, ObjectStart, Tracked, Tracker, TrackingError

CAMERA = lab_camera()
OPEN, CLOSED = 0.085, 0.06
AWAY = Pose(np.array([0.45, 0.0, 0.5]), np.array([1.0, 0, 0, 0]))
PERIOD = 1.0 / 15.0
Hand = Callable[[float], tuple[Pose, float]]


def cube(x: float, y: float, z: float = 0.035, yaw: float = 0.0) -> Box:
    turn = Rotation.from_euler("z", yaw).as_quat()
    return Box((0.07, 0.07, 0.07), Pose(np.array([x, y, z]), turn), (60, 150, 60), seed=1)


def brick(x: float, y: float) -> Box:
    return Box((0.10, 0.05, 0.04), Pose(np.array([x, y, 0.02])), (190, 70, 60), seed=2)


def screen(y: float) -> Box:
    """A plain grey wall between the camera and the middle of the table."""
    return Box((0.02, 0.22, 0.30), Pose(np.array([0.62, y, 0.15])), (95, 95, 100), 0.0)


def resting(_: float) -> tuple[Pose, float]:
    return AWAY, OPEN


def tracker_of(boxes: list[Box], things: int, names: tuple[str, ...] = ("cube", "brick"), seed: int = 0) -> Tracker:
    """Tracks the first ``things`` boxes, each by one keypoint in its middle."""
    labels = raycast(CAMERA, boxes)[2]
    starts = [ObjectStart(names[i], boxes[i].pose.position[None], labels == i) for i in range(things)]
    return Tracker(CAMERA, starts, seed)


def follow(
    scene: Callable[[float], list[Box]], seconds: float, things: int = 1, hand: Hand = resting, seed: int = 0
) -> Iterator[tuple[float, Tracked, Array]]:
    """(time, what is tracked, error of each thing in metres) of every frame of a scene."""
    tracker = tracker_of(scene(0.0), things, seed=seed)
    for frame in range(round(seconds / PERIOD)):
        time = frame * PERIOD
        boxes = scene(time)
        color, depth, _ = raycast(CAMERA, boxes)
        tracked = tracker.update(color, depth, *hand(time), stamp=1 + round(time * 1e9))
        truth = np.array([box.pose.position for box in boxes[:things]])
        yield time, tracked, np.linalg.norm(tracked.keypoints - truth, axis=1)


def test_things_at_rest_stay_where_they_are() -> None:
    for _, tracked, error in follow(lambda t: [cube(0.45, -0.05), brick(0.45, 0.12)], 0.6, things=2):
        assert error.max() < 0.0005 and tracked.confidence.min() > 0.95 and tracked.visible.all()


def test_a_thing_that_slides_and_turns_is_followed() -> None:
    def scene(time: float) -> list[Box]:
        return [cube(0.42 + 0.08 * time, -0.06 + 0.12 * time, yaw=0.6 * time), brick(0.35, -0.15)]

    for _, tracked, error in follow(scene, 1.4, things=2):
        assert error.max() < 0.004 and tracked.confidence.min() > 0.7


def test_all_keypoints_of_an_object_move_with_it() -> None:
    corners = np.array([[0.03, 0.03, 0.03], [-0.03, 0.03, 0.03], [0.0, 0.0, -0.03]])

    def at(time: float) -> Box:
        return cube(0.45 + 0.05 * time, 0.0, yaw=0.8 * time)

    first = at(0.0)
    labels = raycast(CAMERA, [first])[2]
    start = ObjectStart("cube", first.pose.rotation.apply(corners) + first.pose.position, labels == 0)
    tracker = Tracker(CAMERA, [start], 0)
    assert tracker.names == ("cube_0", "cube_1", "cube_2")
    for frame in range(15):
        box = at(frame * PERIOD)
        color, depth, _ = raycast(CAMERA, [box])
        tracked = tracker.update(color, depth, AWAY, OPEN, 1 + frame)
        truth = box.pose.rotation.apply(corners) + box.pose.position
        assert np.linalg.norm(tracked.keypoints - truth, axis=1).max() < 0.005


def test_a_covered_thing_keeps_its_place_while_confidence_falls_and_is_known_again_after() -> None:
    """The screen passes from one side to the other, and waits before the cube."""

    def scene(time: float) -> list[Box]:
        side = np.interp(time, [0.3, 0.7, 2.7, 3.1], [-0.3, -0.06, -0.06, 0.3])
        return [cube(0.45, 0.0), screen(float(side))]

    hidden, after = [], []
    for time, tracked, error in follow(scene, 3.8):
        assert error[0] < 0.005
        if 0.9 < time < 2.6:
            assert not tracked.visible[0]
            hidden.append(float(tracked.confidence[0]))
        if time > 3.5:
            after.append(float(tracked.confidence[0]))
    assert (np.diff(hidden) < 0).all() and hidden[-1] < 0.8 * hidden[0]
    assert min(after) > 0.9


def test_a_thing_covered_for_long_is_unknown() -> None:
    def scene(time: float) -> list[Box]:
        return [cube(0.45, 0.0), screen(-0.06 if time > 0.1 else -0.4)]

    tracker = tracker_of(scene(0.0), 1)
    for frame, time in enumerate([0.0, 0.2, 2.0, 6.0]):
        color, depth, _ = raycast(CAMERA, scene(time))
        tracked = tracker.update(color, depth, AWAY, OPEN, 1 + frame + round(time * 1e9))
    assert tracked.confidence[0] < KNOWN and np.isnan(tracked.known()).all()
    assert np.linalg.norm(tracked.keypoints[0] - [0.45, 0, 0.035]) < 0.003, "the estimate is still there"


@pytest.mark.parametrize("closed", [True, False])
def test_a_covered_thing_goes_with_a_closed_gripper_and_not_with_an_open_one(closed: bool) -> None:
    """Behind the screen the hand goes 10 cm aside; with the gripper closed on the cube, it takes the cube along."""

    def way(time: float) -> float:
        return float(np.interp(time, [0.8, 1.6], [0.0, 0.10]))

    def scene(time: float) -> list[Box]:
        side = -0.01 if time > 0.3 else -0.5
        return [cube(0.45, way(time) if closed else 0.0), screen(side)]

    def hand(time: float) -> tuple[Pose, float]:
        width = CLOSED if closed and time > 0.1 else OPEN
        return Pose(np.array([0.45, way(time), 0.05]), np.array([1.0, 0, 0, 0])), width

    last = None
    for time, tracked, error in follow(scene, 1.8, hand=hand):
        if time > 0.5:
            assert not tracked.visible[0]
        last = error[0]
    assert last is not None and last < 0.004


def test_a_thing_moved_while_covered_is_found_again() -> None:
    def scene(time: float) -> list[Box]:
        where = (0.45, 0.0, 0.035, 0.0) if time < 0.8 else (0.40, 0.13, 0.035, 0.7)
        side = -0.06 if 0.2 < time < 1.2 else 0.6
        return [cube(*where), screen(side), brick(0.33, -0.12)]

    found = [(tracked, error) for time, tracked, error in follow(scene, 2.4) if time > 2.1]
    for tracked, error in found:
        assert error[0] < 0.006 and tracked.confidence[0] > KNOWN and tracked.visible[0]


def test_a_thing_that_is_gone_is_unknown_although_another_of_other_colour_is_there() -> None:
    def scene(time: float) -> list[Box]:
        return [brick(0.45, 0.15)] if time > 0.3 else [brick(0.45, 0.15), cube(0.45, 0.0)]

    boxes = scene(0.0)
    labels = raycast(CAMERA, boxes)[2]
    tracker = Tracker(CAMERA, [ObjectStart("cube", boxes[1].pose.position[None], labels == 1)], 0)
    for frame in range(30):
        color, depth, _ = raycast(CAMERA, scene(frame * PERIOD))
        tracked = tracker.update(color, depth, AWAY, OPEN, 1 + round(frame * PERIOD * 1e9))
    assert tracked.confidence[0] < 0.1 and np.isnan(tracked.known()).all()


def test_holes_and_noise_in_the_depth_are_borne() -> None:
    rng = np.random.default_rng(0)
    tracker = tracker_of([cube(0.42, -0.06)], 1)
    for frame in range(20):
        box = cube(0.42 + 0.005 * frame, -0.06 + 0.008 * frame, yaw=0.03 * frame)
        color, depth, _ = raycast(CAMERA, [box])
        depth = depth + rng.normal(0, 0.002, depth.shape).astype(np.float32)
        depth[rng.random(depth.shape) < 0.1] = rng.choice([0.0, np.nan])
        tracked = tracker.update(color, depth, AWAY, OPEN, 1 + frame * 66_000_000)
        assert np.linalg.norm(tracked.keypoints[0] - box.pose.position) < 0.006 and tracked.confidence[0] > 0.7


def fingerprint() -> str:
    """Hash of everything tracked in an episode with an occlusion, under a seed that is any 64 bits."""

    def scene(time: float) -> list[Box]:
        side = np.interp(time, [0.2, 1.0], [-0.3, 0.3])
        return [cube(0.45, -0.08 + 0.1 * time), screen(float(side))]

    sha = hashlib.sha256()
    for _, tracked, _ in follow(scene, 1.2, seed=-3):
        sha.update(tracked.keypoints.tobytes() + tracked.confidence.tobytes())
    return sha.hexdigest()


def test_the_same_frames_and_seed_give_the_same_bits_here_and_in_another_process() -> None:
    here = [fingerprint(), fingerprint()]
    program = "import sys; sys.path.insert(0, sys.argv[1]); import test_tracking; print(test_tracking.fingerprint())"
    there = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert here == [there.stdout.split()[-1]] * 2


def test_what_hardly_shows_at_the_start_is_unknown_throughout() -> None:
    boxes = [cube(0.45, 0.0), brick(0.45, 0.15)]
    color, depth, labels = raycast(CAMERA, boxes)
    speck = np.zeros_like(labels, dtype=bool)
    speck[100, 100:103] = True
    starts = [
        ObjectStart("cube", boxes[0].pose.position[None], labels == 0),
        ObjectStart("ghost", boxes[1].pose.position[None], speck),
    ]
    tracker = Tracker(CAMERA, starts, 0)
    for stamp in (1, 2, 3):
        tracked = tracker.update(color, depth, AWAY, OPEN, stamp)
        assert tracked.confidence[1] == 0.0 and not tracked.visible[1] and tracked.confidence[0] > 0.9
    assert tracker.untracked == ("ghost",)
    assert np.isnan(tracked.known()[1]).all() and np.isfinite(tracked.known()[0]).all()


def test_nothing_trackable_at_all_is_no_crash() -> None:
    color, depth, labels = raycast(CAMERA, [cube(0.45, 0.0)])
    tracker = Tracker(CAMERA, [ObjectStart("ghost", np.zeros((2, 3)), np.zeros_like(labels, dtype=bool))], 0)
    for stamp in (1, 2):
        assert (tracker.update(color, depth, AWAY, OPEN, stamp).confidence == 0).all()


def refused(text: str, call: Callable[[], object]) -> None:
    with pytest.raises(TrackingError, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_starts_that_do_not_fit_are_named() -> None:
    good = raycast(CAMERA, [cube(0.45, 0.0)])[2] == 0
    refused("no object", lambda: Tracker(CAMERA, [], 0))
    refused("cup: mask", lambda: Tracker(CAMERA, [ObjectStart("cup", np.zeros((1, 3)), good[:10])], 0))
    refused("cup: mask", lambda: Tracker(CAMERA, [ObjectStart("cup", np.zeros((1, 3)), good.astype(np.uint8))], 0))  # type: ignore[arg-type]
    for points in (np.zeros(3), np.zeros((0, 3)), np.full((1, 3), np.nan)):
        refused("cup: keypoints", lambda points=points: Tracker(CAMERA, [ObjectStart("cup", points, good)], 0))


def test_frames_that_do_not_fit_are_named() -> None:
    color, depth, _ = raycast(CAMERA, [cube(0.45, 0.0)])
    tracker = tracker_of([cube(0.45, 0.0)], 1)
    refused("color", lambda: tracker.update(color[:10], depth, AWAY, OPEN, 1))
    refused("color", lambda: tracker.update(color.astype(float), depth, AWAY, OPEN, 1))  # type: ignore[arg-type]
    refused("depth", lambda: tracker.update(color, depth[:10], AWAY, OPEN, 1))
    refused("depth", lambda: tracker.update(color, (1000 * depth).astype(np.uint16), AWAY, OPEN, 1))  # type: ignore[arg-type]
    refused("gripper", lambda: tracker.update(color, depth, AWAY, np.nan, 1))
    refused("tcp", lambda: tracker.update(color, depth, Pose(np.full(3, np.nan)), OPEN, 1))
    tracker.update(color, depth, AWAY, OPEN, 5)
    refused("stamp 5", lambda: tracker.update(color, depth, AWAY, OPEN, 5))
