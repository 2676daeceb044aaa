import dataclasses

import numpy as np
import pytest

from grape_episode.synthetic import make_episode
from grape_reward.camera import calibration_hash
from grape_reward.errors import RewardError
from grape_reward.frames import FrameTracker, StartError, TrackingSetup, read_starts
from grape_reward.raycast import lab_camera, raycast
from grape_reward.rgbd_testing import boxes_of, frames_of, write_starts
from grape_reward.tasks import TASKS

CARROT = TASKS["carrot_on_plate"]
CAMERA = lab_camera(160, 120)
EPISODE = make_episode(4, steps=5, variant="obstacle")
NAMES = ("plate", "carrot", "obstacle")


@pytest.fixture
def setup(tmp_path):
    """The camera's file, and starts that name the plate before the carrot."""
    CAMERA.save(tmp_path / "camera.yaml")
    points = EPISODE.keypoints.values[0]
    _, _, labels = raycast(CAMERA, boxes_of(points))
    order = np.array([1, 0, 2])
    shuffled = np.where(labels < 0, -1, np.argsort(order)[np.maximum(labels, 0)])
    write_starts(
        tmp_path / "starts", CAMERA, calibration_hash(tmp_path / "camera.yaml"), NAMES, points[order], shuffled
    )
    return TrackingSetup(tmp_path / "camera.yaml", tmp_path / "starts")


def feed(tracker: FrameTracker, order):
    """The samples of the first frames, as calls by name."""
    calls = []
    for stamp, color, depth in list(frames_of(EPISODE, CAMERA))[:3]:
        at = EPISODE.tcp.stamps.tolist().index(stamp)
        calls += [
            lambda s=stamp, c=color: tracker.image("color", s, c),
            lambda s=stamp, d=depth: tracker.image("depth", s, d),
            lambda s=stamp, n=at: tracker.state("tcp", s, EPISODE.tcp.values[n]),
            lambda s=stamp, n=at: tracker.state("gripper", s, float(EPISODE.gripper.values[n, 0])),
        ]
    found = []
    for n in order:
        calls[n]()
        found += tracker.pop()
    return found


def test_keypoints_come_in_the_tasks_order_with_obstacles_behind(setup):
    tracker = setup.tracker(EPISODE.identity, CARROT)
    assert tracker.names == ("carrot", "plate", "obstacle")
    first = feed(tracker, range(12))[0]
    assert first.keypoints == pytest.approx(EPISODE.keypoints.values[0], abs=1e-9)
    assert first.names == tracker.names and (first.confidence > 0.9).all()


def test_the_order_in_which_topics_arrive_changes_no_bit(setup):
    reference = feed(setup.tracker(EPISODE.identity, CARROT), range(12))
    assert [one.stamp for one in reference] == EPISODE.keypoints.stamps[:3].tolist()
    rng = np.random.default_rng(0)
    for _ in range(4):
        # topics overtake each other, but each keeps its own order
        queues = [list(range(topic, 12, 4)) for topic in range(4)]
        order = [queues[topic].pop(0) for topic in rng.permutation(np.repeat(np.arange(4), 3))]
        found = feed(setup.tracker(EPISODE.identity, CARROT), order)
        assert [one.stamp for one in found] == [one.stamp for one in reference]
        for one, other in zip(found, reference, strict=True):
            assert np.array_equal(one.keypoints, other.keypoints)
            assert np.array_equal(one.confidence, other.confidence)


def test_a_frame_waits_for_the_pose_and_one_that_is_not_whole_is_passed_over(setup):
    tracker = setup.tracker(EPISODE.identity, CARROT)
    assert feed(tracker, [0, 1, 2]) == []  # no opening yet
    tracker = setup.tracker(EPISODE.identity, CARROT)
    # the depth of the first frame never comes
    found = feed(tracker, [0, 2, 3, 4, 5, 6, 7])
    assert [one.stamp for one in found] == EPISODE.keypoints.stamps[1:2].tolist()


def test_frames_before_the_episode_are_left_out(setup):
    identity = dataclasses.replace(EPISODE.identity, stamp=int(EPISODE.keypoints.stamps[0]))
    found = feed(setup.tracker(identity, CARROT), range(12))
    assert [one.stamp for one in found] == EPISODE.keypoints.stamps[1:3].tolist()


@pytest.mark.parametrize("folder", ["{id}", "carrot_on_plate/100000", "."])
def test_starts_of_the_episode_come_before_those_of_its_state_and_of_all(setup, tmp_path, folder):
    for name in ("{id}", "carrot_on_plate/100000", "."):
        target = setup.starts / name.format(id=EPISODE.identity.episode_id)
        for file in ("keypoints.json", "masks.png"):
            if target != setup.starts:
                target.mkdir(parents=True, exist_ok=True)
                (target / file).write_bytes((setup.starts / file).read_bytes())
        if name == folder:
            break
    chosen = setup.starts / folder.format(id=EPISODE.identity.episode_id)
    text = (chosen / "keypoints.json").read_text()
    (chosen / "keypoints.json").write_text(text.replace("carrot", "beet"))
    if folder == "{id}":
        with pytest.raises(StartError, match=EPISODE.identity.episode_id):
            setup.tracker(EPISODE.identity, CARROT)


def test_what_does_not_fit_is_named(setup, tmp_path):
    known = calibration_hash(setup.calibration)
    with pytest.raises(StartError, match=r"keypoints\.json: made with calibration"):
        read_starts(setup.starts, CARROT, "0" * 64)
    with pytest.raises(StartError, match=r"keypoints\.json: 0 keypoints of spoon, task spoon_on_towel has spoon"):
        read_starts(setup.starts, TASKS["spoon_on_towel"], known)
    other = dataclasses.replace(EPISODE.identity, calibration_hash="f" * 64)
    with pytest.raises(StartError, match=r"camera\.yaml: calibration .* was recorded with ffffffffffff"):
        setup.tracker(other, CARROT)
    with pytest.raises(RewardError, match="nowhere"):
        TrackingSetup(setup.calibration, tmp_path / "nowhere").tracker(EPISODE.identity, CARROT)
    (setup.starts / "masks.png").write_bytes(b"")
    with pytest.raises(RewardError, match=r"masks\.png"):
        read_starts(setup.starts, CARROT, known)


def test_obstacles_are_left_out_where_the_task_has_none(setup):
    task = dataclasses.replace(CARROT, obstacles=False)
    assert [start.name for start in read_starts(setup.starts, task, calibration_hash(setup.calibration))] == [
        "carrot", "plate",
    ]  # fmt: skip
