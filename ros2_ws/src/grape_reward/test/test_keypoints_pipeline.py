from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from grape_reward.keypoints.candidates import CandidateSettings
from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.features import GeometryFeatures
from grape_reward.keypoints.masks import Color, GivenMasks, Mask, read_label_image
from grape_reward.keypoints.pipeline import MASKS, OVERLAY, PROPOSAL, Proposed, propose_keypoints
from grape_reward.keypoints.result import load_proposal
from grape_reward.keypoints.testing import BallScene, ball_scene

SCENE = ball_scene(np.array([[-0.15, 0.0], [0.1, 0.1], [0.2, -0.1]]), radius=0.04)
HASH = "ab" * 32


def proposed(scene: BallScene = SCENE, chosen: CandidateSettings | None = None) -> Proposed:
    masks = GivenMasks(scene.labels, ("red", "green", "blue"))
    return propose_keypoints(scene.frame, scene.calibration, HASH, masks, GeometryFeatures(), chosen)


def test_every_ball_has_a_keypoint_where_it_is() -> None:
    told = proposed().proposal
    assert {one.name for one in told.keypoints} == {"red", "green", "blue"}
    for index, name in enumerate(("red", "green", "blue")):
        mine = [one for one in told.keypoints if one.name == name]
        assert {one.mask for one in mine} == {index}
        for one in mine:
            assert SCENE.labels[one.pixel[1], one.pixel[0]] == index + 1
            assert np.linalg.norm(np.array(one.point) - SCENE.middles[index]) <= SCENE.radius + 1e-3
    assert told.calibration == HASH and told.features == "geometry" and told.notes == ()
    assert told.points.shape == (len(told.keypoints), 3) and told.confidence.min() > 0.9


@settings(max_examples=10, deadline=None)
@given(st.floats(-0.25, 0.25), st.floats(-0.2, 0.2), st.floats(0.02, 0.06))
def test_points_and_pixels_are_of_one_ray(x: float, y: float, radius: float) -> None:
    scene = ball_scene(np.array([[x, y]]), radius)
    told = proposed(scene).proposal
    pixels, depth = scene.calibration.project(told.points)
    assert (depth > 0).all()
    np.testing.assert_allclose(pixels, told.pixels, atol=0.51)


def test_the_same_frame_gives_the_same_bytes_and_they_come_back(tmp_path: Path) -> None:
    one, other = proposed(), proposed()
    assert one.save(tmp_path / "a" / "b") == tmp_path / "a" / "b" / PROPOSAL
    other.save(tmp_path / "c")
    for name in (PROPOSAL, OVERLAY, MASKS):
        assert (tmp_path / "a" / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    assert load_proposal(tmp_path / "c" / PROPOSAL) == one.proposal


def test_the_written_masks_are_a_label_image_that_proposes_the_same(tmp_path: Path) -> None:
    first = proposed()
    first.save(tmp_path)
    masks = read_label_image(tmp_path / MASKS, ("red", "green", "blue"))
    again = propose_keypoints(SCENE.frame, SCENE.calibration, HASH, masks, GeometryFeatures())
    assert again.proposal.keypoints == first.proposal.keypoints


def test_the_overlay_is_drawn_at_the_keypoints(tmp_path: Path) -> None:
    result = proposed()
    result.save(tmp_path)
    drawn = np.asarray(Image.open(tmp_path / OVERLAY))
    changed = (drawn != SCENE.frame.color).any(axis=-1)
    assert drawn.shape == SCENE.frame.color.shape and all(changed[v, u] for u, v in result.proposal.pixels)
    far = np.ones_like(changed)
    for u, v in result.proposal.pixels:
        far[max(0, v - 12) : v + 13, max(0, u - 12) : u + 13] = False
    assert not changed[far].any()


def test_masks_without_keypoints_are_told() -> None:
    reach = CandidateSettings(workspace=((-1.0, -1.0, -1.0), (0.15, 1.0, 1.0)))
    assert [note.split(":")[0] for note in proposed(chosen=reach).proposal.notes] == ["mask 2 (blue)"]
    few = proposed(chosen=CandidateSettings(limit=1)).proposal
    assert len(few.keypoints) == 1 and sum("limit" in note for note in few.notes) == 2


class Nothing:
    described = "nothing"

    def __call__(self, color: Color) -> list[Mask]:
        return []


def test_what_cannot_be_proposed_from_is_named() -> None:
    features, calibration = GeometryFeatures(), SCENE.calibration
    with pytest.raises(KeypointsError, match="nothing: no mask"):
        propose_keypoints(SCENE.frame, calibration, HASH, Nothing(), features)
    with pytest.raises(KeypointsError, match="3 masks, none"):
        proposed(chosen=CandidateSettings(smallest=100_000))
    cut = replace(SCENE.frame, depth=SCENE.frame.depth[:50])
    with pytest.raises(KeypointsError, match="depth: 160x50"):
        propose_keypoints(cut, calibration, HASH, GivenMasks(SCENE.labels), features)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeypointsError) as error:
        proposed().save(tmp_path / "file" / "folder")
    assert str(tmp_path / "file") in str(error.value)
