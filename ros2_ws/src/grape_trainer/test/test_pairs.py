"""Ranking and pairing: invariants on random groups, and each reason for leaving an episode out."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape_episode.episode import GATE_VETOED, PERSON_DROVE, Series
from grape_episode.reader import read_episode
from grape_episode.synthetic import make_episode, write_episode
from grape_reward.reviews import add_review
from grape_reward.score import score_episode
from grape_trainer import pairs as pairing
from grape_trainer.errors import PairsError
from grape_trainer.iteration import score_rollout
from grape_trainer.pairs import Excluded, build, candidate, read_pairs, write_pairs
from grape_trainer.ranking import Candidate, rank
from grape_trainer.rig import Rollout
from grape_trainer.settings import EQUALS


def rollout(name: str, success: int = 0, log_r_ext: float = -1.0, per_token: float = -0.5, **other: Any) -> Candidate:
    values: dict[str, Any] = {
        "episode_id": name,
        "path": f"/bags/{name}",
        "task": "carrot_on_plate",
        "variant": "clean",
        "initial_state": 100_000,
        "objective": "task_completion",
        "base_hash": "base",
        "adapter_id": "",
        "cost_program_hash": "program",
        "steps": 40,
        "success": success,
        "log_r_ext": log_r_ext,
        "r_self": per_token * 7 * 40,
        "r_self_per_token": per_token,
    }
    return Candidate(**{**values, **other})


@st.composite
def rollouts(draw: st.DrawFn) -> list[Candidate]:
    made = []
    for i in range(draw(st.integers(0, 24))):
        made.append(
            rollout(
                f"e{i:02d}",
                success=draw(st.integers(0, 1)),
                log_r_ext=draw(st.sampled_from([-0.1, -1.0, -3.0, -80.0])),
                per_token=draw(st.sampled_from([-0.2, -0.5, -0.9])),
                task=draw(st.sampled_from(["carrot_on_plate", "spoon_on_towel"])),
                variant=draw(st.sampled_from(["clean", "obstacle"])),
                initial_state=draw(st.integers(100_000, 100_002)),
                steps=draw(st.integers(10, 60)),
            )
        )
    return made


@settings(deadline=None, max_examples=60)
@given(rollouts(), st.integers(1, 4), st.sampled_from(["balanced", "paper"]))
def test_every_pair_is_strict_and_within_its_group(made: list[Candidate], m: int, ranking: str) -> None:
    result = build(made, ranking, m)
    by_id = {c.episode_id: c for c in made}
    for pair in result.pairs:
        chosen, rejected = by_id[pair.chosen], by_id[pair.rejected]
        assert chosen.group == rejected.group == pair.group
        assert pair.margin == pytest.approx(result.scores[pair.chosen] - result.scores[pair.rejected])
        if ranking == "balanced":
            assert chosen.success >= rejected.success
            assert chosen.success > rejected.success or pair.margin > 0
        else:
            assert pair.margin > 0
    groups: dict[Any, list[str]] = {}
    for c in made:
        groups.setdefault(c.group, []).append(c.episode_id)
    for group, members in groups.items():
        own = [p for p in result.pairs if p.group == group]
        up, down = {p.chosen for p in own}, {p.rejected for p in own}
        assert not up & down
        assert max(len(up), len(down), 0) <= min(m, len(members) // 2)
        assert len(own) == len({(p.chosen, p.rejected) for p in own}) <= m * m


@settings(deadline=None, max_examples=40)
@given(rollouts(), st.randoms(use_true_random=False))
def test_the_order_of_the_episodes_does_not_matter(made: list[Candidate], random: Any) -> None:
    shuffled = list(made)
    random.shuffle(shuffled)
    assert {(p.chosen, p.rejected) for p in build(made).pairs} == {
        (p.chosen, p.rejected) for p in build(shuffled).pairs
    }


@settings(deadline=None, max_examples=40)
@given(rollouts())
def test_random_pairs_do_not_hang_on_what_happened(made: list[Candidate]) -> None:
    others = [
        dataclasses.replace(c, success=1 - c.success, log_r_ext=-c.log_r_ext, r_self_per_token=0.0, steps=7)
        for c in made
    ]
    both = [{(p.chosen, p.rejected) for p in build(side, "random").pairs} for side in (made, others)]
    assert both[0] == both[1]
    if any(sum(c.group == d.group for d in made) > 1 for c in made):
        assert both[0]


@settings(deadline=None, max_examples=60)
@given(rollouts())
def test_swift_is_success_then_fewer_steps_and_failures_are_alike(made: list[Candidate]) -> None:
    by_id = {c.episode_id: c for c in made}
    pairs = build(made, "swift").pairs
    for pair in pairs:
        chosen, rejected = by_id[pair.chosen], by_id[pair.rejected]
        assert chosen.success == 1 and pair.margin > 0
        assert rejected.success == 0 or chosen.steps < rejected.steps
    for group in {c.group for c in made}:
        own = [c for c in made if c.group == group]
        told = any(p.group == group for p in pairs)
        wins = [c for c in own if c.success]
        assert told == (0 < len(wins) < len(own) or len({c.steps for c in wins}) > 1)


def test_balanced_score_is_the_sum_of_z_scores_within_the_task() -> None:
    made = [rollout("a", 1, -0.5, -0.3), rollout("b", 0, -2.0, -0.2), rollout("c", 0, -4.0, -0.7)]
    got = rank(made, "balanced").scores
    columns = np.array([[c.success, c.log_r_ext, c.r_self_per_token] for c in made])
    wanted = ((columns - columns.mean(0)) / columns.std(0)).sum(1)
    assert got == pytest.approx(wanted)


def test_weights_of_the_balanced_score_and_terms_left_out() -> None:
    made = [rollout("a", 1, -5.0, -0.3), rollout("b", 0, -2.0, -0.2), rollout("c", 0, -4.0, -0.7)]
    columns = np.array([[c.r_self_per_token, c.log_r_ext, c.success] for c in made])
    scaled = (columns - columns.mean(0)) / columns.std(0)
    weights = np.array([0.5, 3.0, 2.0])
    assert rank(made, "balanced", weights.tolist()).scores == pytest.approx(scaled @ weights)
    costs = rank(made, "balanced", (0.0, 1.0, 0.0))
    assert costs.terms.keys() == {"log_r_ext"} and costs.scores == pytest.approx(scaled[:, 1])
    # without success the costs alone decide, with it they do not
    assert costs.order([0, 1, 2])[0] == 1 and rank(made, "balanced", (0.0, 9.0, 1.0)).order([0, 1, 2])[0] == 0


def test_paper_score_is_equation_ten() -> None:
    made = [rollout("a", 1, -0.5, -0.3), rollout("b", 0, -2.0, -0.2)]
    got = rank(made, "paper", (0.01, 0.01, 2.0)).scores
    assert got[0] == pytest.approx(0.01 * -0.3 * 280 + 0.01 * math.exp(-0.5) + 2.0)
    assert got[1] == pytest.approx(0.01 * -0.2 * 280 + 0.01 * math.exp(-2.0))


def test_balanced_never_prefers_a_failure_even_where_its_sum_is_higher() -> None:
    made = [rollout("good", 1, -9.0, -2.0), rollout("smooth", 0, -0.1, -0.1)]
    # padding that shrinks the z-score of success: it varies a lot elsewhere in the task
    made += [rollout(f"x{i}", i % 2, -1.0, -0.5, initial_state=100_001 + i) for i in range(8)]
    result = build(made, "balanced", 1)
    assert result.scores["smooth"] > result.scores["good"]
    assert [(p.chosen, p.rejected) for p in result.pairs] == [("good", "smooth")]
    assert not any(p.chosen == "good" for p in build(made, "paper", 1).pairs)


def test_pairs_of_equal_success_are_left_out_where_they_are_not_wanted() -> None:
    # successes by state: all, some, none
    made = [
        rollout(f"{state}{i}", int(i < wins), -float(i), -0.3, initial_state=state)
        for state, wins in enumerate((4, 3, 1, 0))
        for i in range(4)
    ]
    success = {c.episode_id: c.success for c in made}
    for ranking in ("balanced", "paper", "random"):
        every, wins, flips = (build(made, ranking, equal=equal).pairs for equal in EQUALS)
        sides = [(success[p.chosen], success[p.rejected]) for p in every]
        assert {(1, 1), (0, 0)} < set(sides) and len(set(sides)) > 2
        assert wins == tuple(p for p, side in zip(every, sides, strict=True) if side != (0, 0))
        assert flips == tuple(p for p, (a, b) in zip(every, sides, strict=True) if a != b)


def test_a_policy_that_never_succeeds_learns_from_costs_and_it_is_said() -> None:
    made = [rollout(f"{i}", 0, -float(i), -0.3) for i in range(4)]
    for equal in EQUALS:
        found = build(made, equal=equal)
        assert found.pairs == build(made).pairs != ()
        assert any("leaves no pair" in line for line in found.warnings) == (equal != "all")
    assert not any(
        "leaves no pair" in line for line in build([*made, rollout("good", 1, 0.0, -0.1)], equal="none").warnings
    )


def test_equal_rollouts_make_no_pair() -> None:
    assert build([rollout("a"), rollout("b"), rollout("c"), rollout("d")]).pairs == ()


def test_best_against_worst() -> None:
    made = [rollout(n, log_r_ext=x) for n, x in (("a", -3.0), ("b", -1.0), ("c", -2.0))]
    assert [(p.chosen, p.rejected) for p in build(made, m=1).pairs] == [("b", "a")]
    # three rollouts have room for one on each side only
    assert len(build(made, m=2).pairs) == 1


def test_margin_threshold_spares_pairs_of_different_success() -> None:
    made = [rollout("a", 1, -1.0), rollout("b", 0, -1.0), rollout("c", 1, -1.0, -0.4), rollout("d", 0, -1.0, -0.6)]
    same = [rollout("e", 0, -1.0, -0.5, initial_state=7), rollout("f", 0, -1.1, -0.5, initial_state=7)]
    loose, tight = build(made + same), build(made + same, min_margin=1e6)
    assert any(p.initial_state == 7 for p in loose.pairs)
    assert tight.pairs and not any(p.initial_state == 7 for p in tight.pairs)


def test_a_term_that_hardly_matters_is_reported() -> None:
    made = [rollout(f"e{i}", i % 2, -1.0 - i, -0.5 - 0.1 * i) for i in range(6)]
    result = build(made, "paper")
    assert sum(result.shares.values()) == pytest.approx(1.0)
    assert any("r_ext" in w and "rank variance" in w for w in result.warnings)
    flat = build([dataclasses.replace(c, log_r_ext=-1.0) for c in made])
    assert any("carrot_on_plate" in w and "log_r_ext" in w for w in flat.warnings)


@pytest.mark.parametrize("field", ["base_hash", "objective", "cost_program_hash", "task_hash"])
def test_scores_that_cannot_be_compared_are_refused_by_name(field: str) -> None:
    with pytest.raises(PairsError, match=field):
        build([rollout("a"), dataclasses.replace(rollout("b"), **{field: "other"})])


def test_an_episode_given_twice_counts_once() -> None:
    result = build([rollout("a", 1), rollout("b"), rollout("a", 1)])
    assert [e.reason for e in result.excluded] == ["the same episode a second time"]
    assert len(result.candidates) == 2


def episode(**changes: Any) -> SimpleNamespace:
    identity = SimpleNamespace(
        episode_id="e1", task="t", variant="clean", initial_state=3, base_hash="base", adapter_id=""
    )
    outcome = SimpleNamespace(end_reason="success", mixed_adapter=False, steps=2)
    step = SimpleNamespace(adapter_id="", base_hash="base")
    made = {"identity": identity, "outcome": outcome, "problems": (), "steps": (step, step), "path": Path("/b/e1")}
    return SimpleNamespace(**{"intervention": "", **made, **changes})


def score(**changes: Any) -> SimpleNamespace:
    made = {
        "episode_id": "e1",
        "objective": "safety",
        "log_r_ext": -1.0,
        "r_self": -30.0,
        "r_self_per_token": -0.4,
        "success": 1,
        "incomplete": False,
        "approved": True,
        "cost_program_hash": "h",
        "task_hash": "t",
        "outcome": "success",
        "undecided": (),
    }
    return SimpleNamespace(**{**made, **changes})


def test_a_whole_episode_becomes_a_candidate() -> None:
    made = candidate(episode(), score())
    assert isinstance(made, Candidate)
    assert (made.path, made.steps, made.success, made.group) == ("/b/e1", 2, 1, ("t", "clean", 3))


@pytest.mark.parametrize(
    ("episode_changes", "score_changes", "reason"),
    [
        ({"outcome": None}, {}, "no outcome"),
        ({"outcome": SimpleNamespace(end_reason="success", mixed_adapter=True)}, {}, "adapter changed"),
        ({"problems": ("step 3 has no image",)}, {}, "step 3 has no image"),
        ({"steps": ()}, {}, "no steps"),
        ({"intervention": "a person drove for part of it"}, {}, "a person drove"),
        ({"outcome": SimpleNamespace(end_reason="cancelled", mixed_adapter=False)}, {}, "cancelled"),
        (
            {"steps": (SimpleNamespace(adapter_id="a", base_hash="b"), SimpleNamespace(adapter_id="c", base_hash="b"))},
            {},
            "more than one adapter",
        ),
        ({}, {"incomplete": True}, "score is incomplete"),
        ({}, {"approved": False}, "nobody approved"),
        ({}, {"success": -1}, "success unknown"),
        ({}, {"outcome": "review", "log_r_ext": math.nan}, "a person must decide on it: `grape episodes review`"),
        ({}, {"outcome": "review", "undecided": ("lost the cup",)}, "decide on it (lost the cup): "),
        ({}, {"r_self": math.nan}, "r_self is not finite"),
    ],
)
def test_unfit_episodes_are_left_out_with_their_reason(
    episode_changes: dict[str, Any], score_changes: dict[str, Any], reason: str
) -> None:
    made = candidate(episode(**episode_changes), score(**score_changes))
    assert isinstance(made, Excluded) and reason in made.reason
    result = build([made, rollout("a", 1), rollout("b")])
    assert result.excluded == (made,) and len(result.pairs) == 1


def test_a_score_of_another_episode_is_an_error() -> None:
    with pytest.raises(PairsError, match="e2"):
        candidate(episode(), score(episode_id="e2"))


def test_file_round_trip_and_relative_paths(tmp_path: Path) -> None:
    made = [rollout("a", 1, path=str(tmp_path / "bags/a")), rollout("b", 0, path=str(tmp_path / "bags/b"))]
    result = build([*made, Excluded("c", str(tmp_path / "bags/c"), "no outcome")])
    write_pairs(tmp_path / "pairs.json", result)
    assert read_pairs(tmp_path / "pairs.json") == result
    assert json.loads((tmp_path / "pairs.json").read_text())["episodes"]["a"]["path"] == "bags/a"
    (tmp_path / "pairs.json").rename(tmp_path.parent / "moved.json")
    assert read_pairs(tmp_path.parent / "moved.json").candidates[0].path == str(tmp_path.parent / "bags/a")


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda d: d.update(format="x"), "grape-pairs/1"),
        (lambda d: d.pop("pairs"), "'pairs' is missing"),
        (lambda d: d["pairs"][0].update(chosen="zz"), "episode zz is not in the file"),
        (lambda d: d["pairs"][0].update(chosen="b"), "same episode on both sides"),
        (lambda d: d["pairs"][0].update(initial_state=1), "started from"),
        (lambda d: d["pairs"][0].update(color="red"), "color"),
        (lambda d: d["episodes"]["a"].pop("task"), "task"),
    ],
)
def test_a_damaged_file_is_refused_naming_it(tmp_path: Path, edit: Any, text: str) -> None:
    path = tmp_path / "pairs.json"
    write_pairs(path, build([rollout("a", 1), rollout("b")]))
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(PairsError, match=text) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_or_cut_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"none\.json"):
        read_pairs(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"format": ')
    with pytest.raises(PairsError, match=r"cut\.json: not JSON"):
        read_pairs(tmp_path / "cut.json")


def test_summary_by_task() -> None:
    result = build([rollout("a", 1), rollout("b")])
    assert result.tasks() == {"carrot_on_plate": {"episodes": 2, "successes": 1, "states": 1, "pairs": 1}}
    assert pairing.FORMAT.startswith("grape-pairs/")


def test_an_undecided_episode_trains_once_a_person_has_decided(tmp_path: Path) -> None:
    made = make_episode(3, steps=8, success=False)
    points = made.keypoints.values.copy()
    points[-1, 0] = np.nan
    bag = write_episode(
        dataclasses.replace(made, keypoints=dataclasses.replace(made.keypoints, values=points)), tmp_path / "bag"
    )
    recorded = read_episode(bag)
    left = candidate(recorded, score_episode(recorded))
    assert isinstance(left, Excluded) and "lost keypoint carrot" in left.reason
    assert left.reason.endswith("`grape episodes review`")
    add_review(bag, recorded.identity.episode_id, "no", "ana", "it fell beside the plate")
    taken = candidate(recorded, score_episode(recorded))
    assert isinstance(taken, Candidate) and taken.success == 0 and taken.task_hash


def test_an_episode_that_a_person_drove_for_a_while_never_trains(tmp_path: Path) -> None:
    made = make_episode(3, 8)
    moves = Series(made.tcp.stamps[2:4], np.zeros((2, 7)))
    bag = write_episode(dataclasses.replace(made, operator=moves), tmp_path / "driven")
    entry, scored = score_rollout(Rollout("k", str(bag)), None, None)
    assert isinstance(entry, Excluded) and entry.reason == PERSON_DROVE
    assert scored["success"] == 1, "it is scored all the same"
    held = dataclasses.replace(made.gate[5], verdict=GATE_VETOED, check="dead_man")
    bag = write_episode(dataclasses.replace(made, gate=(*made.gate[:5], held, *made.gate[6:])), tmp_path / "held")
    entry, _ = score_rollout(Rollout("k", str(bag)), None, None)
    assert isinstance(entry, Excluded) and "dead-man's button go at step 5" in entry.reason
    bag = write_episode(made, tmp_path / "free")
    assert isinstance(score_rollout(Rollout("k", str(bag)), None, None)[0], Candidate)
