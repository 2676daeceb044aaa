from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from grape_reward.keypoints.candidates import Candidate, CandidateSettings, in_order, merged, of_mask, parts, principal
from grape_reward.keypoints.errors import KeypointsError
from grape_reward.keypoints.features import GeometryFeatures
from grape_reward.keypoints.masks import GivenMasks, Mask
from grape_reward.keypoints.surface import Surface
from grape_reward.keypoints.testing import BallScene, ball_scene

DEFAULT = CandidateSettings()
BALLS = ball_scene(np.array([[-0.12, 0.0], [0.1, 0.08]]))
WHOLE = Mask(np.ones((4, 4), dtype=bool))


def candidates(scene: BallScene, settings: CandidateSettings = DEFAULT) -> list[Candidate]:
    surface = Surface.of(scene.frame.depth, scene.calibration)
    features = GeometryFeatures()(scene.frame.color, surface.cloud)
    return [
        one
        for index, mask in enumerate(GivenMasks(scene.labels)(scene.frame.color))
        for one in of_mask(index, mask, surface, features, scene.calibration, settings)
    ]


def at(point: tuple[float, float, float], kind: str = "surface", mask: int = 0, size: int = 10) -> Candidate:
    return Candidate((0, 0), np.array(point), mask, kind, size, 1.0)  # type: ignore[arg-type]


@settings(max_examples=25)
@given(st.integers(5, 60), st.integers(3, 9), st.integers(0, 10_000))
def test_principal_components_are_scikit_learns(count: int, width: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(count, width)) * (1 + np.arange(width))
    ours, theirs = principal(features, 3), PCA(3, svd_solver="full").fit_transform(features)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-6)


def test_k_means_finds_the_heaps_and_answers_with_members() -> None:
    rng = np.random.default_rng(1)
    heaps = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0.5, 0.5, 1]], dtype=float)
    sizes = [50, 40, 30, 20, 10]
    points = np.concatenate([heap + rng.normal(0, 0.01, (size, 3)) for heap, size in zip(heaps, sizes, strict=True)])
    members, found = parts(points, points, DEFAULT)
    assert found.tolist() == sizes
    for member, heap in zip(members, heaps, strict=True):
        assert np.linalg.norm(points[member] - heap) < 0.02


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 80), st.integers(0, 10_000))
def test_parts_are_of_the_thing_few_and_the_same_again(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Whole numbers: many pixels are alike, and there may be fewer places than clusters.
    points, features = rng.integers(0, 3, (count, 3)).astype(float), rng.integers(0, 2, (count, 4)).astype(float)
    members, sizes = parts(features, points, DEFAULT)
    assert 1 <= len(members) <= DEFAULT.per_mask and sizes.sum() == count
    assert len(set(members.tolist())) == len(members) and (np.diff(sizes) <= 0).all()
    again = parts(features, points, DEFAULT)
    assert (again[0] == members).all() and (again[1] == sizes).all()


def test_every_mask_has_a_centre_and_parts_on_its_surface() -> None:
    found = candidates(BALLS)
    for index in (0, 1):
        centre, *surface = [one for one in found if one.mask == index]
        assert centre.kind == "centre" and len(surface) == 5 and all(one.kind == "surface" for one in surface)
        for one in surface:
            assert np.linalg.norm(one.point - BALLS.middles[index]) == pytest.approx(BALLS.radius, abs=1e-3)
        for one in (centre, *surface):
            u, v = one.pixel
            assert BALLS.labels[v, u] == index + 1
        assert np.linalg.norm((centre.point - BALLS.middles[index])[:2]) < 0.01
        assert centre.confidence == 1.0


def test_a_centre_stands_in_its_mask_even_where_that_is_a_ring() -> None:
    scene = ball_scene(np.array([[0.0, 0.0]]), radius=0.08)
    ring = replace(scene, labels=np.where((scene.labels == 1) & (scene.frame.depth > 0.67), 1, 0).astype(np.int32))
    centre = candidates(ring)[0]
    u, v = centre.pixel
    assert ring.labels[59, 79] == 0 and ring.labels[v, u] == 1
    np.testing.assert_allclose(centre.point[:2], [0, 0], atol=2e-3)


def test_confidence_is_the_masks_score_times_the_known_depth() -> None:
    depth = BALLS.frame.depth.copy()
    rows, columns = np.nonzero(BALLS.labels == 1)
    depth[rows[::2], columns[::2]] = 0
    holed = replace(BALLS, frame=replace(BALLS.frame, depth=depth))
    masks = [Mask(mask.region, 0.8) for mask in GivenMasks(BALLS.labels)(BALLS.frame.color)]
    surface = Surface.of(depth, holed.calibration)
    features = GeometryFeatures()(holed.frame.color, surface.cloud)
    centre = of_mask(0, masks[0], surface, features, holed.calibration, DEFAULT)[0]
    assert centre.confidence == pytest.approx(0.8 * 0.5, abs=0.01)


def test_a_mask_too_large_too_small_or_out_of_reach_has_none() -> None:
    assert {one.mask for one in candidates(BALLS, CandidateSettings(largest=0.001))} == set()
    assert {one.mask for one in candidates(BALLS, CandidateSettings(smallest=10_000))} == set()
    left = CandidateSettings(workspace=((-1.0, -1.0, -1.0), (0.0, 1.0, 1.0)))
    assert {one.mask for one in candidates(BALLS, left)} == {0}


def test_near_candidates_become_one_and_far_ones_stay() -> None:
    group = [at((0, 0, 0)), at((0.01, 0, 0)), at((0.02, 0, 0)), at((0.5, 0, 0))]
    assert [one.point[0] for one in merged(group, [WHOLE], DEFAULT)] == [0.01, 0.5]
    assert merged([], [], DEFAULT) == []


def test_no_merge_removes_a_centre_of_a_mask_of_its_own() -> None:
    left, right = np.zeros((2, 4, 4), dtype=bool)
    left[:, :2], right[:, 2:] = True, True
    group = [at((0, 0, 0), "centre", 0), at((0.005, 0, 0), "centre", 1), at((0.002, 0, 0), "surface", 1)]
    kept = merged(group, [Mask(left), Mask(right)], DEFAULT)
    assert [(one.kind, one.mask) for one in kept] == [("centre", 0), ("centre", 1)]


def test_of_two_masks_of_one_thing_the_larger_has_the_centre() -> None:
    group = [at((0, 0, 0), "centre", 0, size=5), at((0.005, 0, 0), "centre", 1, size=9)]
    assert [one.mask for one in merged(group, [WHOLE, WHOLE], DEFAULT)] == [1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1, max_size=25))
