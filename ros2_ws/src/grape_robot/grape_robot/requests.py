"""From messages to :class:`grape_robot.state.StepRequest`."""

from __future__ import annotations

from typing import Any

from grape_episode.messages import stamp_of
from grape_robot.state import POLICY, StepRequest


def policy_request(message: Any) -> StepRequest:
    """Of a grape_interfaces/PolicyStep."""
    return StepRequest(
        episode_id=message.episode_id,
        step=message.step,
        stamp=stamp_of(message),
        frame=message.header.frame_id,
        action=tuple(message.action),
        rotation=message.rotation,
        source=POLICY,
    )


def operator_request(message: Any) -> StepRequest:
    """Of a grape_interfaces/OperatorStep. One that gives itself out as the policy's is nobody's."""
    return StepRequest(
        episode_id=message.episode_id,
        step=message.sequence,
        stamp=stamp_of(message),
        frame=message.header.frame_id,
        action=tuple(message.action),
        rotation=message.rotation,
        source=message.source if message.source != POLICY else f"{POLICY} on an operator's topic",
    )
