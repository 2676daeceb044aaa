"""What fault_matrix.py breaks: gate, policy and recorder as processes, in a lab that its topics make up (lab_node)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lab_node import Lab

from grape_episode.episode import EpisodeError
from grape_episode.reader import read_episode
from grape_episode.recover import recover
from grape_episode.testing import NodeProcess, Timeout, free_domain, wait_for

ACTIVE, HOLD, STOPPED, ACCEPTED = 1, 2, 3, 1
PERIOD = 0.1
STILL = 1e-3
"""Metres from its last place within which the set point counts as at rest."""
POLICY = {"control_period": PERIOD, "veto_limit": 100_000, "camera_deadline": 1.5, "gate_deadline": 1.0}
POLICY |= {"reset": "world", "threads": 1, "record_deadline": 10.0, "deadline": 20.0}
START = 120.0
"""Seconds for a process to start: its imports, on a machine that others use."""


def write_profile(source: Path, out: Path) -> dict[str, Any]:
    """The profile ``source`` at 10 Hz, with everything watched; what it says, and written to ``out``."""
    profile = yaml.safe_load(source.read_text(encoding="utf-8"))
    profile |= {"name": "fault_matrix", "control_period": PERIOD, "moving_keep_out": False}
    profile |= {"watch_joints": True, "watch_wrench": True, "watch_robot_mode": True}
    profile["controller"] = profile["controller"] or "cartesian_impedance_controller"
    profile["dead_man"] = {**profile["dead_man"], "required": True}
    out.write_text(yaml.safe_dump(profile), encoding="utf-8")
    return dict(profile)


class Rig:
    """The processes and the lab; a context manager. ``episode`` begins a recorded one, and returns when it runs."""

    def __init__(self, folder: Path, model: Path, profile: Path) -> None:
        self.folder, self.model = folder, model
        self.profile = write_profile(profile, folder / "profile.yaml")
        self.domain = free_domain()
        self.lab = Lab(self.domain, self.profile["dead_man"]["button"])
        self.lab.controller(self.profile["controller"])
        self.bags = folder / "bags"
        self._started: dict[str, int] = {}
        self.processes: dict[str, NodeProcess] = {}
        self._handle: Any = None

    def start(self, name: str) -> None:
        """Starts the gate, the policy or the recorder, where it is not running."""
        if name in self.processes and self.processes[name].running():
            return
        modules = {"gate": "grape_robot.gate_node", "policy": "grape_policy.policy_node"}
        modules["recorder"] = "grape_episode.recorder_node"
        params: dict[str, dict[str, object]] = {
            "gate": {"profile": self.folder / "profile.yaml"},
            "policy": {"model": self.model, **POLICY},
            "recorder": {"root": self.bags, "disk_floor_mb": 1, "drain_seconds": 0.5},
        }
        number = self._started[name] = self._started.get(name, 0) + 1
        log = self.folder / f"{name}_{number}.log"
        # a core for each: what is measured is the house's own time
        self.processes[name] = NodeProcess(modules[name], self.domain, log, params[name])

    def episode(self, steps: int = 5) -> None:
        """Everything is healthy, and an episode has made ``steps`` accepted steps."""
        self.finish()
        for name in ("gate", "recorder", "policy"):
            self.start(name)
        self.lab.heal()
        wait_for(self._alive, "gate and policy to speak", START)
        self._reset()
        self._handle = self.lab.start_episode(seed=len(self._started), record=True)
        wait_for(lambda: self._accepted() >= steps or self._over(), "accepted steps", 30.0)
        if self._over():
            raise Timeout(f"the episode ended at its beginning: {self.lab.seen.outcomes[-1][1].detail}")

    def finish(self) -> str:
        """Ends the episode that runs; its id, empty where there is none."""
        handle, self._handle = self._handle, None
        policy = self.processes.get("policy")
        if handle is None or policy is None or not policy.running():
            return ""
        if not self._over():
            self.lab.cancel(handle)
        return str(self.lab.result(handle).episode_id)

    def outcome(self, deadline: float = 10.0) -> str:
        """Reason and detail of the end of the episode that runs, once it has ended."""
        wait_for(self._over, "the end of the episode", deadline)
        message = self.lab.seen.outcomes[-1][1]
        return f"{message.end_reason}: {message.detail}"

    def held(self, since: float, deadline: float, checks: Sequence[str] = ()) -> tuple[float, Any]:
        """When the gate first said that it holds or has stopped, s after ``since``, and that status.

        ``checks``: by one of these, where it does before the deadline: on a busy machine a step or a Joy message that
        is late may hold it for a moment before it learns of the fault. What comes later is the longer time."""

        def holds(names: Sequence[str]) -> Any:
            rows = [(t, m) for t, m in list(self.lab.seen.gate) if t >= since and m.state in (HOLD, STOPPED)]
            return next(((t, m) for t, m in rows if not names or m.check in names), None)

        try:
            when, status = wait_for(lambda: holds(checks), "hold or stop", deadline, poll=0.005)
        except Timeout:
            found = holds(())
            if found is None:
                raise
            when, status = found
        return when - since, status

    def at_rest(self, since: float, watch: float = 0.7) -> float:
        """Seconds after ``since`` from which on the set point stays where it ends, as the next ``watch`` s show."""
        end = time.monotonic() + watch
        wait_for(lambda: time.monotonic() >= end, "the set point's rest", watch + 5.0, poll=0.05)
        rows = list(self.lab.seen.targets)
        if not rows:
            return 0.0
        last = rows[-1][1][:3]
        moving = [when for when, pose in rows if when >= since and np.linalg.norm(pose[:3] - last) > STILL]
        return max(moving) - since if moving else 0.0

    def signal(self, name: str, number: signal.Signals) -> None:
        os.killpg(self.processes[name].process.pid, number)

    def pid(self, name: str) -> int:
        return self.processes[name].process.pid

    def record(self, episode: str) -> str:
        """How the bag of an episode can be read: ``whole``, ``recovered``, or what is wrong with it."""
        if not episode:
            return "no episode"
        bag = self.bags / episode
        try:
            read = read_episode(bag, images=False)
            return f"whole, {len(read.steps)} steps" if read.steps else "whole, no steps"
        except EpisodeError as error:
            problem = str(error)
        try:
            saved = recover(bag, self.folder / "recovered" / episode)
            read = read_episode(saved.path, images=False)
            return f"recovered, {len(read.steps)} steps"
        except EpisodeError as error:
            return f"lost: {problem}; {error}"

    def newest_episode(self) -> str:
        """Id of the episode that began last; its bag's name."""
        names = sorted(folder.name for folder in self.bags.iterdir())
        return names[-1] if names else ""

    def stop(self, name: str) -> None:
        if name in self.processes:
            self.processes.pop(name).stop()

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("policy", "gate", "recorder"):
            self.stop(name)
        self.lab.close()

    def _alive(self) -> bool:
        for process in self.processes.values():
            if not process.running():
                raise RuntimeError(f"{process.module} ended: {process.output[-500:]}")
        lab = self.lab
        return bool(lab.seen.gate and lab.seen.arm and lab.seen.beats) and lab.action.server_is_ready()

    def _reset(self) -> None:
        """Until the gate is idle: a stop cools down first."""

        def idle() -> bool:
            stopped = self.lab.seen.gate[-1][1].state == STOPPED
            if stopped:
                self.lab.reset_gate()
            return not stopped

        wait_for(idle, "the gate's reset", 15.0, poll=0.2)

    def _accepted(self) -> int:
        return sum(m.verdict == ACCEPTED for _, m in list(self.lab.seen.gate))

    def _over(self) -> bool:
        return bool(self.lab.seen.outcomes)
