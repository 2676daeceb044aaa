"""The order in which lifecycle nodes change state. Pure: a client that speaks to the nodes is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

# lifecycle_msgs/State
UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = 1, 2, 3, 4
# lifecycle_msgs/Transition
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4

STATES = {0: "unknown", UNCONFIGURED: "unconfigured", INACTIVE: "inactive", ACTIVE: "active", FINALIZED: "finalized"}
STATES |= {10: "configuring", 11: "cleaning up", 12: "shutting down", 13: "activating", 14: "deactivating"}
STATES |= {15: "handling an error"}
TRANSITIONS = {CONFIGURE: "configure", CLEANUP: "clean up", ACTIVATE: "activate", DEACTIVATE: "deactivate"}

_UP = {UNCONFIGURED: (CONFIGURE, INACTIVE), INACTIVE: (ACTIVATE, ACTIVE)}
_DOWN = {ACTIVE: (DEACTIVATE, INACTIVE), INACTIVE: (CLEANUP, UNCONFIGURED)}


class LifecycleError(Exception):
    """A node refused a transition or was not where it should be; the text begins with its name."""

    def __init__(self, node: str, text: str) -> None:
        super().__init__(f"{node}: {text}")
        self.node = node


class Client(Protocol):
    """What speaks to one node; every call waits, and raises LifecycleError after its deadline."""

    def state(self, node: str) -> int: ...

    def change(self, node: str, transition: int) -> bool: ...


def path(state: int, goal: int) -> tuple[int, ...]:
    """Transitions from one primary state to another among unconfigured, inactive and active.

    Raises ValueError where there is no way (finalized, or in the middle of a transition)."""
    if goal not in (UNCONFIGURED, INACTIVE, ACTIVE) or state not in (UNCONFIGURED, INACTIVE, ACTIVE):
        raise ValueError(f"no way from {STATES.get(state, state)} to {STATES.get(goal, goal)}")
    table = _UP if goal > state else _DOWN
    steps = []
    while state != goal:
        transition, state = table[state]
        steps.append(transition)
    return tuple(steps)


def bring(client: Client, node: str, goal: int) -> None:
    """Takes one node to ``goal`` and looks whether it arrived. Raises LifecycleError."""
    state = client.state(node)
    try:
        steps = path(state, goal)
    except ValueError as error:
        raise LifecycleError(node, str(error)) from None
    for transition in steps:
        if not client.change(node, transition):
            raise LifecycleError(node, f"did not {TRANSITIONS[transition]}")
    state = client.state(node)
    if state != goal:
        raise LifecycleError(node, f"is {STATES.get(state, state)} instead of {STATES[goal]}")


def bring_up(client: Client, nodes: Sequence[str]) -> None:
    """Every node active, one after the other; what was already up goes down again when one fails."""
    for index, node in enumerate(nodes):
        try:
            bring(client, node, ACTIVE)
        except LifecycleError:
            bring_down(client, nodes[:index])
            raise


def bring_down(client: Client, nodes: Sequence[str]) -> list[str]:
    """Every node unconfigured, in the reverse order; a node that does not follow holds up no other.

    Returns what went wrong, a line each."""
    problems = []
    for node in reversed(nodes):
        try:
            bring(client, node, UNCONFIGURED)
        except LifecycleError as error:
            problems.append(str(error))
    return problems
