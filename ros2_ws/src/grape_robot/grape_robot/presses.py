"""Presses of one button: without bounces, and told apart by how long it was held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Function = tuple[float, str]
"""(seconds it must be held, name)."""


@dataclass(frozen=True)
class Button:
    """``down`` None: not known yet; ``since``: seconds at which that began; ``spent``: this hold means nothing more."""

    down: bool | None = None
    since: float = 0.0
    spent: bool = False


def pressed(
    button: Button, raw: bool, now: float, debounce: float, functions: Sequence[Function]
) -> tuple[Button, str]:
    """The button after a look at ``raw``, and the name of the function that was called for, or "".

    The function held longest is called once, as soon as the button has been held for so long; a shorter one at the
    release. A button that is down when it is first seen means nothing before it has been released."""
    if button.down is None:
        return Button(raw, now, spent=raw), ""
    ordered = sorted(functions)
    if raw != button.down and now - button.since >= debounce:
        called = ""
        if button.down and not button.spent:
            called = max((f for f in ordered if f[0] <= now - button.since), default=(0.0, ""))[1]
        button = Button(raw, now)
        if not raw:
            return button, called
    if button.down and not button.spent and ordered and now - button.since >= ordered[-1][0]:
        return Button(True, button.since, spent=True), ordered[-1][1]
    return button, ""
