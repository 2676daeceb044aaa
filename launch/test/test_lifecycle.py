"""The order of transitions, against nodes made of a dictionary."""

import itertools

import pytest

from grape.lifecycle import (
    ACTIVATE,
    ACTIVE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    FINALIZED,
    INACTIVE,
    UNCONFIGURED,
    LifecycleError,
    bring,
    bring_down,
    bring_up,
    path,
)

EDGES = {
    (UNCONFIGURED, CONFIGURE): INACTIVE,
    (INACTIVE, ACTIVATE): ACTIVE,
    (ACTIVE, DEACTIVATE): INACTIVE,
    (INACTIVE, CLEANUP): UNCONFIGURED,
}
"""The managed-node state machine of ROS 2 design, written down a second time."""


class Nodes:
    """Keeps states, refuses what ``refused`` holds, and remembers every transition."""

    def __init__(self, states, refused=()):
        self.states, self.refused, self.done = dict(states), set(refused), []

    def state(self, node):
        return self.states[node]

    def change(self, node, transition):
        if (node, transition) in self.refused:
            return False
        self.states[node] = EDGES[self.states[node], transition]
        self.done.append((node, transition))
        return True


@pytest.mark.parametrize(("start", "goal"), itertools.product((UNCONFIGURED, INACTIVE, ACTIVE), repeat=2))
def test_every_way_arrives_by_legal_transitions(start, goal):
    nodes = Nodes({"a": start})
    bring(nodes, "a", goal)
    assert nodes.states["a"] == goal
    assert len(nodes.done) == abs(goal - start)


def test_no_way_out_of_finalized():
    with pytest.raises(ValueError, match="finalized"):
        path(FINALIZED, ACTIVE)
    with pytest.raises(LifecycleError, match="grape_policy: no way from finalized to active"):
        bring(Nodes({"grape_policy": FINALIZED}), "grape_policy", ACTIVE)


def test_up_in_order_and_down_in_reverse():
    nodes = Nodes({"a": UNCONFIGURED, "b": INACTIVE})
    bring_up(nodes, ["a", "b"])
    assert nodes.done == [("a", CONFIGURE), ("a", ACTIVATE), ("b", ACTIVATE)]
    nodes.done.clear()
    assert bring_down(nodes, ["a", "b"]) == []
    assert nodes.done == [("b", DEACTIVATE), ("b", CLEANUP), ("a", DEACTIVATE), ("a", CLEANUP)]


def test_a_refusal_names_node_and_transition_and_takes_the_others_down():
    nodes = Nodes({"a": UNCONFIGURED, "b": UNCONFIGURED, "c": UNCONFIGURED}, refused={("b", CONFIGURE)})
    with pytest.raises(LifecycleError, match=r"^b: did not configure$"):
        bring_up(nodes, ["a", "b", "c"])
    assert nodes.states == {"a": UNCONFIGURED, "b": UNCONFIGURED, "c": UNCONFIGURED}
    assert ("c", CONFIGURE) not in nodes.done


def test_down_goes_on_after_a_node_that_does_not_follow():
    nodes = Nodes({"a": ACTIVE, "b": ACTIVE}, refused={("b", DEACTIVATE)})
    assert bring_down(nodes, ["a", "b"]) == ["b: did not deactivate"]
    assert nodes.states == {"a": UNCONFIGURED, "b": ACTIVE}


def test_a_node_that_says_yes_and_stays_is_found_out():
    nodes = Nodes({"a": UNCONFIGURED})
    nodes.change = lambda node, transition: True
    with pytest.raises(LifecycleError, match="a: is unconfigured instead of active"):
        bring(nodes, "a", ACTIVE)
