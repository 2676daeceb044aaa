"""The reducer against a second, plain computation, and the properties that make its score worth training on."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.episode import Episode, Series
from grape_episode.synthetic import make_episode
from grape_reward.errors import TaskError
from grape_reward.reducer import Reducer
from grape_reward.score import score_episode
from grape_reward.spec import REDUCTIONS
from grape_reward.tasks import TASKS
from grape_reward.timeline import events_from_episode

OBJECTIVES = ("task_completion", "safety", "efficiency")


def wild_episode(seed: int) -> Episode:
    """A synthetic rollout with things jumping about, so that stages pass early, late, all at once or never."""
    rng = np.random.default_rng(seed)
    steps = int(rng.choice([1, 2, 5, 15, 40, 60]))
    task = str(rng.choice(sorted(TASKS)))
    variant = str(rng.choice(["clean", "obstacle"]))
    episode = make_episode(seed, steps, bool(rng.integers(2)), task, variant=variant)
    tcp, points = episode.tcp.values.copy(), episode.keypoints.values.copy()
    width = episode.gripper.values.copy()
    for n in np.flatnonzero(rng.random(len(tcp)) < rng.choice([0.0, 0.1, 0.5])):
        tcp[n, :3] += rng.normal(0, 0.1, 3)
        points[n, 0] += rng.normal(0, 0.03, 3)
        width[n] = rng.choice([0.0, 0.04, 0.085])
    return dataclasses.replace(
        episode,
        tcp=Series(episode.tcp.stamps, tcp),
        gripper=Series(episode.gripper.stamps, width),
        keypoints=Series(episode.keypoints.stamps, points, episode.keypoints.names),
    )


def truncated(episode: Episode, steps: int) -> Episode:
    """The episode as it would be on record, had it been called off after so many steps."""
    stamp = episode.steps[steps].stamp
    outcome = dataclasses.replace(episode.outcome, end_reason="cancelled", steps=steps, stamp=stamp, success_reward=0)
    return dataclasses.replace(episode, steps=episode.steps[:steps], outcome=outcome)


def plain_stage_costs(episode: Episode, objective: str) -> tuple[list[float], bool]:
    """C_S of Eq. 8, worked out a stage at a time from the whole episode; and whether it succeeded."""
    task = TASKS[episode.identity.task]
    events = events_from_episode(episode)
    times = np.array([event.stamp for event in events]) / 1e9
    things = np.array([event.keypoints[0] for event in events])
    # success: two placed observations in a row with the object at rest between them
    wide = np.array([event.gripper_width for event in events]) >= task.success.gripper_open
    placed = wide & np.array([task.success.when.holds(event, events[0]) for event in events])
    moved = np.linalg.norm(np.diff(things, axis=0), axis=1)
    still = task.success.still[0]
    pairs = [n for n in range(1, len(events)) if placed[n] and placed[n - 1] and moved[n - 1] <= still]
    end = pairs[0] if pairs else len(events) - 1
    # stage limits: the first event at or after the last limit at which the boundary holds
    limits = [0]
    for boundary in task.boundaries:
        hits = [n for n in range(limits[-1], end + 1) if boundary.holds(events[n], events[0])]
        if hits:
            limits.append(hits[0])
        elif pairs:
            limits.append(end)
        else:
            break
    ran_out = len(episode.steps) >= episode.identity.step_limit
    totals = []
    for stage, terms in enumerate(task.program.stages):
        total = 0.0
        seen = stage < len(limits) and (stage + 1 < len(limits) or bool(pairs) or ran_out)
        for index, term in enumerate(terms):
            number = task.constraints[term.name]
            scaling = task.objectives[objective]
            value = number.worst
            if seen:
                last = limits[stage + 1] if stage + 1 < len(limits) else end
                span = range(limits[stage], last + 1)
                at = [task.program.evaluate(stage, events[n].tcp[:3], events[n].keypoints)[index] for n in span]
                series = np.array(at)
                if term.kind == "path":
                    value = float(np.sum(series[:-1] * np.diff(times[list(span)])))
                else:
                    value = float(series.max() if term.kind == "collision" else series[-1])
            tau = number.tau * scaling.tau.get(term.kind, 1.0)
            total += number.beta * scaling.beta.get(term.kind, 1.0) * max(0.0, min(value, number.worst) - tau)
        totals.append(total)
    return totals, bool(pairs)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(OBJECTIVES))
def test_stage_costs_agree_with_a_plain_computation(seed, objective):
    episode = wild_episode(seed)
    score = score_episode(episode, objective)
    expected, success = plain_stage_costs(episode, objective)
    assert score.success == int(success)
    assert score.stage_costs == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert score.log_r_ext == pytest.approx(-sum(expected), rel=1e-9, abs=1e-9)
    assert score.r_self == pytest.approx(float(np.sum(episode.logprobs.astype(float))), rel=1e-12)
    assert score.r_self_per_token == pytest.approx(float(np.mean(episode.logprobs.astype(float))), rel=1e-12)
    external = math.exp(-sum(expected))
    assert score.reward == pytest.approx(0.01 * score.r_self + 0.01 * external + 2 * success, rel=1e-9)
    assert not score.incomplete


def test_the_wild_episodes_are_wild_enough():
    scores = [score_episode(wild_episode(seed)) for seed in range(60)]
    assert {score.stages_reached for score in scores} == {1, 2, 3}
    assert {score.success for score in scores} == {0, 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(OBJECTIVES), st.data())
def test_failing_early_never_pays(seed, objective, data):
    episode = wild_episode(seed)
    whole = score_episode(episode, objective)
    steps = data.draw(st.integers(0, len(episode.steps) - 1))
    part = score_episode(truncated(episode, steps), objective)
    assert not part.incomplete
    assert part.log_r_ext <= whole.log_r_ext
    assert part.stages_reached <= whole.stages_reached


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(REDUCTIONS), st.floats(0.05, 3.0), st.data())
def test_failing_early_never_pays_however_costs_are_reduced_over_time(seed, over_time, worst, data):
    episode = wild_episode(seed)
    task = TASKS[episode.identity.task]
    numbers = {
        name: dataclasses.replace(c, over_time=over_time, worst=worst, tau=0.01) for name, c in task.constraints.items()
    }
    task = dataclasses.replace(task, constraints=numbers)
    part = truncated(episode, data.draw(st.integers(0, len(episode.steps) - 1)))

    def log_r_ext(told: Episode) -> float:
        reducer = Reducer(task, "", told.identity)
        for event in events_from_episode(told):
            reducer.push(event)
        return reducer.finish(told.outcome).log_r_ext

    assert log_r_ext(part) <= log_r_ext(episode)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_unreached_stage_costs_its_declared_worst(task):
    episode = truncated(make_episode(1, steps=12, task=task), 1)
    score = score_episode(episode)
    spec = TASKS[task]
    assert score.stages_reached == 1
    for stage, cost in enumerate(score.stage_costs):
        names = [term.name for term in spec.program.stages[stage]]
        worst = sum(c.beta * (c.worst - c.tau) for c in (spec.constraints[name] for name in names))
        assert cost == pytest.approx(worst)
    assert dict(score.constraints) == {name: c.worst for name, c in spec.constraints.items()}


def stretched(episode: Episode, factor: int) -> Episode:
    """The same rollout, ``factor`` times as slow."""
    first = episode.steps[0].stamp

    def later(stamp):
        return first + (stamp - first) * factor

    def slow(series):
        return Series(later(series.stamps), series.values, series.names)

    identity = dataclasses.replace(episode.identity, control_period=episode.identity.control_period * factor)
    return dataclasses.replace(
        episode,
        identity=identity,
        steps=tuple(dataclasses.replace(step, stamp=later(step.stamp)) for step in episode.steps),
        outcome=dataclasses.replace(episode.outcome, stamp=later(episode.outcome.stamp)),
        tcp=slow(episode.tcp),
        gripper=slow(episode.gripper),
        keypoints=slow(episode.keypoints),
    )


def with_obstacle(episode: Episode, gap: float) -> Episode:
    """The same rollout with an obstacle at ``gap`` metres from where the TCP is in the middle of the episode."""
    points = episode.keypoints.values
    middle = episode.tcp.values[len(points) // 2, :3]
    way = points[0, 0, :2] - points[0, 1, :2]
    across = np.array([-way[1], way[0]]) / np.linalg.norm(way)
    obstacle = np.array([*(middle[:2] + gap * across), 0.15])
    extra = np.repeat(obstacle[None, None], len(points), axis=0)
    names = (*episode.keypoints.names, "post")
    series = Series(episode.keypoints.stamps, np.concatenate([points, extra], axis=1), names)
    return dataclasses.replace(episode, keypoints=series)


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("task", sorted(TASKS))
def test_taking_twice_as_long_costs_efficiency_and_nothing_of_safety(task, success):
    episode = make_episode(5, steps=60, task=task, success=success)
    slow = stretched(episode, 2)
    assert score_episode(slow, "efficiency").log_r_ext < score_episode(episode, "efficiency").log_r_ext
    assert score_episode(slow, "safety").log_r_ext == score_episode(episode, "safety").log_r_ext


@pytest.mark.parametrize("task", sorted(TASKS))
def test_coming_closer_to_an_obstacle_costs_safety_and_nothing_of_efficiency(task):
    episode = make_episode(5, steps=28, task=task)
    gaps = (0.11, 0.08, 0.04, 0.02)
    safety = [score_episode(with_obstacle(episode, gap), "safety").log_r_ext for gap in gaps]
    assert all(a > b for a, b in itertools.pairwise(safety))
    efficiency = {score_episode(with_obstacle(episode, gap), "efficiency").log_r_ext for gap in gaps}
    assert efficiency == {score_episode(episode, "efficiency").log_r_ext}


def reduce(episode: Episode, change=lambda events: events, objective=""):
    reducer = Reducer(TASKS[episode.identity.task], objective, episode.identity)
    lives = [reducer.push(event) for event in change(events_from_episode(episode))]
    return lives, reducer.finish(episode.outcome)


def test_stages_come_in_order_and_costs_are_named():
    episode = make_episode(2, steps=30)
    lives, score = reduce(episode)
    stages = [live.stage for live in lives]
    assert stages == sorted(stages) and set(stages) == {0, 1, 2}
    assert [live.success for live in lives][:-1].count(1) == 0 or lives[-1].success == 1
    for live in lives:
        assert live.names == tuple(term.name for term in TASKS["carrot_on_plate"].program.stages[live.stage])
        assert len(live.costs) == len(live.names)
    assert score.success == 1 and score.objective == "task_completion"


def test_success_needs_two_observations_in_a_row():
    episode = make_episode(2, steps=30)
    lives, _ = reduce(episode)
    first = [live.success for live in lives].index(1)

    def spoil(events):
        closed = dataclasses.replace(events[first], gripper_width=0.0)
        return [*events[:first], closed, *events[first + 1 :]][: first + 2]

    spoilt, _ = reduce(episode, spoil)
    assert [live.success for live in spoilt[first - 1 :]] == [0, 0, 0]


def test_success_must_last_where_a_time_is_asked_for():
    episode = make_episode(2, steps=30)
    reducer = Reducer(TASKS["carrot_on_plate"], "", episode.identity, hold_seconds=0.3)
    patient = [reducer.push(event).success for event in events_from_episode(episode)]
    assert patient.index(1) == [live.success for live in reduce(episode)[0]].index(1) + 1


@pytest.mark.parametrize("what", ["tcp", "gripper_width"])
def test_an_observation_without_a_measurement_marks_the_score(what):
    episode = make_episode(2, steps=30)

    def spoil(events):
        value = np.asarray(getattr(events[7], what), float) * np.nan
        value = float(value) if what == "gripper_width" else value
        return [*events[:7], dataclasses.replace(events[7], **{what: value}), *events[8:]]

    lives, score = reduce(episode, spoil)
    assert lives[7].success == -1 and lives[7].reason and all(math.isnan(cost) for cost in lives[7].costs)
    assert lives[6].success == lives[8].success == 0
    assert score.incomplete and score.success == 1
    assert [line for line in score.problems if line.startswith("step 7: ")]


def test_a_keypoint_that_appears_on_the_way_is_a_fault():
    episode = make_episode(2, steps=30)
    lives, score = reduce(
        episode, lambda events: [*events[:5], dataclasses.replace(events[5], keypoints=np.zeros((3, 3))), *events[6:]]
    )
    assert lives[5].reason == "3 keypoints instead of 2" and score.incomplete


@pytest.mark.parametrize(("obstacles", "count"), [(True, 1), (False, 1), (False, 3)])
def test_too_few_keypoints_and_more_than_the_task_knows_of_are_faults(obstacles, count):
    episode = make_episode(2, steps=5)
    task = dataclasses.replace(TASKS["carrot_on_plate"], obstacles=obstacles)
    reducer = Reducer(task, "", episode.identity)
    event = dataclasses.replace(events_from_episode(episode)[0], keypoints=np.zeros((count, 3)))
    assert reducer.push(event).reason == f"{count} keypoints instead of 2"


def test_keypoints_of_other_names_are_a_problem_and_obstacles_may_be_called_anything():
    episode = make_episode(2, steps=5)
    for names, problem in (
        (("carrot", "plate"), False), (("carrot", "plate", "post"), False), (("plate", "carrot"), True), ((), True)
    ):  # fmt: skip
        reducer = Reducer(TASKS["carrot_on_plate"], "", episode.identity)
        reducer.name_keypoints(names)
        for event in events_from_episode(episode):
            reducer.push(event)
        assert bool(reducer.finish(episode.outcome).problems) is problem


def test_missing_steps_and_a_change_of_adapter_mark_the_score():
    episode = make_episode(2, steps=30)
    _, score = reduce(episode, lambda events: [*events[:4], *events[5:]])
    assert score.problems[:2] == ("29 steps seen, the outcome counts 30", "step 10 where step 9 was due")
    assert len(score.problems) == 11 and score.problems[-1] == "and 16 more"
    mixed = dataclasses.replace(episode, outcome=dataclasses.replace(episode.outcome, mixed_adapter=True))
    assert reduce(mixed)[1].problems == ("the adapter changed within the episode",)


def test_every_number_that_enters_changes_the_inputs_hash():
    episode = make_episode(2, steps=10)

    def nudge(**changes):
        return lambda events: [*events[:3], dataclasses.replace(events[3], **changes), *events[4:]]

    events = events_from_episode(episode)
    bump = {
        "stamp": events[3].stamp + 1,
        "gripper_width": math.nextafter(events[3].gripper_width, 1),
        "tcp": np.nextafter(events[3].tcp, 9),
        "keypoints": np.nextafter(events[3].keypoints, 9),
        "logprobs": np.nextafter(events[3].logprobs, np.float32(9)),
    }
    hashes = {reduce(episode, nudge(**{name: value}))[1].inputs_hash for name, value in bump.items()}
    assert len(hashes | {reduce(episode)[1].inputs_hash}) == len(bump) + 1
    assert reduce(episode)[1].inputs_hash == reduce(episode)[1].inputs_hash


def test_an_episode_without_a_single_event_costs_the_worst():
    episode = make_episode(2, steps=10)
    score = Reducer(TASKS["carrot_on_plate"], "", episode.identity).finish(episode.outcome)
    assert score.incomplete and score.success == -1 and score.stages_reached == 0
    assert score.log_r_ext < -40


def test_an_unknown_objective_is_refused():
    episode = make_episode(2, steps=10)
    with pytest.raises(TaskError, match="speed"):
        Reducer(TASKS["carrot_on_plate"], "speed", episode.identity)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(OBJECTIVES), st.booleans())
def test_costs_worked_out_all_at_once_change_no_bit_of_a_score(seed, objective, lose):
    episode = wild_episode(seed)
    events = events_from_episode(episode)
    if lose:
        rng = np.random.default_rng(seed)
        for n in np.flatnonzero(rng.random(len(events)) < 0.2):
            events[n] = dataclasses.replace(events[n], keypoints=events[n].keypoints * np.nan)
    one, all_at_once = (Reducer(TASKS[episode.identity.task], objective, episode.identity) for _ in range(2))
    all_at_once.foresee(events)
    lives = [(one.push(event), all_at_once.push(event)) for event in events]
    assert [repr(live) for live, _ in lives] == [repr(live) for _, live in lives]
    assert one.finish(episode.outcome).hash == all_at_once.finish(episode.outcome).hash
