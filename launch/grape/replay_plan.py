"""What replay.launch.py starts for its arguments: a reward node, what prints its score, and the player. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grape.launch_plan import Argument
from grape.nodes import Parameters
from grape_episode import topics
from grape_episode.episode import EpisodeError
from grape_episode.reader import bag_file, read_identity
from grape_episode.replay import replayed
from grape_reward.errors import RewardError
from grape_reward.tasks import library

DOMAIN = "86"
"""Of a replay, as of the replay node by itself; 0 is a robot's."""
SCORE_SECONDS = 60.0
"""Between the bag's last message and the score."""
_SAID_ANEW = (topics.TASK_STATUS, topics.STAGE_COSTS, topics.SCORE)
_HEARD = (topics.EPISODE, topics.OUTCOME, topics.KEYPOINTS, topics.JOINT_STATES, topics.CURRENT_POSE)
RESCORED: dict[str, object] = {
    "skip": ",".join(_SAID_ANEW),
    "wait_for": ",".join((*_HEARD, replayed(topics.POLICY_STEP))),
}
"""Parameters of a replay node for a reward node that scores anew: what that says is left out, and it is waited for."""

ARGUMENTS: tuple[Argument, ...] = (
    Argument("bag", "", "Bag of one episode: its folder or its .mcap file. Needed."),
    Argument("rate", "1.0", "1: the recorded pace; 0: as fast as it goes."),
    Argument("objective", "", "Score towards this objective; empty: the episode's own."),
    Argument("tasks", "", "Folder of task folders of your own; the shipped tasks come after them."),
    Argument("out", "", "File for the score as JSON; empty: it is only printed."),
    Argument("domain", DOMAIN, "ROS domain of the replay: one without robot, gate and simulator."),
    Argument("log_level", "warn", "Of all nodes.", ("debug", "info", "warn", "error")),
)


class ReplayPlanError(Exception):
    """Arguments with which nothing can be replayed; the text names the argument."""


@dataclass(frozen=True)
class ReplayPlan:
    """``nodes``: (package, executable, name) in the order reward, score, player; ``environment``: of all processes."""

    nodes: tuple[tuple[str, str, str], ...]
    parameters: Parameters
    environment: dict[str, str]


def replay_plan(arguments: Mapping[str, str], share: Path, environ: Mapping[str, str]) -> ReplayPlan:
    """The plan for the launch arguments (all text, names of :data:`ARGUMENTS`). Raises ReplayPlanError."""
    bag = Path(arguments["bag"]).expanduser().absolute()
    if not arguments["bag"]:
        raise ReplayPlanError("bag:= is needed: the folder of a recorded episode")
    try:
        task = read_identity(bag_file(bag)).task
    except EpisodeError as error:
        raise ReplayPlanError(f"bag:={error}") from None
    rate = _number("rate", arguments["rate"])
    domain = arguments["domain"]
    if not domain.isdigit() or not 1 <= int(domain) <= 101:
        raise ReplayPlanError(f"domain:={domain}: 1 to 101; 0 is a robot's")
    tasks = Path(arguments["tasks"]).expanduser().absolute() if arguments["tasks"] else None
    _known(arguments["objective"], task, tasks)
    profile = str(share / "config" / "fastdds.xml")
    return ReplayPlan(
        nodes=(
            ("grape_reward", "reward_node", "grape_reward"),
            ("grape", "score_node", "grape_score"),
            ("grape_episode", "replay_node", "grape_replay"),
        ),
        parameters={
            # what is played comes reliably, as in lock-step; and the bag's time is the time
            "grape_reward": {
                "replay": True,
                "lock_step": True,
                "use_sim_time": True,
                "objective": arguments["objective"],
                "tasks": str(tasks or ""),
            },
            "grape_score": {"count": 1, "out": arguments["out"]},
            "grape_replay": {"bag": str(bag), "rate": rate, **RESCORED},
        },
        environment={
            "ROS_DOMAIN_ID": domain,
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "FASTRTPS_DEFAULT_PROFILES_FILE": environ.get("FASTRTPS_DEFAULT_PROFILES_FILE") or profile,
            "FASTDDS_DEFAULT_PROFILES_FILE": environ.get("FASTDDS_DEFAULT_PROFILES_FILE") or profile,
        },
    )


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1000.0:
        raise ReplayPlanError(f"{name}:={text}: a number from 0 to 1000")
    return value


def _known(objective: str, task: str, folder: Path | None) -> None:
    """Raises ReplayPlanError where the task, or an objective of its, does not exist."""
    try:
        tasks = library(folder)
    except RewardError as error:
        raise ReplayPlanError(f"tasks:={error}") from None
    if task not in tasks:
        raise ReplayPlanError(f"bag:= is of task {task!r}; there are {', '.join(tasks)}: name a folder with tasks:=")
    if objective and objective not in tasks[task].objectives:
        raise ReplayPlanError(f"objective:={objective}: {task} has {', '.join(tasks[task].objectives)}")
