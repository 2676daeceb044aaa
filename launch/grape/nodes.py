"""The nodes of the house and the order they start in: the one table that `grape up` and the launch files read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grape_reward.tasks import TASKS

Parameters = dict[str, dict[str, object]]
"""{key of a node: {parameter: value}}"""


class NodesError(Exception):
    """A node, robot or profile that does not exist; the text names it and what there is."""


@dataclass(frozen=True)
class NodeSpec:
    """One node. ``key``: its short name; ``name``: in the ROS graph; ``lifecycle``: brought up by the manager;
    ``respawn``: a launch may start it again after a crash (never the gate: what was armed stays stopped)."""

    key: str
    name: str
    package: str
    executable: str
    lifecycle: bool = False
    respawn: bool = False

    @property
    def module(self) -> str:
        """For ``python -m``."""
        return f"{self.package}.{self.executable}"


NODES: tuple[NodeSpec, ...] = (
    NodeSpec("sim", "grape_sim", "grape_sim", "sim_node"),
    NodeSpec("gate", "grape_gate", "grape_robot", "gate_node"),
    NodeSpec("ghost", "grape_ghost_arm", "grape_robot", "ghost_arm_node", respawn=True),
    NodeSpec("recovery", "grape_recovery", "grape_robot", "recovery_node", respawn=True),
    NodeSpec("camera", "grape_camera", "grape_robot", "realsense_node", respawn=True),
    NodeSpec("reset", "grape_reset", "grape_robot", "reset_node"),
    NodeSpec("reward", "grape_reward", "grape_reward", "reward_node", respawn=True),
    NodeSpec("recorder", "grape_recorder", "grape_episode", "recorder_node", respawn=True),
    NodeSpec("policy", "grape_policy", "grape_policy", "policy_node", lifecycle=True),
    NodeSpec("teleop", "grape_teleop", "grape_robot", "teleop_node", respawn=True),
    NodeSpec("evaluate", "grape_evaluate", "grape", "evaluate_node", respawn=True),
    NodeSpec("trainer", "grape_trainer", "grape_trainer", "trainer_node", respawn=True),
)
"""In the order of their start: the world first, what acts on it after what watches it."""

PROFILES = {name: f"gate_{name}.yaml" for name in ("sim", "safety", "supervised", "real")}
"""Gate profiles by name; a path to another file is taken, too."""


def select(keys: Sequence[str]) -> tuple[NodeSpec, ...]:
    """The nodes with these keys, in the order of their start. Raises NodesError naming an unknown one."""
    known = {spec.key for spec in NODES}
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise NodesError(f"no node {', '.join(unknown)}; there are {', '.join(spec.key for spec in NODES)}")
    return tuple(spec for spec in NODES if spec.key in keys)


def profile_file(name: str, folder: Path) -> Path:
    """The gate profile of this name in ``folder`` (launch/params), or the file at this path. Raises NodesError."""
    path = folder / PROFILES[name] if name in PROFILES else Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(PROFILES))
        raise NodesError(f"gate profile {name!r}: neither one of {known} nor a file ({path})")
    return path.resolve()


def parameters(
    model: Path,
    registry: Path | None,
    episodes: Path,
    profile: Path,
    lock_step: bool,
    use_sim_time: bool = True,
    autostart: bool = False,
    threads: int = 1,
) -> Parameters:
    """What a parameter file cannot know, for every node: paths and the mode. It comes after the file.

    ``episodes``: folder of the bags, beside which the trainer's runs lie; ``threads``: of the policy's inference. The
    world itself is the clock, so it never uses simulated time."""
    every: Parameters = {
        "sim": {},
        "gate": {"profile": str(profile)},
        "reward": {},
        "recorder": {"root": str(episodes)},
        "policy": {"model": str(model), "registry": str(registry or ""), "autostart": autostart, "threads": threads},
    }
    # what the reward node scores with belongs to an episode's identity, which the policy node announces
    every["policy"]["cost_programs"] = [f"{name}={task.program_hash}" for name, task in TASKS.items()]
    for key, values in every.items():
        values["lock_step"] = lock_step
        values["use_sim_time"] = use_sim_time and key != "sim"
    # the trainer has its own clock: it waits for people's time, not for the world's
    trainer = {"model": str(model), "registry": str(registry or ""), "runs": str(episodes.parent)}
    every["trainer"] = {**trainer, "use_sim_time": False}
    # so does what only an arm has, and an operator's hands are as fast as they are in any world
    every["recovery"] = {"profile": str(profile), "use_sim_time": False}
    every["ghost"] = {"use_sim_time": False}
    every["camera"] = {"use_sim_time": False}
    every["reset"] = {"profile": str(profile), "states": str(episodes.parent / "states"), "use_sim_time": False}
    every["teleop"] = {"use_sim_time": use_sim_time}
    every["evaluate"] = {
        "model": str(model),
        "registry": str(registry or ""),
        "out": str(episodes.parent / "safety"),
        "profile": str(profile),
        "use_sim_time": False,
    }
    return every
