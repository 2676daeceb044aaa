"""Message definitions without ROS: a rosbags typestore of the project's own .msg files and the standard ones."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

INTERFACES = "grape_interfaces"


class TypesError(RuntimeError):
    """The .msg files of grape_interfaces are nowhere to be found; the text names the folders looked in."""


def message_folder() -> Path:
    """Folder of the .msg files: the installed share folder, else the source tree. Raises TypesError."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    candidates = [prefix / "share" / INTERFACES / "msg" for prefix in prefixes]
    candidates += [parent / INTERFACES / "msg" for parent in Path(__file__).resolve().parents[1:4]]
    for folder in candidates:
        if (folder / "PolicyStep.msg").is_file():
            return folder
    raise TypesError(f"no {INTERFACES}/msg/PolicyStep.msg in any of: {', '.join(map(str, candidates))}")


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """ROS 2 Jazzy's standard messages and ours, ready to (de)serialise CDR. Raises TypesError."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(message_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{INTERFACES}/msg/{path.stem}"))
    store.register(types)
    return store


def blank(type_name: str) -> Any:
    """A message of that type with every field at its ROS default (0, empty, NumPy arrays for numbers)."""
    _, fields = typestore().fielddefs[type_name]
    values = {name: _default(kind, detail) for name, (kind, detail) in fields}
    return typestore().types[type_name](**values)


def _default(kind: Nodetype, detail: Any) -> Any:
    if kind == Nodetype.NAME:
        return blank(detail)
    if kind == Nodetype.BASE:
        name = detail[0]
        return "" if name == "string" else False if name == "bool" else 0.0 if name.startswith("float") else 0
    (element, inner), length = detail
    count = length if kind == Nodetype.ARRAY else 0
    if element == Nodetype.BASE and inner[0] != "string":
        return np.zeros(count, dtype={"bool": "bool", "byte": "uint8", "char": "uint8"}.get(inner[0], inner[0]))
    return [_default(element, inner) for _ in range(count)]
