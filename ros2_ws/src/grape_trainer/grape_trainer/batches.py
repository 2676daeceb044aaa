"""Which pairs (or episodes to imitate) train, which are held out, in what order: all of it from the seed alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grape_trainer.objectives import Item
from grape_trainer.ranking import Group
from grape_trainer.settings import Settings

LEAST_STATES = 5
"""With fewer initial states nothing is held out."""


@dataclass(frozen=True)
class Split:
    """``train`` and ``held`` share no initial state."""

    train: tuple[Item, ...]
    held: tuple[Item, ...]


def split(items: Sequence[Item], settings: Settings) -> Split:
    """Hold out ``settings.holdout`` of the initial states, then keep ``settings.max_pairs`` of the rest."""
    groups = _groups(items)
    names = sorted(groups)
    order = [names[i] for i in np.random.default_rng([settings.seed, 1]).permutation(len(names))]
    count = 0
    if settings.holdout > 0 and len(names) >= LEAST_STATES:
        count = max(1, round(settings.holdout * len(names)))
    held, rest = order[:count], order[count:]
    kept = [item for name in _by_turns(rest) for item in groups[name]]
    if settings.max_pairs:
        kept = kept[: settings.max_pairs]
    return Split(tuple(kept), tuple(item for name in held for item in groups[name]))


def schedule(items: Sequence[Item], settings: Settings) -> list[list[Item]]:
    """The batches of all epochs, in order.

    The pairs of an initial state stay together: they share episodes, and an episode passes the model once a
    batch. A batch closes after the state with which it holds ``settings.batch_pairs`` pairs or more."""
    groups = _groups(items)
    names = sorted(groups)
    batches: list[list[Item]] = []
    for epoch in range(settings.epochs):
        order = np.random.default_rng([settings.seed, 2, epoch]).permutation(len(names))
        batch: list[Item] = []
        for i in order:
            batch.extend(groups[names[i]])
            if len(batch) >= settings.batch_pairs:
                batches.append(batch)
                batch = []
        if batch:
            batches.append(batch)
    return batches[: settings.max_updates] if settings.max_updates else batches


def _groups(items: Sequence[Item]) -> dict[Group, list[Item]]:
    groups: dict[Group, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    return groups


def _by_turns(names: Sequence[Group]) -> list[Group]:
    tasks: dict[str, list[Group]] = {}
    for name in names:
        tasks.setdefault(name[0], []).append(name)
    rows = itertools.zip_longest(*(tasks[task] for task in sorted(tasks)))
    return [name for row in rows for name in row if name is not None]
