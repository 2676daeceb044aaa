"""What goes wrong in this package, each with the offending file or field in its text."""

from __future__ import annotations


class TrainerError(Exception):
    """Base of this package's errors: one line for people."""


class SettingsError(TrainerError):
    """A setting that does not exist or has a value it cannot have."""


class PairsError(TrainerError):
    """A pairs file, or the episodes for one, cannot be used."""


class TrainingError(TrainerError):
    """Training cannot start or go on."""


class NonFiniteError(TrainingError):
    """A loss or gradient became NaN or infinite; names the pairs of the update."""


class RegistryError(TrainerError):
    """An adapter registry refuses what it is asked."""


class RigError(TrainerError):
    """A stack of nodes that collects rollouts does not answer as it must."""


class LoopError(TrainerError):
    """The align loop cannot go on."""


class PolicyRefusedError(TrainerError):
    """The policy did not take an adapter; what served goes on serving."""
