"""The run of a safety evaluation: every policy from every initial state of every item, the adapter swapped between
episodes; results kept as they come. No ROS here: the robot is behind :class:`Port`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from grape.safety_measures import Measures
from grape.suites import Item
from grape_trainer.errors import TrainerError
from grape_trainer.files import append_line, read_json, read_lines, write_json
from grape_trainer.rig import Ack

RESULTS, PLAN = "results.jsonl", "evaluation.json"
COUNTED = ("success", "step_limit", "vetoed", "gate_fault", "cancelled")
"""Ends that say something of the policy or of the person beside the arm; any other stops the evaluation."""
GATE_FAULT = "gate_fault"
BEFORE = "served_before"
"""What serves again at the end, while an evaluation is under way."""


class SafetyError(Exception):
    """A safety evaluation cannot be run or gone on with; the text names what is wrong."""


@dataclass(frozen=True)
class Adapter:
    """What answers the policy's inferences: ``path`` of the adapter's folder, empty for the base model alone."""

    adapter_id: str
    path: str


@dataclass(frozen=True)
class Policy:
    """A policy under trial. ``name``: in tables; ``path``: folder of its adapter, empty: the base model alone."""

    name: str
    path: str
    adapter_id: str


@dataclass(frozen=True)
class Trial:
    """One episode to run; ``policy`` is a policy's name."""

    item: str
    policy: str
    task: str
    variant: str
    instruction: str
    initial_state: int
    seed: int
    temperature: float
    step_limit: int

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def state(self) -> tuple[str, int]:
        """What the trials of different policies are paired by."""
        return self.item, self.initial_state


@dataclass(frozen=True)
class Ended:
    """How an episode ended, as RunEpisode says; -1: unknown."""

    episode_id: str
    end_reason: str
    detail: str
    steps: int
    success_reward: int
    success_world: int
    grasped: int
    collision: int
    adapter_id: str
    bag: str


@dataclass(frozen=True)
class TrialResult:
    """A trial, its end and what was measured in its bag."""

    trial: Trial
    ended: Ended
    measures: Measures = field(default_factory=Measures)


@dataclass(frozen=True)
class Plan:
    """What is run. ``suite_hash``: of the whole suite; ``record``: without bags only what RunEpisode says is known;
    ``profile``: the gate's limits by name and hash, empty where nobody told them."""

    suite: str
    suite_hash: str
    robot: str
    items: tuple[Item, ...]
    policies: tuple[Policy, ...]
    seed: int
    temperature: float
    base_hash: str
    record: bool = True
    profile: str = ""


class Port(Protocol):
    """A policy before an arm. ``run`` returns None once cancelled; ``clear_gate`` returns when the gate takes episodes
    again, or when cancelled; all raise an error of the project where the other side does not answer."""

    def serving(self) -> Adapter: ...
    def load(self, path: str) -> Ack: ...
    def run(self, trial: Trial, record: bool) -> Ended | None: ...
    def measure(self, ended: Ended) -> Measures: ...
    def clear_gate(self, told: Callable[[str], None]) -> None: ...
    def cancelled(self) -> bool: ...


Told = Callable[[int, int, str], None]
"""(done, total, message)"""


def trials(plan: Plan) -> Iterator[Trial]:
    """In the order of their run: item by item, state by state. Who begins changes from state to state, so that what
    drifts with time (a lamp, a warm motor) falls on no policy alone; the policies of a state share its seed."""
    for item in plan.items:
        for number, state in enumerate(item.states):
            turn = number % len(plan.policies)
            for policy in (*plan.policies[turn:], *plan.policies[:turn]):
                yield Trial(
                    item=item.name,
                    policy=policy.name,
                    task=item.task,
                    variant=item.variant,
                    instruction=item.instruction,
                    initial_state=state,
                    seed=plan.seed + state,
                    temperature=plan.temperature,
                    step_limit=item.step_limit,
                )


def read_results(path: Path) -> list[TrialResult]:
    """The results in a JSONL file, without a last line that was cut off. Raises SafetyError naming file and line."""
    try:
        rows = read_lines(path)
    except TrainerError as error:
        raise SafetyError(str(error)) from None
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(TrialResult(Trial(**row["trial"]), Ended(**row["ended"]), Measures(**row["measures"])))
        except (KeyError, TypeError) as error:
            raise SafetyError(f"{path}: line {number} is no result of a safety evaluation ({error})") from None
    return found


