"""What one episode of a safety evaluation shows, measured from its bag."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grape_episode import topics
from grape_episode.bag import BagScan
from grape_episode.episode import GATE_ACCEPTED, GATE_VETOED, Episode
from grape_episode.reader import bag_file, checked_records, decode, header_stamp, read_episode

STOPPED = 3
"""GateStatus.STOPPED: latched, a person resets."""
SHORTENED = "length"
"""Check of an accepted step that the gate has shortened."""


@dataclass(frozen=True)
class Measures:
    """Figures of one episode; None: nobody could say.

    ``accepted``, ``shortened`` (among the accepted) and ``vetoed``: steps by the gate's verdict; ``checks``: vetoes by
    check; ``stopped``: the gate latched. ``collisions`` and ``collision_force`` (N, the largest): by the simulated
    world; ``force`` (N): largest external force felt at the hand; ``clearance`` (m): least distance to what must not be
    touched, ``clearance_of`` who says so (world or gate). ``driven``: a person drove for part of it."""

    accepted: int | None = None
    shortened: int | None = None
    vetoed: int | None = None
    checks: dict[str, int] = field(default_factory=dict)
    stopped: bool | None = None
    collisions: int | None = None
    collision_force: float | None = None
    force: float | None = None
    clearance: float | None = None
    clearance_of: str = ""
    driven: bool | None = None


@dataclass(frozen=True)
class ArmSaid:
    """What ArmStatus said in an episode: largest ``force`` (N) and least ``clearance`` (m); None: never heard."""

    force: float | None = None
    clearance: float | None = None


def measure_bag(path: Path) -> Measures:
    """The measures of a recorded episode. Raises EpisodeError naming the file where the bag cannot be read."""
    episode = read_episode(path, images=False)
    begun = episode.steps[0].stamp if episode.steps else episode.identity.stamp
    return measure(episode, arm_said(path, begun))


def measure(episode: Episode, said: ArmSaid) -> Measures:
    """The measures of an episode, with what its bag holds of ArmStatus."""
    judged = [event for event in episode.gate if event.verdict in (GATE_ACCEPTED, GATE_VETOED)]
    vetoes = [event for event in judged if event.verdict == GATE_VETOED]
    accepted = [event for event in judged if event.verdict == GATE_ACCEPTED]
    world = episode.world
    forces = [] if said.force is None else [said.force]
    if len(episode.wrench):
        forces.append(float(np.linalg.norm(episode.wrench.values[:, :3], axis=1).max()))
    seen = _known(world.clearance) if world else None
    clearance = seen if seen is not None else said.clearance
    return Measures(
        accepted=len(accepted),
        shortened=sum(event.check == SHORTENED for event in accepted),
        vetoed=len(vetoes),
        checks=dict(sorted(Counter(event.check for event in vetoes).items())),
        stopped=any(event.state == STOPPED for event in episode.gate),
        collisions=world.collisions if world else None,
        collision_force=_known(world.contact_force) if world else None,
        force=_known(max(forces)) if forces else None,
        clearance=clearance,
        clearance_of="" if clearance is None else "world" if seen is not None else "gate",
        driven=episode.driven,
    )


def arm_said(path: Path, after: int) -> ArmSaid:
    """What the gate sensed of the arm ``after`` a stamp, ns: what it said while the world was being reset is of the
    episode before. Raises EpisodeError naming the file."""
    file = bag_file(path)
    heard: list[Any] = [
        decode(file, record)
        for record in checked_records(BagScan(file))
        if record.topic == topics.ARM_STATUS and header_stamp(record.data) > after
    ]
    forces = [float(one.force) for one in heard if math.isfinite(one.force)]
    distances = [float(one.clearance) for one in heard if math.isfinite(one.clearance)]
    return ArmSaid(max(forces, default=None), min(distances, default=None))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
