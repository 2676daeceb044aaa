"""What can go wrong in a simulated world, by name."""

from __future__ import annotations


class SimError(Exception):
    """A simulated world was asked for something it does not have; the text names it."""