def run(
    plan: Plan, port: Port, folder: Path, told: Told, ending: Callable[[], object] = lambda: None
) -> list[TrialResult]:
    """Run the trials that ``folder`` does not hold yet and return all of the plan, in its order; fewer once cancelled.

    What served before serves again at the end, however it ends, also where an earlier run in this folder was killed;
    ``ending`` is called before: from then on the port must no longer be cancelled.
    Raises SafetyError where the folder holds another evaluation, where an adapter is refused, and where an episode
    ends by something that says nothing of the policy (an error, a camera that is gone): what is finished is kept."""
    wanted = list(trials(plan))
    done = {result.trial.key: result for result in read_results(folder / RESULTS)}
    before = _own(plan, folder, port.serving())
    policies = {policy.name: policy for policy in plan.policies}
    finished = sum(trial.key in done for trial in wanted)
    told(finished, len(wanted), f"{finished} of {len(wanted)} episodes are there already" if finished else "begun")
    try:
        for trial in wanted:
            if trial.key in done:
                continue
            if port.cancelled():
                break
            result = _trial(trial, policies[trial.policy], port, plan.record)
            if result is None:
                break
            append_line(folder / RESULTS, asdict(result))
            done[trial.key] = result
            finished += 1
            told(finished, len(wanted), f"{trial.item} {trial.initial_state} {trial.policy}: {result.ended.end_reason}")
            if result.ended.end_reason == GATE_FAULT or result.measures.stopped:
                port.clear_gate(partial(told, finished, len(wanted)))
    except BaseException:
        ending()
        with suppress(Exception):  # what went wrong first is what people need to know
            _give_back(folder, before, port)
        raise
    ending()
    _give_back(folder, before, port)
    return [done[trial.key] for trial in wanted if trial.key in done]


def _trial(trial: Trial, policy: Policy, port: Port, record: bool) -> TrialResult | None:
    _serve(port, policy.path, policy.adapter_id)
    ended = port.run(trial, record)
    if ended is None:
        return None
    where = f"item {trial.item}, initial state {trial.initial_state}, {trial.policy}"
    if ended.end_reason not in COUNTED or not ended.steps:
        raise SafetyError(f"{where}: {ended.end_reason}: {ended.detail}")
    if ended.adapter_id != policy.adapter_id:
        raise SafetyError(f"{where}: adapter {ended.adapter_id[:12] or 'none'} has served: somebody swapped it")
    return TrialResult(trial, ended, port.measure(ended) if ended.bag else Measures())


def _serve(port: Port, path: str, adapter_id: str) -> None:
    """Make an adapter serve, where another does. Raises SafetyError with the policy's reason."""
    if port.serving().adapter_id == adapter_id:
        return
    ack = port.load(path)
    if not ack.accepted:
        raise SafetyError(f"adapter {path or 'none'}: {ack.reason}")


def _own(plan: Plan, folder: Path, serving: Adapter) -> Adapter:
    """Mark the folder as this evaluation's, under way; what is to serve again at its end.

    Raises SafetyError where the folder is another evaluation's."""
    mine: dict[str, Any] = {
        "suite": plan.suite,
        "suite_hash": plan.suite_hash,
        "robot": plan.robot,
        "base_hash": plan.base_hash,
        "profile": plan.profile,
        "policies": [asdict(policy) for policy in plan.policies],
    }
    mark, before = folder / PLAN, serving
    if mark.exists():
        held = _held(mark)
        for name, value in mine.items():
            if held.get(name) != value:
                raise SafetyError(f"{mark}: {name} is another evaluation's; give another folder, or remove this one")
        # a run that was killed has left one of its policies serving
        if held.get(BEFORE) and serving.adapter_id in [policy.adapter_id for policy in plan.policies]:
            before = Adapter(**held[BEFORE])
    write_json(mark, {**mine, BEFORE: asdict(before)})
    return before


def _give_back(folder: Path, before: Adapter, port: Port) -> None:
    _serve(port, before.path, before.adapter_id)
    write_json(folder / PLAN, {**_held(folder / PLAN), BEFORE: None})


def _held(mark: Path) -> dict[str, Any]:
    try:
        return read_json(mark)
    except TrainerError as error:
        raise SafetyError(str(error)) from None
