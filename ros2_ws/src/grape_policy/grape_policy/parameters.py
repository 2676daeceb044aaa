"""The policy node's parameters: name, default, description, range. The node declares them from this table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from grape_episode import topics

Value = bool | int | float | str | list[str]
UNMERGED, MERGED = "unmerged", "merged"
DTYPES = ("float32", "bfloat16", "float16")
_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?")


@dataclass(frozen=True)
class Parameter:
    """One parameter; ``low`` and ``high`` bound a number; ``settable``: may change while the node runs."""

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    settable: bool = False

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Inclusive, None where there are none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("autostart", True, "Configure and activate at once; false: a lifecycle manager does it."),
    Parameter("model", "", "The checkpoint: a folder, or ORGANISATION/NAME[@REVISION] on the Hugging Face hub."),
    Parameter("device", "cpu", "Torch device: cpu, cuda, cuda:1, ..."),
    Parameter("dtype", "float32", "Torch dtype of the weights: float32, bfloat16 or float16."),
    Parameter("threads", 1, "Threads of an inference.", 1, 256),
    Parameter("unnorm_key", "", "Key of the checkpoint's action statistics; empty: the only one there is."),
    Parameter("center_crop", False, "Use the central 0.9 of the image's area, as OpenVLA's fine-tunes need."),
    Parameter("action_tokens_only", False, "Sample among the action tokens alone; log-probs stay those of all tokens."),
    Parameter("adapter_rank", 32, "Rank of the adapter slots: an adapter above it is refused.", 1, 1024),
    Parameter("adapter_mode", UNMERGED, "unmerged: beside the weights; merged: in second copies of them (memory)."),
    Parameter("registry", "", "Folder of the adapter registry; its current adapter serves first. Empty: none."),
    Parameter("warmup", 2, "Inferences before the node says it is configured.", 0, 100),
    Parameter("control_period", 0.2, "Seconds between two steps.", 0.01, 10.0),
    Parameter("lock_step", False, "The world waits for every step, and the policy answers exactly every frame."),
    Parameter("await_task_status", False, "Lock-step: also wait for TaskStatus. Default: as lock_step."),
    Parameter("reset", "world", "world: a service puts the world into its initial state; none: nobody does."),
    Parameter("base_frame", topics.BASE_FRAME, "Frame of the measured TCP and of the steps."),
    Parameter("color_topic", topics.COLOR, "Camera image, rgb8 or bgr8."),
    Parameter("pose_topic", topics.CURRENT_POSE, "Measured TCP, PoseStamped in base_frame."),
    Parameter("joints_topic", topics.JOINT_STATES, "JointState with the gripper's knuckle joint."),
    Parameter("calibration_hash", "", "Hash of the camera calibration, for the episode's identity."),
    Parameter(
        "max_observation_age",
        0.25,
        "Real time: seconds after which a frame is not acted on.",
        0.01,
        10.0,
        settable=True,
    ),
    Parameter("camera_deadline", 5.0, "Real time: seconds without a usable frame.", 0.1, 600.0, settable=True),
    Parameter("gate_deadline", 2.0, "Real time: seconds without a GateStatus.", 0.1, 600.0, settable=True),
    Parameter("service_deadline", 5.0, "Seconds to find a service.", 0.1, 600.0, settable=True),
    Parameter("deadline", 30.0, "Seconds for every answer of another node.", 0.1, 600.0, settable=True),
    Parameter(
        "reset_deadline",
        30.0,
        "Seconds for the world's reset; in the lab people lay out the scene meanwhile.",
        0.1,
        7200.0,
        settable=True,
    ),
    Parameter("inference_deadline", 60.0, "Seconds for an inference.", 0.1, 3600.0, settable=True),
    Parameter("record_deadline", 30.0, "Seconds for the recorder to close the bag.", 0.1, 600.0, settable=True),
    Parameter("veto_limit", 3, "The episode ends after so many vetoes in a row.", 1, 100_000, settable=True),
    Parameter("step_limit", 60, "Steps of an episode where the goal does not say.", 1, 1_000_000, settable=True),
    Parameter(
        "demonstration_limit",
        600,
        "Control periods of a demonstration where the goal does not say.",
        1,
        1_000_000,
        settable=True,
    ),
    Parameter(
        "begin_deadline", 300.0, "Seconds for the person to begin a demonstration.", 0.1, 86_400.0, settable=True
    ),
    Parameter(
        "instructions",
        [
            "carrot_on_plate=put the carrot on the plate",
            "eggplant_in_basket=put the eggplant in the basket",
            "green_cube_on_yellow_cube=stack the green cube on the yellow cube",
            "spoon_on_towel=put the spoon on the towel",
        ],
        "The tasks' own words, TASK=INSTRUCTION, for goals without an instruction.",
        settable=True,
    ),
    Parameter(
        "cost_programs",
        [""],  # ROS has no type for an empty list
        "Hashes of the cost programs that the reward node scores with, TASK=HASH, for the identity of episodes.",
        settable=True,
    ),
)


@dataclass(frozen=True)
class EpisodeSettings:
    """The parameters that a rollout uses, under their names in :data:`PARAMETERS`; times in seconds."""

    lock_step: bool
    await_task_status: bool
    reset: str
    base_frame: str
    color_topic: str
    pose_topic: str
    joints_topic: str
    max_observation_age: float
    camera_deadline: float
    gate_deadline: float
    service_deadline: float
    deadline: float
    reset_deadline: float
    inference_deadline: float
    record_deadline: float
    begin_deadline: float
    veto_limit: int

    @staticmethod
    def read(value: Callable[[str], Any]) -> EpisodeSettings:
        """``value`` gives a parameter by its name. Raises ValueError naming a parameter that is none of its words."""
        settings = EpisodeSettings(**{field.name: value(field.name) for field in fields(EpisodeSettings)})
        if settings.reset not in ("world", "none"):
            raise ValueError(f"parameter reset: {settings.reset!r} is neither world nor none")
        return settings


@dataclass(frozen=True)
class EngineSettings:
    """The parameters of the inference process, under their names in :data:`PARAMETERS`."""

    model: str
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    unnorm_key: str = ""
    center_crop: bool = False
    action_tokens_only: bool = False
    adapter_rank: int = 32
    adapter_mode: str = UNMERGED
    registry: str = ""
    warmup: int = 2

    @staticmethod
    def read(value: Callable[[str], Any]) -> EngineSettings:
        """``value`` gives a parameter by its name. Raises ValueError naming a parameter that is none of its words, or a
        model that is not there: looked at before the model's libraries are imported, which takes seconds."""
        values = {field.name: value(field.name) for field in fields(EngineSettings)}
        for name, words in (("dtype", DTYPES), ("adapter_mode", (UNMERGED, MERGED))):
            if values[name] not in words:
                raise ValueError(f"parameter {name}: {values[name]!r} is none of {', '.join(words)}")
        values["model"] = _checkpoint(values["model"])
        values["registry"] = str(Path(values["registry"]).expanduser()) if values["registry"] else ""
        return EngineSettings(**values)


def _checkpoint(name: str) -> str:
    if not name:
        raise ValueError("parameter model: name the folder of a checkpoint")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if not _HUB.fullmatch(name):
        raise ValueError(f"parameter model: {folder}: no such folder")
    return name


def task_instruction(task: str, given: str, table: list[str]) -> str:
    """The words of a goal: ``given``, or the task's own from ``table`` (lines ``TASK=INSTRUCTION``).

    Raises ValueError naming the task where there are none."""
    words = given.strip() or by_task(task, table)
    if not words:
        known = ", ".join(sorted(line.split("=", 1)[0] for line in table if "=" in line))
        raise ValueError(f"task {task!r}: no instruction given and none known; known tasks: {known}")
    return words


def by_task(task: str, table: list[str]) -> str:
    """The value of ``task`` in lines ``TASK=VALUE``; empty where there is none."""
    return dict(line.split("=", 1) for line in table if "=" in line).get(task, "").strip()
