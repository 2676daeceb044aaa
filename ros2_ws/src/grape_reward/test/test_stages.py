import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.synthetic import make_episode
from grape_reward.errors import TaskError
from grape_reward.score import score_episode
from grape_reward.stages import StagePoints, nearest_approach, read_stage_points
from grape_reward.timeline import events_from_episode


def brute(path, points, reach):
    """The same by trying every way of dividing the path."""
    for count in range(len(points), 0, -1):
        ways = itertools.combinations_with_replacement(range(len(path)), count)
        far = {way: sum(np.linalg.norm(path[t] - p) for t, p in zip(way, points, strict=False)) for way in ways}
        best = min(far, key=lambda way: (round(far[way], 9), way))
        if all(np.linalg.norm(path[t] - p) <= reach for t, p in zip(best, points, strict=False)):
            return (*best, *[None] * (len(points) - count))
    return (None,) * len(points)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(0, 3), st.sampled_from([0.2, 0.6, 5.0]))
def test_the_division_is_the_best_of_all(seed, length, count, reach):
    rng = np.random.default_rng(seed)
    path, points = rng.random((length, 3)), rng.random((count, 3))
    found = nearest_approach(path, points, reach)
    assert found == brute(path, points, reach)
    reached = [t for t in found if t is not None]
    assert reached == sorted(reached) and len(found) == count


def test_a_point_that_was_never_approached_and_all_behind_it_are_not_reached():
    path = np.linspace([0, 0, 0], [1, 0, 0], 11)
    points = np.array([[0.3, 0, 0], [0.5, 0.5, 0], [0.9, 0, 0]])
    assert nearest_approach(path, points, 0.1) == (3, None, None)
    assert nearest_approach(path, points, 0.6) == (3, 5, 9)
    assert nearest_approach(np.zeros((0, 3)), points, 0.6) == (None, None, None)


def test_by_points_or_by_conditions_there_are_exactly_s_stages():
    episode = make_episode(4, steps=30)
    events = events_from_episode(episode)
    plain = score_episode(episode)
    # where the conditions ended the stages: nearly the same division
    points = [tuple(events[n].tcp[:3]) for n in (14, 22)]
    marked = score_episode(episode, stage_points=StagePoints(tuple(points)))
    assert len(marked.stage_costs) == len(plain.stage_costs) == marked.stages_reached == 3
    assert (marked.decomposition, plain.decomposition) == ("stage points", "conditions")
    assert marked.inputs_hash != plain.inputs_hash and marked.success == plain.success == 1
    far = StagePoints((points[0], (9.0, 9.0, 9.0)))
    failed = make_episode(4, steps=30, success=False)
    assert score_episode(failed, stage_points=far).stages_reached == 2
    worst = score_episode(failed, stage_points=StagePoints(((9.0, 9.0, 9.0), (9.0, 9.0, 9.0))))
    assert worst.stages_reached == 1 and worst.log_r_ext < score_episode(episode, stage_points=far).log_r_ext


def test_a_point_a_boundary_and_no_more():
    with pytest.raises(TaskError, match="3 stage points for 3 stages: the last stage ends with success"):
        score_episode(make_episode(4), stage_points=StagePoints(((0.0, 0.0, 0.0),) * 3))


def test_an_observation_whose_pose_is_missing_is_passed_over():
    episode = make_episode(4, steps=10)
    values = episode.tcp.values.copy()
    values[3] = np.nan
    broken = dataclasses.replace(episode, tcp=dataclasses.replace(episode.tcp, values=values))
    points = StagePoints(tuple(tuple(values[n, :3]) for n in (2, 5)), reach=0.05)
    stamps = [condition.stamp for condition in points.boundaries(events_from_episode(broken))]
    assert stamps == [episode.tcp.stamps[2], episode.tcp.stamps[5]]


def test_a_file_names_episodes_and_their_points(tmp_path):
    path = tmp_path / "points.json"
    path.write_text(json.dumps({"reach": 0.2, "episodes": {"a": [[0, 1, 2.5]], "*": []}}))
    assert read_stage_points(path) == {"a": StagePoints(((0.0, 1.0, 2.5),), 0.2), "*": StagePoints((), 0.2)}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "no JSON"),
        ("[]", "expected episodes"),
        ('{"episodes": {}, "more": 1}', "expected episodes"),
        ('{"episodes": {"a": [[1, 2]]}}', "episodes.a"),
        ('{"episodes": {"a": [[1, 2, NaN]]}}', "episodes.a"),
        ('{"reach": 0, "episodes": {}}', "reach"),
    ],
)
def test_a_wrong_file_is_named_with_the_field(tmp_path, text, named):
    path = tmp_path / "points.json"
    path.write_text(text)
    with pytest.raises(TaskError, match=rf"points\.json: {named}"):
        read_stage_points(path)
    with pytest.raises(TaskError, match="nowhere"):
        read_stage_points(tmp_path / "nowhere")
