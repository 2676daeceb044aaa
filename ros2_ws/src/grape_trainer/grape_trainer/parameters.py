"""The trainer node's parameters, and what a goal and they make of an align run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape_reward.tasks import TASKS
from grape_trainer.canary import CanaryPlan
from grape_trainer.config import DTYPES
from grape_trainer.errors import LoopError, SettingsError
from grape_trainer.files import read_json
from grape_trainer.gate import Bounds
from grape_trainer.goal import AlignGoal
from grape_trainer.loop import STATE, AlignConfig
from grape_trainer.settings import settings, usual

Value = bool | int | float | str | list[int]
WAITS = ("auto", "always", "never")


@dataclass(frozen=True)
class Parameter:
    """One parameter; ``low`` and ``high`` bound a number. All are read when a goal begins."""

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    settable: bool = True


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("model", "", "Folder of the checkpoint that the policy node serves.", settable=False),
    Parameter("registry", "", "Folder of the adapter registry; the policy node's own.", settable=False),
    Parameter("runs", "runs", "Folder under which each run gets one of its own.", settable=False),
    Parameter("domains", [-1], "ROS domains whose stacks collect side by side; -1: the node's own.", settable=False),
    Parameter("variant", "", "Variant of the world for the rollouts; empty: its default."),
    Parameter("temperature", 1.0, "Sampling temperature of the rollouts.", 0.01, 10.0),
    Parameter("step_limit", 0, "Steps after which a rollout ends; 0: the task's own.", 0, 100_000),
    Parameter("overrides", "{}", "Trainer settings that differ from the goal's preset, a JSON object."),
    Parameter("threads", 2, "Torch threads of the training process; 0: torch's own choice.", 0, 256),
    Parameter("device", "cpu", "Torch device of the training process."),
    Parameter("dtype", "float32", f"Torch dtype of the base weights: {', '.join(DTYPES)}."),
    Parameter("deadline", 30.0, "Seconds for an answer of the policy node.", 0.1, 600.0),
    Parameter("episode_deadline", 600.0, "Seconds for a whole rollout.", 1.0, 86_400.0),
    Parameter("gate_accuracy", 0.5, "Held-out preference accuracy that a new adapter must not miss; 0: any.", 0.0, 1.0),
    Parameter("gate_kl", 1.5, "KL to the reference that it must not pass, nats a step; 0: any.", 0.0, 1000.0),
    Parameter(
        "canary_states",
        0,
        "Greedy episodes a task and side, over the same nodes, in which a new adapter must be no worse; 0: no canary.",
        0,
        10_000,
    ),
    Parameter("canary_bound", 0.05, "Loss of success that the canary must exclude.", 0.0, 1.0),
    Parameter(
        "wait_to_train",
        "auto",
        "Train only once no episode runs: auto (where the only GPU also serves), always, never.",
    ),
    Parameter("idle", 5.0, "Seconds without an episode after which collecting is over.", 0.0, 3600.0),
    Parameter("watch", "", "Folder of bags to train on as they come; empty: only when told.", settable=False),
    Parameter("watch_min", 16, "New episodes of the serving policy from which a run begins.", 2, 1_000_000),
    Parameter("watch_period", 10.0, "Seconds between two looks into that folder.", 0.1, 3600.0),
    Parameter("watch_objective", "", "Objective of those runs; empty: task_completion."),
    Parameter("watch_preset", "", "Trainer preset of those runs; empty: recommended."),
    Parameter("resume_within", 600.0, "Go on with a run whose trainer died so many seconds ago; 0: never.", 0.0, 1e6),
    Parameter("autostart", True, "Configure and activate at the start.", settable=False),
)


def check_start(value: Callable[[str], Any]) -> None:
    """What must hold for the node to start. Raises SettingsError naming the parameter."""
    model = value("model")
    if model and not (Path(model).expanduser() / "config.json").is_file():
        raise SettingsError(f"parameter model: {model}: no checkpoint there (no config.json)")
    if not list(value("domains")):
        raise SettingsError("parameter domains: must name at least one")
    watched = value("watch")
    if watched and not Path(watched).expanduser().is_dir():
        raise SettingsError(f"parameter watch: {watched}: no such folder")
    for name in ("model", "registry"):
        if watched and not value(name):
            raise SettingsError(f"parameter {name}: must be set to watch a folder")


def align_config(goal: AlignGoal, value: Callable[[str], Any]) -> AlignConfig:
    """The run of a goal, in the folder of an unfinished run of the same goal where there is one.

    Raises SettingsError naming the parameter, goal field or setting."""
    for name in ("model", "registry"):
        if not value(name):
            raise SettingsError(f"parameter {name}: must be set to align")
    tasks = tuple(goal.tasks) or (() if goal.bags else tuple(TASKS))
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise SettingsError(f"unknown task {unknown[0]!r}: known are {', '.join(TASKS)}")
    try:
        overrides = json.loads(value("overrides") or "{}")
    except json.JSONDecodeError as error:
        raise SettingsError(f"parameter overrides: not JSON ({error})") from None
    if not isinstance(overrides, dict):
        raise SettingsError(f"parameter overrides: expected a JSON object, not {value('overrides')!r}")
    if value("wait_to_train") not in WAITS:
        raise SettingsError(f"parameter wait_to_train: {value('wait_to_train')!r} is none of {', '.join(WAITS)}")
    if value("dtype") not in DTYPES:
        raise SettingsError(f"parameter dtype: {value('dtype')!r} is none of {', '.join(DTYPES)}")
    chosen = settings(goal.preset or usual(objective=goal.objective), **{"seed": int(goal.seed), **overrides})
    runs = Path(value("runs")).expanduser().resolve()

    def config(folder: Path) -> AlignConfig:
        return AlignConfig(
            model=Path(value("model")).expanduser().resolve(),
            registry=Path(value("registry")).expanduser().resolve(),
            folder=folder,
            tasks=tasks,
            iterations=goal.iterations or 1,
            states=goal.states or 8,
            rollouts=goal.rollouts or 4,
            first_state=goal.first_state or 100_000,
            objective=goal.objective or "task_completion",
            variant=value("variant"),
            temperature=value("temperature"),
            step_limit=value("step_limit"),
            seed=int(goal.seed),
            settings=chosen,
            gate=Bounds(value("gate_accuracy"), value("gate_kl")),
            bags=tuple(goal.bags),
            threads=value("threads"),
            device=value("device"),
            dtype=value("dtype"),
        )

    return config(run_folder(runs, config(runs).fingerprint))


def canary_plan(config: AlignConfig, value: Callable[[str], Any]) -> CanaryPlan:
    """The canary of a run: on the run's tasks, or on all that ship where it trains on bags of others."""
    tasks = config.tasks or tuple(TASKS)
    states, bound = value("canary_states"), value("canary_bound")
    return CanaryPlan(tasks, states, bound, variant=config.variant, step_limit=config.step_limit)


def run_folder(runs: Path, fingerprint: str) -> Path:
    """``runs/align-<fingerprint>``, with a number behind it where a run of that name has ended."""
    name = f"align-{fingerprint[:12]}"
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        state = folder / STATE
        if not state.exists() or not read_json(state, LoopError).get("ended"):
            return folder
        number += 1


def must_wait(wait: str, device: str, gpus: Callable[[], int]) -> bool:
    """Whether training waits for the end of collecting: ``wait`` as the parameter ``wait_to_train``; ``gpus``: how many
    this machine has. One that is alone also serves, and two models may not fit."""
    return wait == "always" or (wait == "auto" and device.startswith("cuda") and gpus() == 1)
