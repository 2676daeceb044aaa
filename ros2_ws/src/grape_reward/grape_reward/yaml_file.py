"""YAML files that people write: plain values only; a field given twice is refused, the last one does not win."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from grape_reward.files import read_bounded
from grape_reward.printable import one_line

_MAX_BYTES = 1 << 20


class UniqueLoader(yaml.SafeLoader):
    """Plain values; a field given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Loader(UniqueLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # a few lines of aliases of aliases unfold to more than any memory holds
            raise yaml.composer.ComposerError(None, None, "aliases (*) are not read", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: Path, error: type[Exception]) -> Any:
    """What a YAML file says. Raises ``error`` naming a file that cannot be read or is no YAML, with the place."""
    data = read_bounded(path, _MAX_BYTES, error)
    try:
        return yaml.load(data.decode("utf-8"), Loader=_Loader)
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not UTF-8 at byte {reason.start}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as reason:
        raise error(f"{path}: cannot be read: {one_line(str(reason))}") from None
