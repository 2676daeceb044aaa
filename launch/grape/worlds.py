"""Policies on suites of worlds: the same initial states for each, several decodings, intervals over states and training
seeds.

The rollouts run in processes of this machine (:mod:`grape.workers`); the world's success ends and judges them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grape import compare_table
from grape.clustered import clustered
from grape.evaluation import WORLD, Job, Result
from grape.suites import Item, Suite, limited
from grape_episode import statistics
from grape_sim.unseen import kind_of

BASE = "base"
IN_DOMAIN = "in_domain"
UNSEEN_SUITES = ("subject", "physical", "semantic", "visual", "grounding", "action")
TOGETHER = "unseen together"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")


class WorldsError(Exception):
    """An evaluation on worlds cannot be run as asked; the text names what is wrong."""


@dataclass(frozen=True)
class Policy:
    """A policy under trial. ``adapters``: folders of adapters, one a training seed; an empty one: the base model."""

    name: str
    adapters: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is run. The first policy is what the others are set against; ``temperatures``: 0 is greedy; ``states``: of
    every item, 0 for all it has."""

    suites: tuple[Suite, ...]
    policies: tuple[Policy, ...]
    temperatures: tuple[float, ...] = (0.0, 1.0)
    states: int = 0
    seed: int = 0

    def items(self, suite: Suite) -> tuple[Item, ...]:
        """Raises SuiteError where an item has fewer states than are asked for."""
        return tuple(limited(item, self.states, source=suite.source) for item in suite.items)


def read_policies(words: str) -> tuple[Policy, ...]:
    """Policies by comma: ``base``, an adapter's folder, or ``NAME=FOLDER+FOLDER`` for one trained several times.

    Raises WorldsError naming a name that is given twice, or a folder that is none."""
    found: list[Policy] = []
    for word in (part.strip() for part in words.split(",")):
        if not word:
            continue
        name, equals, folders = word.partition("=")
        if not equals:
            name, folders = (BASE, "") if word == BASE else (Path(word).name, word)
        if not _NAME.fullmatch(name):
            raise WorldsError(f"--policies: {name!r} is no name: letters, digits, space, '_', '.' and '-'")
        found.append(Policy(name, tuple(_folder(one, name) for one in folders.split("+"))))
    names = [policy.name for policy in found]
    if not names:
        raise WorldsError("--policies: at least one is needed")
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise WorldsError(f"--policies: {twice} is given twice; give each a name: NAME=FOLDER")
    counts = {len(policy.adapters) for policy in found} - {1}
    if len(counts) > 1:
        told = " and ".join(map(str, sorted(counts)))
        raise WorldsError(f"--policies: {told} training seeds: every policy needs one, or as many as the others")
    return tuple(found)


def _folder(word: str, name: str) -> str:
    if word in ("", BASE):
        return ""
    path = Path(word).expanduser()
    if not path.is_dir():
        raise WorldsError(f"--policies: {name}: {path}: no such folder")
    return str(path.resolve())


def decoding(temperature: float) -> str:
    """How a temperature is called in tables."""
    return "greedy" if temperature == 0.0 else f"temperature {temperature:g}"


def trials(plan: Plan, suite: Suite, policy: Policy, training_seed: int, temperature: float) -> list[Job]:
    """The jobs of one policy and training seed on a suite; those of a state share its sampling seed."""
    adapter = policy.adapters[training_seed]
    return [
        Job(
            task=item.task,
            variant=item.variant,
            initial_state=state,
            seed=plan.seed + state,
            temperature=temperature,
            adapter=adapter,
            ends_by=WORLD,
            step_limit=item.step_limit,
        )
        for item in plan.items(suite)
        for state in item.states
    ]


def jobs(plan: Plan) -> list[Job]:
    """Every trial once, state by state, so that an interrupted run has tried all policies on what it has tried."""
    columns = [
        trials(plan, suite, policy, number, temperature)
        for suite in plan.suites
        for temperature in plan.temperatures
        for policy in plan.policies
        for number in range(len(policy.adapters))
    ]
    longest = max(len(column) for column in columns)
    ordered = [column[row] for row in range(longest) for column in columns if row < len(column)]
    return list({job.key: job for job in ordered}.values())


