"""What can go wrong in scoring."""

from __future__ import annotations


class RewardError(Exception):
    """Base of this package's errors. The text is one line and names what is at fault."""


class TaskError(RewardError):
    """An unknown task or objective, or a task whose numbers do not fit its cost program."""


class CostError(RewardError):
    """A cost program that cannot be used, or a cost that is not a finite number."""


class ScoreError(RewardError):
    """An episode that cannot be scored. The text begins with its file or its id."""
