"""``grape up``, ``grape run`` and ``grape replay``: the nodes for people without ros2cli."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grape import console
from grape.replay_plan import RESCORED
from grape.up import Stack, StackConfig, StackError
from grape_episode.episode import ENDED_BY_OPERATOR
from grape_reward.tasks import library

EPISODE_SECONDS = 3600.0
"""For an episode with its reset: in the lab a person lays out the scene."""


class ServeError(Exception):
    """A command to the nodes that cannot be carried out; the text names the argument."""


def serve(model: Path, registry: Path, lock_step: bool, domain: int, episodes: Path, trainer: bool) -> None:
    """Start the nodes and keep them until Ctrl-C. Raises StackError when one does not come up, or ends."""
    nodes = ("sim", "gate", "reward", "recorder", "policy", *(("trainer",) if trainer else ()))
    config = StackConfig(
        domain=domain,
        log_dir=episodes.parent / "logs",
        lock_step=lock_step,
        model=model,
        registry=registry,
        episodes_root=episodes,
        nodes=nodes,
    )
    console.console.print(f"starting {', '.join(nodes)} in ROS domain {domain}; logs in {config.log_dir}")
    with Stack(config) as stack:
        console.console.print('ready; Ctrl-C ends. In another shell: grape run "put the carrot on the plate"')
        try:
            while not (problem := stack.failed()):
                time.sleep(0.5)
        except KeyboardInterrupt:
            console.console.print("ending the nodes")
            return
    raise StackError(problem)


def task_of(instruction: str, task: str, tasks: Path | None = None) -> str:
    """The task that rewards an instruction; ``tasks``: folder of a person's own, before the shipped ones.

    Raises ServeError where none is named and none has these words, TaskError for a name or folder that is none."""
    known = library(tasks)
    if task:
        return known.named(task).name
    words = " ".join(instruction.lower().split())
    told = {name: known[name].instructions for name in known}
    for name, instructions in told.items():
        if words in (" ".join(one.lower().split()) for one in instructions):
            return name
    listed = "; ".join(f'"{instructions[0]}" ({name})' for name, instructions in told.items())
    raise ServeError(f"{instruction!r} is no known task's instruction: name the task with --task. Known: {listed}")


def run_once(goal: Mapping[str, Any], domain: int) -> None:
    """One episode on the nodes that are up in ``domain``; ``goal``: fields of RunEpisode.action.

    Raises ServeError where it does not end by itself, or, of a demonstration, by the person who drives."""
    from grape.ros import run_episode

    demonstration = bool(goal.get("demonstration"))
    total = goal.get("step_limit") or (600 if demonstration else 60)
    with console.progress("control periods") as bar:
        result = run_episode(domain, goal, lambda step: bar(step + 1, total, ""), EPISODE_SECONDS)
    shown = {-1: "unknown", 0: "no", 1: "yes"}
    rows = [
        ["ended", result.end_reason],
        ["steps", str(result.steps)],
        ["success (reward node)", shown[result.success_reward]],
        ["success (world)", shown[result.success_world]],
        ["grasped", shown[result.grasped]],
        ["collision", shown[result.collision]],
        ["adapter", result.adapter_id[:12] or "none"],
        ["bag", result.bag_path or "not recorded"],
    ]
    console.table(result.episode_id, ["", ""], rows)
    if demonstration and result.detail.startswith(ENDED_BY_OPERATOR):
        return
    if result.end_reason not in ("success", "step_limit"):
        raise ServeError(f"{result.episode_id}: {result.end_reason}: {result.detail}")


def replay_bag(bag: Path, rate: float, domain: int, rescore: bool = False) -> None:
    """Play a bag in ``domain`` by the replay node. Raises ServeError with what the node said."""
    command = replay_command(bag, rate, rescore)
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    console.console.print(f"playing {bag} in ROS domain {domain}")
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ServeError(said[-1].removeprefix("grape_replay: ") if said else f"{bag}: status {done.returncode}")


def replay_command(bag: Path, rate: float, rescore: bool = False, **settings: object) -> list[str]:
    """What plays a bag. ``rescore``: leave out what a reward node says, and wait for one that says it anew;
    ``settings``: further parameters of the replay node."""
    settings |= {"bag": bag.absolute(), "rate": rate}
    if rescore:
        settings |= RESCORED
    command = [sys.executable, "-m", "grape_episode.replay_node", "--ros-args"]
    return command + [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
