"""Who else speaks on the topics that move an arm. Reads the graph of a node; needs no other part of ROS."""

from __future__ import annotations

from typing import Any

from grape_episode import topics
from grape_episode.ros import UNNAMED, other_publishers
from grape_robot.profile import GateProfile


class Strangers:
    """``own``: how many publishers of target poses ``node`` itself has."""

    def __init__(self, node: Any, profile: GateProfile, own: int) -> None:
        self._node, self._profile, self._own = node, profile, own
        self._for_arm = profile.clock == "steady"

    def count(self) -> str:
        """What is wrong by the number of publishers alone, in one line, at once; "" where nothing is."""
        count = self._node.count_publishers
        beside = count(topics.TARGET_POSE) - self._own
        if beside > 0:
            return f"{topics.TARGET_POSE} has {beside} publishers beside the gate"
        if not self._for_arm:
            return ""
        if count(topics.CLOCK):
            return f"{topics.CLOCK} is published: profile {self._profile.name} is for an arm"
        steps = count(topics.POLICY_STEP)
        return f"{topics.POLICY_STEP} has {steps} publishers: exactly one may be" if steps > 1 else ""

    def names(self) -> str:
        """The same with names; waits up to a second where discovery has not yet told one."""
        reasons = []
        names = other_publishers(self._node, topics.TARGET_POSE, self._own)
        if names:
            reasons.append(
                f"{topics.TARGET_POSE} is also published by {', '.join(names)}: the gate must be the only one"
            )
        if self._for_arm:
            names = other_publishers(self._node, topics.CLOCK, 0)
            if names:
                reasons.append(
                    f"{topics.CLOCK} is published by {', '.join(names)}: profile {self._profile.name} is for an arm"
                )
            if self._node.count_publishers(topics.POLICY_STEP) > 1:
                names = other_publishers(self._node, topics.POLICY_STEP, 0)
                reasons.append(f"{topics.POLICY_STEP} is published by {', '.join(names)}: exactly one may be")
        return "; ".join(reasons)

    @staticmethod
    def named(reason: str) -> bool:
        """Whether every stranger in ``reason`` has a name."""
        return UNNAMED not in reason
