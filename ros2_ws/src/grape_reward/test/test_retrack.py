"""A bag with camera images scores by what is tracked in them."""

import dataclasses

import numpy as np
import pytest

from grape_episode.episode import Series
from grape_episode.reader import read_episode
from grape_episode.synthetic import make_episode, write_episode
from grape_reward.camera import calibration_hash
from grape_reward.errors import ScoreError
from grape_reward.frames import TrackingSetup
from grape_reward.offline import Scoring, score_bags
from grape_reward.raycast import lab_camera, raycast
from grape_reward.retrack import retracked
from grape_reward.rgbd_testing import boxes_of, frames_of, write_rgbd, write_starts
from grape_reward.score import score_episode
from grape_reward.tasks import TASKS

CAMERA = lab_camera(240, 180)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A success: its bag with images and without keypoints, what it truly was, and how to track in it."""
    root = tmp_path_factory.mktemp("rgbd")
    truth = make_episode(4, steps=40, samples_per_step=2)
    CAMERA.save(root / "camera.yaml")
    points = truth.keypoints.values[0]
    labels = raycast(CAMERA, boxes_of(points))[2]
    write_starts(root / "starts", CAMERA, calibration_hash(root / "camera.yaml"), ("carrot", "plate"), points, labels)
    blind = dataclasses.replace(truth, keypoints=Series.empty(0, 3))
    bag = write_rgbd(blind, frames_of(truth, CAMERA), root / "bag")
    return bag, truth, TrackingSetup(root / "camera.yaml", root / "starts")


def test_what_is_tracked_is_where_things_were_and_scores_as_they_did(recorded):
    bag, truth, setup = recorded
    episode = retracked(read_episode(bag, images=False), bag, TASKS["carrot_on_plate"], setup)
    assert np.array_equal(episode.keypoints.stamps, truth.keypoints.stamps)
    error = np.linalg.norm(episode.keypoints.values - truth.keypoints.values, axis=2)
    assert np.median(error) < 0.005 and np.percentile(error, 95) < 0.02
    score, expected = score_episode(episode), score_episode(truth)
    assert score.outcome == expected.outcome == "success" and score.stages_reached == 3
    assert score.log_r_ext == pytest.approx(expected.log_r_ext, abs=1.0)


def test_the_same_images_give_the_same_score_bit_for_bit_and_from_the_tracked_keypoints_too(recorded, tmp_path):
    bag, _, setup = recorded
    first, again = (score_bags([bag], scoring=Scoring(tracking=setup)).scores for _ in range(2))
    assert first[0].hash == again[0].hash and not first[0].incomplete
    episode = retracked(read_episode(bag, images=False), bag, TASKS["carrot_on_plate"], setup)
    kept = read_episode(write_episode(dataclasses.replace(episode, path=None), tmp_path / "kept"), images=False)
    assert score_episode(kept).hash == first[0].hash


def test_bags_without_images_and_wrong_starts_are_skipped_by_name(recorded, tmp_path):
    bag, truth, setup = recorded
    plain = write_episode(truth, tmp_path / "plain")
    table = score_bags([plain, bag], scoring=Scoring(tracking=setup))
    assert len(table.scores) == 1 and "no colour and depth images to track in" in table.skipped[0][1]
    with pytest.raises(ScoreError, match=r"plain.*\.mcap: no colour"):
        retracked(read_episode(plain), plain, TASKS["carrot_on_plate"], setup)
    wrong = dataclasses.replace(setup, starts=tmp_path)
    assert "keypoints.json" in score_bags([bag], scoring=Scoring(tracking=wrong)).skipped[0][1]


def test_without_tracking_the_same_bag_has_nothing_to_score(recorded):
    bag, _, _ = recorded
    assert "keypoints" in score_bags([bag]).skipped[0][1]
