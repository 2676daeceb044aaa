"""Kabsch against Horn's quaternions and SciPy; RANSAC finds the motion among wrong pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array, Pose
from grape_reward.rigid import Rigid, kabsch, ransac, refine

seeds = st.integers(0, 2**32 - 1)


def some_motion(rng: np.random.Generator) -> Rigid:
    return Rigid(Rotation.random(random_state=int(rng.integers(2**31))).as_matrix(), rng.uniform(-1, 1, 3))


def horn(source: Array, target: Array, weights: Array) -> Array:
    """Rotation (3, 3) by the largest eigenvector of Horn's (1987) 4 by 4 matrix."""
    share = weights / weights.sum()
    a, b = source - share @ source, target - share @ target
    s = np.einsum("n,ni,nj->ij", share, a, b)
    delta = np.array([s[1, 2] - s[2, 1], s[2, 0] - s[0, 2], s[0, 1] - s[1, 0]])
    matrix = np.block([[np.array([[np.trace(s)]]), delta[None]], [delta[:, None], s + s.T - np.trace(s) * np.eye(3)]])
    w, x, y, z = np.linalg.eigh(matrix)[1][:, -1]
    return Rotation.from_quat([x, y, z, w]).as_matrix()


@given(seeds, st.integers(4, 30), st.floats(0, 0.05))
@settings(max_examples=60, deadline=None)
def test_three_ways_to_the_same_rotation(seed: int, count: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    truth = some_motion(rng)
    source = rng.normal(size=(count, 3))
    target = truth.apply(source) + noise * rng.normal(size=(count, 3))
    weights = rng.uniform(0.1, 1.0, count)
    found = kabsch(source, target, weights)
    np.testing.assert_allclose(found.rotation, horn(source, target, weights), atol=1e-7)
    share = weights / weights.sum()
    theirs, _ = Rotation.align_vectors(target - share @ target, source - share @ source, weights)
    np.testing.assert_allclose(found.rotation, theirs.as_matrix(), atol=1e-7)
    np.testing.assert_allclose(found.translation, share @ target - theirs.apply(share @ source), atol=1e-7)
    if noise == 0.0:
        np.testing.assert_allclose(found.rotation, truth.rotation, atol=1e-8)


@given(seeds)
@settings(deadline=None)
def test_never_a_reflection(seed: int) -> None:
    """Flat and mirrored points tempt to one."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(6, 3)) * [1, 1, rng.choice([0.0, 1e-9, 1.0])]
    target = source * [1, 1, -1] + rng.normal(size=3)
    found = kabsch(source, target)
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-9)


@given(seeds)
@settings(deadline=None)
def test_points_without_weight_do_not_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = some_motion(rng)
    source = rng.normal(size=(10, 3))
    target = truth.apply(source)
    target[7:] += 5.0
    found = kabsch(source, target, np.r_[np.ones(7), np.zeros(3)])
    np.testing.assert_allclose(found.rotation, truth.rotation, atol=1e-8)


@pytest.mark.parametrize(
    ("source", "target", "weights"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), None),
        (np.zeros((3, 3)), np.zeros((4, 3)), None),
        (np.zeros((3, 2)), np.zeros((3, 2)), None),
        (np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3)),
        (np.zeros((3, 3)), np.zeros((3, 3)), np.ones(2)),
    ],
)
def test_what_does_not_fit_is_refused(source: Array, target: Array, weights: Array | None) -> None:
    with pytest.raises(ValueError):
        kabsch(source, target, weights)


@given(seeds, st.floats(0.0, 0.4))
@settings(max_examples=60, deadline=None)
def test_the_motion_is_found_among_wrong_pairs(seed: int, wrong: float) -> None:
    rng = np.random.default_rng(seed)
    truth = some_motion(rng)
    source = rng.uniform(-0.05, 0.05, (30, 3))
    target = truth.apply(source) + 0.0005 * rng.normal(size=(30, 3))
    bad = rng.permutation(30)[: int(30 * wrong)]
    target[bad] += rng.uniform(0.03, 0.2, (len(bad), 3)) * rng.choice([-1.0, 1.0], (len(bad), 3))
    found = ransac(source, target, 0.006, np.random.default_rng(seed))
    assert found is not None
    assert not found.inliers[bad].any() and found.inliers.sum() == 30 - len(bad)
    assert np.linalg.norm(found.motion.apply(source) - truth.apply(source), axis=1).max() < 0.003
    assert found.residual < 0.002


def test_the_same_random_numbers_give_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    source = rng.normal(size=(40, 3))
    target = rng.normal(size=(40, 3))
    one, two = (ransac(source, target, 0.8, np.random.default_rng(7)) for _ in range(2))
    assert one is not None and two is not None
    assert one.motion.rotation.tobytes() == two.motion.rotation.tobytes()
    assert one.inliers.tobytes() == two.inliers.tobytes()


def test_no_consensus_is_none() -> None:
    rng = np.random.default_rng(0)
    assert ransac(rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), 0.1, rng) is None
    # Three distances that no rigid motion keeps.
    source = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert ransac(source, 10 * source, 0.01, rng) is None


def test_ties_settle_the_turn_about_a_line() -> None:
    """All pairs on one line, as on a handle: without ties the rotation about it is anyone's; with them it stays."""
    line = np.outer(np.linspace(-0.05, 0.05, 12), [1.0, 0.0, 0.0])
    shift = np.array([0.03, -0.01, 0.02])
    body = np.array([[0.0, 0.02, 0.0], [0.0, -0.02, 0.0], [0.0, 0.0, 0.02], [0.05, 0.0, -0.02]])
    found = refine(line, line + shift, Rigid(), 0.05, (body, body + shift))
    np.testing.assert_allclose(found.motion.rotation, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(found.motion.translation, shift, atol=1e-6)


def test_ties_hardly_pull_at_what_pairs_determine() -> None:
    rng = np.random.default_rng(4)
    points = rng.uniform(-0.05, 0.05, (30, 3))
    found = refine(points, points + np.array([0.02, 0.0, 0.0]), Rigid(), 0.05, (points, points))
    assert np.linalg.norm(found.motion.translation - [0.02, 0, 0]) < 0.001


def test_no_pair_near_keeps_the_start() -> None:
    start = Rigid(translation=np.array([1.0, 0, 0]))
    found = refine(np.zeros((3, 3)), np.full((3, 3), 9.0), start, 0.01)
    assert found.motion is start and not found.inliers.any() and found.residual == np.inf


@given(seeds)
@settings(deadline=None)
def test_motions_chain_and_turn_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = some_motion(rng), some_motion(rng)
    points = rng.normal(size=(5, 3))
    np.testing.assert_allclose(two.after(one).apply(points), two.apply(one.apply(points)), atol=1e-12)
    np.testing.assert_allclose(one.inverse().apply(one.apply(points)), points, atol=1e-12)
    assert one.angle() == pytest.approx(Rotation.from_matrix(one.rotation).magnitude(), abs=1e-6)


@given(seeds)
@settings(deadline=None)
def test_the_motion_between_two_poses_carries_one_to_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turns = Rotation.random(2, random_state=int(rng.integers(2**31)))
    before, after = (Pose(rng.normal(size=3), turn.as_quat()) for turn in turns)
    motion = Rigid.between(before, after)
    np.testing.assert_allclose(motion.apply(before.position), after.position, atol=1e-12)
    axis = before.rotation.apply([1.0, 0, 0])
    np.testing.assert_allclose(motion.rotation @ axis, after.rotation.apply([1.0, 0, 0]), atol=1e-12)
