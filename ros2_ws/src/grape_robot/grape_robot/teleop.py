"""From a Joy device to what a person commands, as pure functions over a state. Times are seconds on one clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from grape_robot.joy_mapping import JoyMapping
from grape_robot.presses import Button, pressed

ROTATION = "axis_angle"
"""Convention of the motions' rotation."""
AS_IT_IS = 0.5
"""Value of the gripper between open and closed: the gate leaves it where it is."""
_INSTANT = 1e-3
"""Slack of a period, s: a timer that is early by less must not lose a whole one."""


@dataclass(frozen=True)
class Joy:
    """A message: ``axes`` in -1..1, ``buttons`` 0 or 1."""

    axes: Sequence[float]
    buttons: Sequence[int]


@dataclass(frozen=True)
class Commands:
    """What is to be said now. ``motion`` (7,): translation in metres, rotation vector in radians, both of one operator
    period in the base frame, and the gripper, 0 closed to 1 open; None: none."""

    motion: tuple[float, ...] | None = None
    hand_back: bool = False
    evaluate: bool = False
    end_episode: bool = False


@dataclass(frozen=True)
class TeleopState:
    """What is remembered. ``free``: the sticks have been at rest since they were last heard of, or handed back;
    ``gripper``: what the person has chosen since, None: nothing; ``grasping``: that has yet to be said."""

    joy: Joy | None = None
    heard: float = 0.0
    problem: str = ""
    free: bool = False
    moved: float | None = None
    gripper: float | None = None
    grasping: bool = False
    buttons: dict[int, Button] = field(default_factory=dict)


def hear(mapping: JoyMapping, state: TeleopState, joy: Joy, now: float) -> TeleopState:
    """A message has come. One that is not of the mapped device counts as none, and ``problem`` says why."""
    problem = mapping.problem(joy.axes, joy.buttons)
    if problem:
        return replace(state, problem=problem)
    return replace(state, joy=joy, heard=now, problem="")


def advance(
    mapping: JoyMapping, state: TeleopState, now: float, period: float, opening: float | None = None
) -> tuple[TeleopState, Commands]:
    """What the device says at ``now``; called after every message and at least once an operator ``period``.

    ``opening``: of the gripper, 0 closed to 1 open, as it was commanded last; None: not known. At most one motion a
    period. Silence for ``joy_timeout`` is a release: no motion, no press, and sticks and buttons must be seen at rest
    before they count again; so must sticks that were moved while handing back."""
    joy = state.joy
    if joy is None or now - state.heard > mapping.joy_timeout:
        return replace(state, joy=None, free=False, grasping=False, buttons={}), Commands()
    buttons, called = _presses(mapping, state, joy, now)
    velocity = mapping.velocity(joy.axes)
    moving = bool(np.any(velocity))
    state = replace(state, buttons=buttons, free=state.free or not moving)
    if "gripper" in called:
        chosen = state.gripper if state.gripper is not None else opening
        state = replace(state, gripper=1.0 if chosen is not None and chosen < 0.5 else 0.0, grasping=True)
    said = Commands(None, "hand_back" in called, "evaluate" in called, "end_episode" in called)
    if said.hand_back:
        return replace(state, free=not moving, gripper=None, grasping=False), said
    due = state.moved is None or now - state.moved >= period - _INSTANT
    if not due or not (state.grasping or (moving and state.free)):
        return state, said
    way = velocity * period if state.free else np.zeros(6)
    motion = (*way.tolist(), AS_IT_IS if state.gripper is None else state.gripper)
    return replace(state, moved=now, grasping=False), replace(said, motion=motion)


def _presses(mapping: JoyMapping, state: TeleopState, joy: Joy, now: float) -> tuple[dict[int, Button], set[str]]:
    functions: dict[int, list[tuple[float, str]]] = {}
    for name, press in mapping.presses.items():
        functions.setdefault(press.button, []).append((press.hold, name))
    buttons, called = {}, set()
    for number, meant in functions.items():
        before = state.buttons.get(number, Button())
        buttons[number], name = pressed(before, bool(joy.buttons[number]), now, mapping.debounce, meant)
        called |= {name} - {""}
    return buttons, called


def may_evaluate(authority_operator: bool, episode_id: str, silent: float | None, running: bool, moving: bool) -> str:
    """Why a safety evaluation may not begin now, or "". ``silent``: seconds since the gate's last status, None: never;
    ``running``: one that was begun here; ``moving``: the sticks are not at rest."""
    if running:
        return "one is running"
    if silent is None or silent > 1.0:
        return "the gate says nothing"
    if authority_operator or moving:
        return "a person drives: hand back first"
    return f"episode {episode_id} is running" if episode_id else ""
