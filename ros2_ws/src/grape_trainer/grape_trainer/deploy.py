"""Promotion and rollback as one operation each: the policy acknowledges the load, then the pointer moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grape_trainer.errors import PolicyRefusedError
from grape_trainer.registry import Registry
from grape_trainer.rig import Ack

ASKED, ACKNOWLEDGED = "asked", "acknowledged"
Load = Callable[[Path | None], Ack]
"""Makes an adapter serve, None: the base model alone; returns once it does, or was refused."""


def promote(registry: Registry, adapter_id: str, load: Load, force: bool = False, note: str = "") -> str:
    """Make an adapter serve and point ``current`` to it; returns its whole id. Empty: the base model alone.

    Raises RegistryError where the registry does not let it, before the policy is asked; PolicyRefusedError where the
    policy refuses: ``current`` stays. After a crash between the two, the registry's word counts (:func:`restore`)."""
    whole = registry.checked(adapter_id, force, note)
    _load(registry, whole, load)
    registry.promote(whole, force, note)
    return whole


def rollback(registry: Registry, load: Load, note: str = "") -> str:
    """Make serve what served before and point ``current`` to it; returns its id, empty: the base model alone.

    Raises RegistryError where nothing served before, PolicyRefusedError where the policy refuses."""
    before = registry.before()
    _load(registry, before, load)
    return registry.rollback(note)


def restore(registry: Registry, load: Load) -> None:
    """Make serve what ``current`` points to. Raises PolicyRefusedError."""
    _load(registry, registry.current, load)


def _load(registry: Registry, adapter_id: str, load: Load) -> None:
    path = registry.path(adapter_id) if adapter_id else None
    # before it is asked: what a policy may hold must never look as if it had not served
    registry.serves(adapter_id, ASKED)
    ack = load(path)
    if not ack.accepted:
        raise PolicyRefusedError(f"the policy refused {adapter_id[:12] or 'the base model'}: {ack.reason}")
    if ack.adapter_id != adapter_id:
        other = ack.adapter_id[:12] or "the base model"
        raise PolicyRefusedError(f"the policy serves {other} instead of {adapter_id[:12] or 'the base model'}")
    registry.serves(adapter_id, ACKNOWLEDGED)