def table(plan: Plan, results: Sequence[Result]) -> dict[str, Any]:
    """``rows``: a policy on a suite in a decoding; ``differences``: of each policy to the first. Plain JSON.

    Raises WorldsError where a trial of the plan has no result."""
    known = {result.job.key: result for result in results}
    rows: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    first = plan.policies[0].name
    for temperature in plan.temperatures:
        name = decoding(temperature)
        cells = {suite.name: _cell(plan, suite, temperature, known) for suite in plan.suites}
        for suite in plan.suites:
            mark = {"suite": suite.name, "decoding": name}
            tasks = list(dict.fromkeys(item.task for item in suite.items))
            for policy in plan.policies:
                row = compare_table.row(policy.name, tasks, cells[suite.name])
                rows.append({**row, **mark, **_kinds(policy.name, cells[suite.name])})
            for policy in plan.policies[1:]:
                gap = compare_table.difference(policy.name, first, cells[suite.name])
                differences.append({**gap, **mark})
        together = [cells[suite] for suite in cells if suite.removeprefix("tuning_") in UNSEEN_SUITES]
        if len(together) > 1:
            for policy in plan.policies[1:]:
                gap = unseen_together(policy.name, first, together)
                differences.append({**gap, "suite": TOGETHER, "decoding": name})
    suites = {suite.name: suite.hash for suite in plan.suites}
    return compare_table.plain({"suites": suites, "rows": rows, "differences": differences})


def unseen_together(name: str, other: str, cells: Sequence[compare_table.Results]) -> dict[str, Any]:
    """``name`` minus ``other`` in success, every suite weighing the same.

    A state's scenes share their layout from suite to suite, so the bootstrap draws states, each with all its suites."""

    def columns(policy: str) -> np.ndarray:
        keys = sorted({(r.job.task, r.job.initial_state) for cell in cells for r in next(iter(cell.values()))})
        place = {key: column for column, key in enumerate(keys)}
        seeds = [number for own, number in cells[0] if own == policy]
        found = np.zeros((len(seeds), len(keys)))
        for cell in cells:
            for row, number in enumerate(seeds):
                own = cell[(policy, number)]
                weight = len(keys) / (len(cells) * len(own))
                for result in own:
                    found[row, place[(result.job.task, result.job.initial_state)]] += weight * result.success
        return found

    gap = clustered(columns(other), columns(name))
    points = {"points": 100 * gap.difference, "low": 100 * gap.low, "high": 100 * gap.high}
    noise = not gap.beyond_noise
    return {
        "policy": name,
        "against": other,
        **points,
        "noise": noise,
        "words": compare_table.in_words(name, other, {**points, "noise": noise}),
    }


def _cell(
    plan: Plan, suite: Suite, temperature: float, known: Mapping[str, Result]
) -> dict[tuple[str, int], list[Result]]:
    cell: dict[tuple[str, int], list[Result]] = {}
    for policy in plan.policies:
        for number in range(len(policy.adapters)):
            wanted = trials(plan, suite, policy, number, temperature)
            if missing := next((job for job in wanted if job.key not in known), None):
                where = f"{missing.task} {missing.initial_state}"
                raise WorldsError(f"suite {suite.name}: no result of {policy.name} on {where}")
            cell[(policy.name, number)] = [known[job.key] for job in wanted]
    return cell


def _kinds(name: str, cell: compare_table.Results) -> dict[str, Any]:
    """Success by kind, and how often the wrong candidate was taken."""
    own = [result for (policy, _), results in cell.items() if policy == name for result in results]
    by_kind: dict[str, list[bool]] = {}
    for result in own:
        if kind := kind_of(result.job.variant, result.job.initial_state):
            by_kind.setdefault(kind, []).append(result.success)
    return {
        "kinds": {kind: statistics.proportion(by_kind[kind]).as_dict() for kind in sorted(by_kind)},
        "mistaken": statistics.proportion([result.mistaken for result in own]).as_dict(),
    }


def flat(plan: Plan, results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row a trial, for tables of other programs."""
    known = {result.job.key: result for result in results}
    rows = []
    for suite in plan.suites:
        for temperature in plan.temperatures:
            for (policy, number), own in _cell(plan, suite, temperature, known).items():
                rows += [
                    {
                        "suite": suite.name,
                        "decoding": decoding(temperature),
                        "policy": policy,
                        "training_seed": number,
                        "task": r.job.task,
                        "variant": r.job.variant,
                        "kind": kind_of(r.job.variant, r.job.initial_state),
                        "initial_state": r.job.initial_state,
                        "seed": r.job.seed,
                        "temperature": r.job.temperature,
                        "success": r.success,
                        "grasp": r.grasp,
                        "collision": r.collision,
                        "mistaken": r.mistaken,
                        "steps": r.steps,
                        "reward_success": r.reward_success,
                        "end_reason": r.end_reason,
                        "adapter_id": r.adapter_id,
                        "tokens_hash": r.tokens_hash,
                    }
                    for r in own
                ]
    return rows
