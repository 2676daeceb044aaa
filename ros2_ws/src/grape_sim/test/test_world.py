from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from grape_episode.geometry import Pose
from grape_sim.demos import demonstrate
from grape_sim.errors import SimError
from grape_sim.robot import HOME_TCP
from grape_sim.world import World, WorldConfig

CASES = (("carrot_on_plate", "clean"), ("eggplant_in_basket", "distractors"), ("spoon_on_towel", "obstacle"))
"""Episodes whose every frame and pose is compared."""


def fingerprint(world: World, task: str, variant: str) -> str:
    """Hash of all frames, actions and keypoints of a disturbed expert's episode, and of the arm's last joint angles."""
    episode = demonstrate(world, task, variant, 7, noise=0.01)
    digest = hashlib.sha256(episode.images.tobytes())
    digest.update(episode.actions.tobytes())
    digest.update(episode.keypoints.tobytes())
    digest.update(world.observe(color=False).joints.tobytes())
    return digest.hexdigest()


def test_an_episode_is_the_same_bit_for_bit_later_and_in_another_process(world: World) -> None:
    here = [fingerprint(world, task, variant) for task, variant in CASES]
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_world as t; from grape_sim.world import World\n"
        "with World() as w: print(' '.join(t.fingerprint(w, *case) for case in reversed(t.CASES)))"
    )
    folder = __file__.rsplit("/", 1)[0]
    there = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=120, check=True
    )
    assert there.stdout.split()[-len(CASES) :] == here[::-1]
    assert fingerprint(world, *CASES[0]) == here[0], "after other episodes in the same world"
    assert len(set(here)) == len(here)


def test_worlds_do_not_disturb_each_other(world: World) -> None:
    alone = world.reset("green_cube_on_yellow_cube", "clean", 1)
    moved = Pose(HOME_TCP.position + np.array([0.02, 0.03, -0.04]), HOME_TCP.quaternion)
    expected = world.step(moved, 0.0)
    world.reset("green_cube_on_yellow_cube", "clean", 1)
    with World(WorldConfig(image_size=64)) as other:
        seen = other.reset("spoon_on_towel", "obstacle", 9)
        assert seen.color is not None and seen.color.shape == (64, 64, 3)
        other.step(Pose(HOME_TCP.position - [0.02, 0.0, 0.1], HOME_TCP.quaternion), 0.3)
        again = world.step(moved, 0.0)
    np.testing.assert_array_equal(again.color, expected.color)
    np.testing.assert_array_equal(again.joints, expected.joints)
    assert not np.array_equal(alone.color, expected.color)
    world.step(moved, 0.0)


def test_observation_has_the_shapes_it_promises(world: World) -> None:
    observation = world.reset("carrot_on_plate", "distractors", 0)
    assert observation.color is not None
    assert observation.color.shape == (112, 112, 3) and observation.color.dtype == np.uint8
    assert observation.depth is None
    assert observation.joints.shape == observation.joint_velocities.shape == (7,)
    assert observation.wrench.shape == (6,)
    assert observation.keypoints.shape == (5, 3) and len(observation.keypoint_names) == 5
    assert observation.keypoint_names[:2] == ("carrot", "plate")
    assert observation.tcp.distance(HOME_TCP) < 0.001
    deep = world.observe(color=False, depth=True)
    assert deep.color is None and deep.depth is not None and deep.depth.shape == (112, 112)


def test_time_goes_on_by_whole_periods_and_never_back(world: World) -> None:
    times = [world.reset("carrot_on_plate").time]
    for _ in range(3):
        times.append(world.step(HOME_TCP, 1.0).time)
    np.testing.assert_allclose(np.diff(times), 0.2, atol=1e-9)
    assert world.reset("carrot_on_plate").time > times[-1]


def test_a_step_is_a_target_and_an_advance(world: World) -> None:
    moved = Pose(HOME_TCP.position + np.array([0.01, 0.02, -0.03]), HOME_TCP.quaternion)
    world.reset("spoon_on_towel", "clean", 4)
    whole = world.step(moved, 0.5)
    world.reset("spoon_on_towel", "clean", 4)
    world.set_target(moved, 0.5)
    for part in (0.05, 0.1, 0.05):
        world.advance(part)
    parts = world.observe()
    np.testing.assert_array_equal(whole.color, parts.color)
    np.testing.assert_array_equal(whole.joints, parts.joints)


def test_variants_of_a_state_look_different(world: World) -> None:
    frames = [world.reset("carrot_on_plate", variant, 0).color for variant in ("clean", "distractors", "obstacle")]
    assert not np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[1], frames[2])


@pytest.mark.parametrize(
    "values, name", [({"control_period": 0.0313}, "control_period"), ({"image_size": 2}, "image_size")]
)
def test_wrong_settings_are_named(values: dict[str, float], name: str) -> None:
    with pytest.raises(SimError, match=name):
        WorldConfig(**values)  # type: ignore[arg-type]


def test_wrong_use_says_what_is_wrong(world: World) -> None:
    with pytest.raises(SimError, match="'tea'"):
        world.reset("tea")
    world.reset("carrot_on_plate")
    with pytest.raises(SimError, match="not finite"):
        world.set_target(Pose(np.array([np.nan, 0, 0])), 1.0)
    fresh = World()
    with pytest.raises(SimError, match="reset"):
        fresh.step(HOME_TCP, 1.0)
    fresh.close()
    fresh.close()
    with pytest.raises(SimError, match="closed"):
        fresh.reset("carrot_on_plate")
