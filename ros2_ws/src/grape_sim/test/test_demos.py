from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Pose
from grape_sim import demos
from grape_sim.errors import SimError
from grape_sim.scene import instruction_of
from grape_sim.tasks import SIM_TASKS
from grape_sim.world import World

ANGLES = st.floats(-0.5, 0.5)


@given(st.tuples(ANGLES, ANGLES, ANGLES), st.tuples(ANGLES, ANGLES, ANGLES))
def test_integration_turns_in_the_base_frame(start: tuple[float, ...], turn: tuple[float, ...]) -> None:
    pose = Pose(np.array([0.4, 0.1, 0.2]), Rotation.from_euler("xyz", start).as_quat())
    target = demos.integrate(pose, pose, np.array([0.01, -0.02, 0.03, *turn, 1.0]))
    np.testing.assert_allclose(target.position, [0.41, 0.08, 0.23])
    expected = Rotation.from_euler("xyz", turn).as_matrix() @ pose.rotation.as_matrix()
    np.testing.assert_allclose(target.rotation.as_matrix(), expected, atol=1e-12)


def test_integration_gives_up_a_reference_that_the_arm_did_not_follow() -> None:
    reference, near, far = (Pose(np.array([0.4, 0.0, z])) for z in (0.20, 0.23, 0.30))
    action = np.array([0, 0, 0.01, 0, 0, 0, 1.0])
    assert demos.integrate(reference, near, action).position[2] == pytest.approx(0.21)
    assert demos.integrate(reference, far, action).position[2] == pytest.approx(0.31)


def test_noise_disturbs_the_arm_but_not_the_label(world: World) -> None:
    clean = demos.demonstrate(world, "carrot_on_plate", "clean", 50)
    executed = []

    def recording(reference: Pose, measured: Pose, action: np.ndarray) -> Pose:
        executed.append(action)
        return demos.integrate(reference, measured, action)

    noisy = demos.demonstrate(world, "carrot_on_plate", "clean", 50, 0.01, recording)
    np.testing.assert_array_equal(noisy.images[0], clean.images[0])
    np.testing.assert_array_equal(noisy.actions[0], clean.actions[0])
    labels = noisy.actions[: len(executed)].astype(np.float64)
    difference = np.array(executed)[: len(labels)] - labels
    assert 0.001 < difference[:, :3].std() < 0.015
    assert np.abs(difference[:, [3, 4, 6]]).max() < 1e-6
    assert not np.array_equal(noisy.actions[1], clean.actions[1])


def test_shards_are_whole_and_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    episodes: dict[int, dict[int, bytes]] = {}
    for workers in (1, 2):
        report = demos.collect(tmp_path / str(workers), 2, workers=workers, tasks=("spoon_on_towel",))
        assert report.attempts["spoon_on_towel"] == 2
        assert len(report.shards) == workers
        found: dict[int, bytes] = {}
        steps = 0
        for shard in report.shards:
            with np.load(shard, allow_pickle=False) as data:
                count = len(data["step"])
                steps += count
                assert data["images"].shape == (count, 112, 112, 3) and data["images"].dtype == np.uint8
                assert data["actions"].shape == (count, 7) and data["actions"].dtype == np.float32
                assert data["keypoints"].shape == (count, 3, 3)
                assert [str(text) for text in data["instructions"]] == [SIM_TASKS["spoon_on_towel"].instruction]
                for episode in np.unique(data["episode"]):
                    rows = data["episode"] == episode
                    np.testing.assert_array_equal(data["step"][rows], np.arange(rows.sum()))
                    assert (data["initial_state"][rows] == demos.FIRST_STATE + episode).all()
                    assert (data["task"][rows] == 3).all() and (data["instruction"][rows] == 0).all()
                    found[int(episode)] = data["images"][rows].tobytes() + data["actions"][rows].tobytes()
        assert report.steps == steps
        assert len(found) == sum(report.successes.values()) == 2
        episodes[workers] = found
    assert episodes[1] == episodes[2]


def test_a_shard_says_what_its_episodes_are_told(tmp_path: Path) -> None:
    report = demos.collect(tmp_path, 3, workers=1, variants=("clean", "varied"), tasks=("carrot_on_plate",))
    with np.load(report.shards[0], allow_pickle=False) as data:
        told = {
            int(state): str(data["instructions"][index])
            for state, index in zip(data["initial_state"], data["instruction"], strict=True)
        }
    for i, variant in enumerate(("clean", "varied", "clean")):
        state = demos.FIRST_STATE + i
        assert told[state] == instruction_of("carrot_on_plate", variant, state)
    assert len(set(told.values())) == 2


def test_what_touches_a_post_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = demos.demonstrate
    monkeypatch.setattr(demos, "demonstrate", lambda *a, **k: replace(real(*a, **k), collision=True))
    report = demos.collect(tmp_path, 1, workers=1, tasks=("spoon_on_towel",))
    assert report.attempts["spoon_on_towel"] == 1 and not report.successes["spoon_on_towel"] and not report.shards


def test_wrong_use_is_named(tmp_path: Path) -> None:
    (tmp_path / "demos_00_000.npz").touch()
    with pytest.raises(SimError, match="already"):
        demos.collect(tmp_path, 1)
    with pytest.raises(SimError, match="'wet'"):
        demos.collect(tmp_path / "a", 1, variants=("wet",))
    with pytest.raises(SimError, match="tea"):
        demos.collect(tmp_path / "a", 1, tasks=("tea",))
    with pytest.raises(SimError, match="episodes 0"):
        demos.collect(tmp_path / "a", 0)


def test_command_line_prints_one_line_for_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demos_00_000.npz").touch()
    assert demos.main(["--out", str(tmp_path), "--episodes", "1"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error and error.count("\n") == 1
