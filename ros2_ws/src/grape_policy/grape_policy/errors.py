"""Errors of the inference process as its parent raises them: their type and their text have crossed the channel."""

from __future__ import annotations

from grape_policy.adapter_config import AdapterError


class ProcessingError(Exception):
    """An image or instruction that is no input for the model; the text names what is wrong with it."""


class LoadError(ValueError):
    """A policy that cannot be served as asked; one line that names the parameter, file or field."""


class SupersededError(RuntimeError):
    """A request that nobody has begun when a newer one came: the newest frame wins."""


class InferenceError(RuntimeError):
    """What else went wrong in the inference process; the text begins with the name of its type."""


class ProcessEndedError(RuntimeError):
    """The inference process is gone; the text says how it ended."""


CROSSING: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (AdapterError, ProcessingError, LoadError, SupersededError)
}
"""What keeps its type on the way, by its name."""


def received(kind: str, text: str) -> Exception:
    """The error of type name ``kind`` that the other process has met."""
    known = CROSSING.get(kind)
    return known(text) if known is not None else InferenceError(f"{kind}: {text}")