def test_after_the_merge_parts_stand_apart_and_everything_has_something_near(
    places: list[tuple[int, int, bool]],
) -> None:
    masks = [Mask(np.eye(len(places), dtype=bool) & (np.arange(len(places)) == i)) for i in range(len(places))]
    group = [
        at((0.03 * x, 0.03 * y, 0.0), "centre" if centre else "surface", index)
        for index, (x, y, centre) in enumerate(places)
    ]
    kept = merged(group, masks, DEFAULT)
    assert all(any(one is other for other in group) for one in kept)
    assert {one.mask for one in group if one.kind == "centre"} <= {one.mask for one in kept}
    for one in kept:
        if one.kind == "surface":
            others = [other for other in kept if other is not one]
            assert all(np.linalg.norm(one.point - other.point) >= DEFAULT.bandwidth for other in others)
    for one in group:
        assert min(np.linalg.norm(one.point - other.point) for other in kept) <= 3 * DEFAULT.bandwidth


def test_numbers_go_from_the_top_down_and_the_limit_spares_centres() -> None:
    group = [
        Candidate((9, 5), np.zeros(3), 0, "surface", 900, 1.0),
        Candidate((7, 5), np.zeros(3), 0, "centre", 10, 1.0),
        Candidate((1, 8), np.zeros(3), 1, "centre", 20, 1.0),
    ]
    assert [one.pixel for one in in_order(group, DEFAULT)] == [(7, 5), (9, 5), (1, 8)]
    assert [one.pixel for one in in_order(group, CandidateSettings(limit=2))] == [(7, 5), (1, 8)]
    assert [one.pixel for one in in_order(group, CandidateSettings(limit=1))] == [(1, 8)]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"per_mask": 0}, "per_mask"),
        ({"limit": 0}, "limit"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"bandwidth": float("nan")}, "bandwidth"),
        ({"seed": -1}, "seed"),
        ({"workspace": ((0, 0, 0), (1, 0, 1))}, "workspace"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(wrong: dict, word: str) -> None:
    with pytest.raises(KeypointsError, match=word):
        CandidateSettings(**wrong)
