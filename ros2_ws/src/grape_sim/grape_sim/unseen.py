"""The kinds of the unseen variants: which one an initial state shows, and what is then told and laid out.

Pure functions of (task, variant, initial state). Consecutive initial states go through a variant's kinds in turn, so
that every kind has its share of any range of them.

``subject``    a can in the object's place; the instruction names it
``physical``   the object in another size
``semantic``   the clean scene under other words
``visual``     another table top, wall or light, or things that lie about
``grounding``  two objects or two targets, of which the instruction names one: by its side in the camera's picture, or
               by its colour. Lifting the wrong object, or resting the object on the wrong target, fails the episode
"""

from __future__ import annotations

from dataclasses import dataclass

from grape_sim.tasks import UNSEEN, SimTask
from grape_sim.unseen_objects import CANS, SIZES
from grape_sim.wording import PARAPHRASES, noun, reworded

OBJECT_SIDE, TARGET_SIDE, OBJECT_COLOUR = "object_side", "target_side", "object_colour"
NOISE = "noise"
KINDS: dict[str, tuple[str, ...]] = {
    "subject": CANS,
    "physical": tuple(SIZES),
    "semantic": tuple(f"words_{number}" for number in range(1, 6)),
    "visual": ("table", "wall", "light", NOISE),
    "grounding": (OBJECT_SIDE, TARGET_SIDE, OBJECT_COLOUR),
}
"""By variant, in the order of the initial states."""
assert tuple(KINDS) == UNSEEN
SIDES = ("left", "right")
TWINS = {
    "carrot": ("orange carrot", "purple_carrot"),
    "eggplant": ("purple eggplant", "white_eggplant"),
    "green_cube": ("green cube", "red_cube"),
    "spoon": ("blue spoon", "red_spoon"),
}
"""What an object is called beside its twin of another colour, and the twin's model."""


def kind_of(variant: str, initial_state: int) -> str:
    """The kind of an initial state; empty where the variant has none."""
    kinds = KINDS.get(variant)
    return kinds[initial_state % len(kinds)] if kinds else ""


@dataclass(frozen=True)
class Change:
    """What an unseen variant does to a task. ``object``: the model to be taken; ``instruction``: what is told;
    ``rival``: model of the other candidate, empty for none; ``side``: of the named candidate in the camera's picture,
    of :data:`SIDES`, empty where its colour tells."""

    object: str
    instruction: str
    rival: str = ""
    side: str = ""


def change(task: SimTask, variant: str, initial_state: int) -> Change:
    """What is told and laid out; for a variant that is not unseen, the task's own."""
    kind = kind_of(variant, initial_state)
    if variant == "subject":
        return Change(kind, reworded(task, thing=noun(kind)))
    if variant == "physical":
        return Change(f"{task.object}_{kind}", task.instruction)
    if variant == "semantic":
        return Change(task.object, PARAPHRASES[task.name][initial_state % len(KINDS[variant])])
    if variant == "grounding":
        # which of the two is named changes more slowly than the kind, so that both are named in every kind
        return _grounded(task, kind, initial_state // len(KINDS[variant]) % 2)
    return Change(task.object, task.instruction)


def _grounded(task: SimTask, kind: str, which: int) -> Change:
    side = SIDES[which]
    if kind == OBJECT_SIDE:
        words = reworded(task, thing=f"{side} {noun(task.object)}")
        return Change(task.object, words, task.object, side)
    if kind == TARGET_SIDE:
        words = reworded(task, target=f"{side} {noun(task.target)}")
        return Change(task.object, words, task.target, side)
    own, twin = TWINS[task.object]
    if which == 0:
        return Change(task.object, reworded(task, thing=own), twin)
    return Change(twin, reworded(task, thing=noun(twin)), task.object)
