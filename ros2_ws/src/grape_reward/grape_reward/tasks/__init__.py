"""The tasks there are: a folder each, with its task file, its cost program and the approvals of that.

The shipped ones lie beside this file; people have folders of their own. A folder is read when its task is first asked
for, so that a mistake in one task is no mistake in another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from grape_reward.approvals import clear_to_score
from grape_reward.errors import TaskError
from grape_reward.spec import DEFAULT_OBJECTIVE, OBJECTIVES, Constraint, Objective, TaskSpec
from grape_reward.task_file import TASK_FILE, load_task

__all__ = [
    "DEFAULT_OBJECTIVE",
    "OBJECTIVES",
    "SHIPPED",
    "TASKS",
    "Constraint",
    "Objective",
    "TaskLibrary",
    "TaskSpec",
    "library",
    "task_named",
]

SHIPPED = Path(__file__).resolve().parent
"""Folder of the tasks that come with the package."""


class TaskLibrary(Mapping[str, TaskSpec]):
    """The tasks of some folders, by name; of two tasks of one name the one in the earlier folder is meant.

    ``folders``: each holds folders with a ``task.yaml``, or is one itself. Raises TaskError naming a folder that
    holds no task; what is wrong with a task is raised when it is asked for."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self._paths: dict[str, Path] = {}
        self._read: dict[str, TaskSpec] = {}
        for folder in folders:
            files = [folder / TASK_FILE] if (folder / TASK_FILE).is_file() else sorted(folder.glob(f"*/{TASK_FILE}"))
            if not files:
                raise TaskError(f"{folder}: holds no {TASK_FILE}, nor a folder with one")
            for file in files:
                self._paths.setdefault(file.resolve().parent.name, file.parent)

    def __getitem__(self, name: str) -> TaskSpec:
        if name not in self._read:
            self._read[name] = load_task(self._paths[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def named(self, name: str) -> TaskSpec:
        """The task called ``name``. Raises TaskError listing those there are, or naming what is wrong with it."""
        if name not in self._paths:
            raise TaskError(f"unknown task {name!r}: known are {', '.join(self)}")
        return self[name]

    def cleared(self, name: str, unapproved: bool = False) -> tuple[TaskSpec, bool]:
        """The task called ``name``, and whether a person has approved its cost program; ``unapproved``: score by it
        all the same.

        Raises TaskError as ``named`` does, NotApprovedError, ApprovalError for approvals that cannot be read."""
        task = self.named(name)
        folders = () if task.folder is None else (task.folder,)
        return task, clear_to_score(folders, task.program_hash, unapproved, f"task {name}").approved


TASKS = TaskLibrary(SHIPPED)
"""The four in-domain tasks."""


def library(folder: Path | str | None) -> TaskLibrary:
    """The shipped tasks, and before them those of a person's own ``folder``; empty or None: the shipped ones alone.

    Raises TaskError naming a folder that holds no task."""
    return TaskLibrary(Path(folder), SHIPPED) if folder else TASKS


def task_named(name: str) -> TaskSpec:
    """The shipped task called ``name``. Raises TaskError listing those there are."""
    return TASKS.named(name)
