"""Where everything lies at the start: a pure function of (task, variant, initial state)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grape_sim import starts
from grape_sim.errors import SimError
from grape_sim.hand import HandPath, hand_path
from grape_sim.objects import object_model
from grape_sim.tasks import SIM_TASKS, VARIANTS, check_variant, sim_task

X_RANGE = (0.38, 0.56)
Y_RANGE = (-0.20, 0.20)
YAW_RANGE = math.radians(30.0)
GAP = 0.035
OBSTACLE_GAP = 0.02
DISTRACTORS = 3
_EXTRA_X = (0.30, 0.66)
_EXTRA_Y = (-0.32, 0.32)
_TRIES = 2000


@dataclass(frozen=True)
class Placement:
    """An object on the table: ``x``, ``y`` metres and ``yaw`` radians in the robot's base frame."""

    model: str
    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Scene:
    """``obstacles`` and ``distractors`` are what nothing may touch; the first are in the way on purpose.

    ``start``: joint angles (7,) radians at which the arm starts, None: at home; ``hand``: one that comes and goes."""

    task: str
    variant: str
    initial_state: int
    object: Placement
    target: Placement
    obstacles: tuple[Placement, ...] = ()
    distractors: tuple[Placement, ...] = ()
    start: tuple[float, ...] | None = None
    hand: HandPath | None = None

    @property
    def placements(self) -> tuple[Placement, ...]:
        return (self.object, self.target, *self.obstacles, *self.distractors)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the keypoints."""
        return tuple(placement.model for placement in self.placements)


def make_scene(task: str, variant: str, initial_state: int) -> Scene:
    """The scene of an initial state. Raises SimError for an unknown task or variant or a negative state."""
    spec = sim_task(task)
    check_variant(variant)
    if initial_state < 0:
        raise SimError(f"initial_state {initial_state} is negative")
    seed = np.random.SeedSequence([list(SIM_TASKS).index(task), VARIANTS.index(variant), initial_state])
    rng = np.random.Generator(np.random.Philox(seed))
    between = 2 * (object_model("post").radius + OBSTACLE_GAP) if variant == "obstacle" else GAP
    reach = object_model(spec.object).radius + object_model(spec.target).radius + between
    for _ in range(_TRIES):
        thing = _place(rng, spec.object, X_RANGE, Y_RANGE)
        target = _place(rng, spec.target, X_RANGE, Y_RANGE)
        if math.hypot(thing.x - target.x, thing.y - target.y) >= reach:
            break
    else:
        # The far corners of the area always leave room: the farthest pair is a scene as good as any.
        sign = 1.0 if rng.random() < 0.5 else -1.0
        thing = Placement(spec.object, X_RANGE[0], sign * Y_RANGE[0], thing.yaw)
        target = Placement(spec.target, X_RANGE[1], sign * Y_RANGE[1], target.yaw)
    obstacles = (_between(rng, thing, target),) if variant == "obstacle" else ()
    distractors = _distractors(rng, task, thing, target) if variant == "distractors" else ()
    start = {"near_limit": starts.near_limit, "near_edge": starts.near_edge}.get(variant)
    joints = tuple(float(angle) for angle in start(rng)) if start else None
    middle = (0.5 * (thing.x + target.x), 0.5 * (thing.y + target.y))
    hand = hand_path(rng, middle) if variant == "moving_hand" else None
    return Scene(task, variant, initial_state, thing, target, obstacles, distractors, joints, hand)


def _place(
    rng: np.random.Generator, model: str, x_range: tuple[float, float], y_range: tuple[float, float]
) -> Placement:
    x, y, yaw = rng.uniform(*x_range), rng.uniform(*y_range), rng.uniform(-YAW_RANGE, YAW_RANGE)
    return Placement(model, float(x), float(y), float(yaw))


def _between(rng: np.random.Generator, thing: Placement, target: Placement) -> Placement:
    """A post on the straight way from object to target, between their rims."""
    start, end = object_model(thing.model).radius, object_model(target.model).radius
    way = math.hypot(target.x - thing.x, target.y - thing.y)
    share = (start + (way - start - end) * rng.uniform(0.45, 0.55)) / way
    return Placement("post", thing.x + share * (target.x - thing.x), thing.y + share * (target.y - thing.y), 0.0)


def _distractors(rng: np.random.Generator, task: str, thing: Placement, target: Placement) -> tuple[Placement, ...]:
    own = (thing.model, target.model)
    pool = [name for name in ("carrot", "eggplant", "green_cube", "spoon", "mug", "ball", "brick") if name not in own]
    placed = [thing, target]
    for index in rng.permutation(len(pool)):
        if len(placed) == 2 + DISTRACTORS:
            break
        # A long thing may find no room where a small one does: then the next has its turn.
        for _ in range(_TRIES // 10):
            extra = _place(rng, pool[index], _EXTRA_X, _EXTRA_Y)
            if all(_apart(extra, other) for other in placed):
                placed.append(extra)
                break
    return tuple(placed[2:])


def _apart(one: Placement, other: Placement) -> bool:
    room = object_model(one.model).radius + object_model(other.model).radius + GAP
    return math.hypot(one.x - other.x, one.y - other.y) >= room
