"""Where the package's own files are: parameters, configuration, launch files, the shipped model."""

from __future__ import annotations

import os
from pathlib import Path


class PathError(Exception):
    """A file that belongs to the project, or a model, is not where it should be; the text names it."""


def root() -> Path:
    """The project's folder: ``GRAPE_ROOT`` where it is set (env.sh does), else found from this file upwards."""
    named = os.environ.get("GRAPE_ROOT")
    if named:
        return Path(named)
    for folder in Path(__file__).resolve().parents:
        if (folder / "models").is_dir() and (folder / "ros2_ws").is_dir():
            return folder
    return Path.cwd()


def params(name: str) -> Path:
    """A file of launch/params. Raises PathError."""
    return shipped("params", name)


def shipped(folder: str, name: str) -> Path:
    """A file in a ``folder`` of launch/, from the source tree or from the installed share folder. Raises PathError."""
    source = Path(__file__).resolve().parents[1] / folder / name
    if source.exists():
        return source
    from ament_index_python.packages import get_package_share_directory

    installed = Path(get_package_share_directory("grape")) / folder / name
    if installed.exists():
        return installed
    raise PathError(f"{source}: no such file")


def default_model() -> Path:
    """The small model shipped with the project."""
    return root() / "models" / "grape-mini"


def known_model(name: Path) -> Path:
    """The absolute folder of a checkpoint: ``name`` itself, or the copy of the hub's ``org/name[@revision]``.

    Raises PathError for what is neither, and for a folder that holds no model.
    """
    folder = name.expanduser()
    if not folder.exists():
        from grape_policy.hub import CheckpointError, resolve_checkpoint  # imports the model's libraries

        try:
            folder = resolve_checkpoint(name)
        except CheckpointError as error:
            raise PathError(str(error)) from None
    if not (folder / "config.json").is_file():
        raise PathError(f"{name}: no model here (no config.json)")
    return folder.absolute()
