"""What can go wrong in proposing keypoints."""

from __future__ import annotations

from grape_reward.errors import RewardError


class KeypointsError(RewardError):
    """A frame, mask or setting from which no keypoints can be proposed. The text begins with what is at fault."""


class WeightsError(KeypointsError):
    """Weights that are absent or of a wrong kind. The text says which file goes where."""
