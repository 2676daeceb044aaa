"""Variant ``varied``: worlds for a base model to practise in, so that it has seen more than four sentences and tables.

A pure function of (task, initial state), each part drawn for itself: the words, in half of the states another object,
another table top, wall or light, things that lie about, and, with another object, sometimes two candidates of which the
instruction names one. Nothing of what the unseen variants show is among it: no can, no other size, none of their
sentences, tops, walls, lights or twins, and sides and colours tell only among objects that are not the tasks' own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grape_episode.geometry import Array
from grape_sim.camera import Light
from grape_sim.looks import PRACTICE_TABLES, WALLS, WOOD, Look
from grape_sim.models import Triple
from grape_sim.practice_objects import PRACTICE_OBJECTS, twin_of
from grape_sim.tasks import ALL_TASKS, SimTask
from grape_sim.unseen import SIDES, Change
from grape_sim.wording import PRACTICE_WORDS, noun, practised

_STREAM = 8_311
_OTHER_OBJECT, _OTHER_WORDS, _TWO, _TABLE, _WALL, _LIGHT, _LYING = 0.5, 0.7, 0.4, 0.4, 0.3, 0.3, 0.3
_WALL_DISTANCE = 0.12


@dataclass(frozen=True)
class Practice:
    """``look``: None where the variant decides by itself; ``lying``: models of the things that lie about and may not be
    touched."""

    change: Change
    look: Look | None
    lying: tuple[str, ...]


def practice(task: SimTask, initial_state: int) -> Practice:
    """What is laid out, told and seen in an initial state of the variant ``varied``."""
    seed = np.random.SeedSequence([list(ALL_TASKS).index(task.name), _STREAM, initial_state])
    rng = np.random.Generator(np.random.Philox(seed))
    thing, target, rival, side = noun(task.object), noun(task.target), "", ""
    model = task.object
    others = tuple(PRACTICE_OBJECTS)
    if rng.random() < _OTHER_OBJECT:
        model = others[rng.integers(len(others))]
        thing = noun(model)
        if rng.random() < _TWO:
            kind, side = rng.integers(3), SIDES[rng.integers(2)]
            if kind == 0:
                rival, thing = model, f"{side} {thing}"
            elif kind == 1:
                rival, target = task.target, f"{side} {target}"
            else:
                rival, side = twin_of(model), ""
    words = PRACTICE_WORDS[task.name]
    template = words[rng.integers(len(words))] if rng.random() < _OTHER_WORDS else ""
    look = Look(
        table=list(PRACTICE_TABLES)[rng.integers(len(PRACTICE_TABLES))] if rng.random() < _TABLE else WOOD,
        wall=_wall(rng) if rng.random() < _WALL else None,
        light=_light(rng) if rng.random() < _LIGHT else Light(),
    )
    lying = tuple(others[i] for i in rng.permutation(len(others))[: int(rng.integers(1, 3))])
    if rng.random() >= _LYING:
        lying = ()
    lying = tuple(name for name in lying if name not in (model, rival))
    return Practice(Change(model, practised(task, template, thing, target), rival, side), look, lying)


def _wall(rng: np.random.Generator) -> Triple:
    """A colour that none of the unseen walls comes near."""
    while True:
        colour: Array = rng.uniform(0.1, 0.9, 3)
        if all(float(np.abs(colour - np.array(wall)).max()) > _WALL_DISTANCE for wall in WALLS):
            return (float(colour[0]), float(colour[1]), float(colour[2]))


def _light(rng: np.random.Generator) -> Light:
    """Nearly white, from before the table or above it, neither as dim nor as bright as the unseen ones."""
    angle, height = rng.uniform(-2.2, -0.2), rng.uniform(1.0, 2.0)
    tint = rng.uniform(0.9, 1.0, 3)
    return Light(
        direction=(float(np.cos(angle)), float(np.sin(angle)), float(height)),
        colour=(float(tint[0]), float(tint[1]), float(tint[2])),
        ambient=float(rng.uniform(0.46, 0.66)),
        diffuse=float(rng.uniform(0.38, 0.58)),
    )
