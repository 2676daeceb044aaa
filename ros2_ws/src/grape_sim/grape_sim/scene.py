"""Where everything lies at the start, and what is told: a pure function of (task, variant, initial state).

The unseen variants draw from the seeds of ``clean``: of the same task and initial state, object and target lie where
they lie there, so that a difference between the two is the variation's. In ``grounding``, which needs room for a
further thing, they are laid out anew, and so they are where another size leaves too little room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from grape_sim import starts
from grape_sim.camera import CameraConfig
from grape_sim.errors import SimError
from grape_sim.hand import HandPath, hand_path
from grape_sim.looks import Look, look_of
from grape_sim.objects import object_model
from grape_sim.practice import Practice, practice
from grape_sim.tasks import ALL_TASKS, PLACE, PRESS, UNSEEN, VARIANTS, VARIED, SimTask, check_variant, sim_task
from grape_sim.unseen import NOISE, SIDES, Change, change, kind_of
from grape_sim.unseen_objects import BUTTON_TRAVEL

X_RANGE = (0.38, 0.56)
Y_RANGE = (-0.20, 0.20)
YAW_RANGE = math.radians(30.0)
GAP = 0.035
OBSTACLE_GAP = 0.02
DISTRACTORS = 3
SIDE_GAP = 0.10
"""How far apart two candidates are across the camera's picture where their side tells, metres."""
_CANDIDATES_X = (0.36, 0.64)
_CANDIDATES_Y = (-0.27, 0.27)
_CANDIDATES_GAP = 0.02
_EXTRA_X = (0.30, 0.66)
_EXTRA_Y = (-0.32, 0.32)
_TRIES = 2000
_DISTRACTORS = ("carrot", "eggplant", "green_cube", "spoon", "mug", "ball", "brick")


@dataclass(frozen=True)
class Placement:
    """An object on the table, or ``z`` metres above it: ``x``, ``y`` metres and ``yaw`` radians in the robot's base
    frame. ``name``: of its keypoint, empty: the model's."""

    model: str
    x: float
    y: float
    yaw: float
    z: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class Scene:
    """``obstacles`` and ``distractors`` are what nothing may touch; the first are in the way on purpose.

    ``rivals``: candidates that the instruction does not name, which look or stand like the object or the target.
    ``start``: joint angles (7,) radians at which the arm starts, None: at home; ``hand``: one that comes and goes.
    ``instruction``: what the policy is told; ``kind``: of :data:`grape_sim.unseen.KINDS`, or empty."""

    task: str
    variant: str
    initial_state: int
    object: Placement
    target: Placement
    obstacles: tuple[Placement, ...] = ()
    distractors: tuple[Placement, ...] = ()
    start: tuple[float, ...] | None = None
    hand: HandPath | None = None
    rivals: tuple[Placement, ...] = ()
    instruction: str = ""
    kind: str = ""
    look: Look = field(default_factory=Look)

    @property
    def placements(self) -> tuple[Placement, ...]:
        return (self.object, self.target, *self.obstacles, *self.distractors, *self.rivals)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the keypoints."""
        return tuple(placement.name or placement.model for placement in self.placements)


def instruction_of(task: str, variant: str, initial_state: int) -> str:
    """What the policy is told in this initial state. Raises SimError as :func:`make_scene` does."""
    spec = _checked(task, variant, initial_state)
    return _changed(spec, variant, initial_state).change.instruction


def make_scene(task: str, variant: str, initial_state: int) -> Scene:
    """The scene of an initial state. Raises SimError for an unknown task or variant, a variant that the task does not
    have, or a negative state."""
    spec = _checked(task, variant, initial_state)
    stream = "clean" if variant in UNSEEN else variant
    seed = np.random.SeedSequence([list(ALL_TASKS).index(task), VARIANTS.index(stream), initial_state])
    rng = np.random.Generator(np.random.Philox(seed))
    if spec.goal != PLACE:
        return _standing(rng, spec, initial_state)
    practised, kind = _changed(spec, variant, initial_state), kind_of(variant, initial_state)
    changed = practised.change
    thing, target, rivals = _laid_out(rng, spec, changed, variant)
    obstacles = (_between(rng, thing, target),) if variant == "obstacle" else ()
    distractors: tuple[Placement, ...] = ()
    if variant == "distractors" or kind == NOISE:
        distractors = _distractors(rng, DISTRACTORS, _DISTRACTORS, (thing, target))
    elif practised.lying:
        distractors = _distractors(rng, len(practised.lying), practised.lying, (thing, target, *rivals))
    start = {"near_limit": starts.near_limit, "near_edge": starts.near_edge}.get(variant)
    joints = tuple(float(angle) for angle in start(rng)) if start else None
    middle = (0.5 * (thing.x + target.x), 0.5 * (thing.y + target.y))
    hand = hand_path(rng, middle) if variant == "moving_hand" else None
    look = practised.look or look_of(kind, rng)
    words = changed.instruction
    return Scene(
        task, variant, initial_state, thing, target, obstacles, distractors, joints, hand, rivals, words, kind, look
    )


def _changed(spec: SimTask, variant: str, initial_state: int) -> Practice:
    """What the variant does to the task; the look is the unseen variants' own affair."""
    if variant == VARIED:
        return practice(spec, initial_state)
    return Practice(change(spec, variant, initial_state), None, ())


def _checked(task: str, variant: str, initial_state: int) -> SimTask:
    spec = sim_task(task)
    check_variant(variant)
    if spec.goal != PLACE and variant != "clean":
        raise SimError(f"variant {variant!r}: task {task!r} has the variant 'clean' alone")
    if initial_state < 0:
        raise SimError(f"initial_state {initial_state} is negative")
    return spec


def _laid_out(
    rng: np.random.Generator, spec: SimTask, changed: Change, variant: str
) -> tuple[Placement, Placement, tuple[Placement, ...]]:
    """Object, target and the rival, if there is one."""
    if changed.rival:
        return _candidates(rng, spec, changed)
    between = 2 * (object_model("post").radius + OBSTACLE_GAP) if variant == "obstacle" else GAP
    # the keypoint of a carrot of another size is still the carrot's
    name = spec.object if variant == "physical" else ""
    reach = object_model(changed.object).radius + object_model(spec.target).radius + between
    for _ in range(_TRIES):
        thing = _place(rng, changed.object, X_RANGE, Y_RANGE)
        target = _place(rng, spec.target, X_RANGE, Y_RANGE)
        if math.hypot(thing.x - target.x, thing.y - target.y) >= reach:
            break
    else:
        # The far corners of the area always leave room: the farthest pair is a scene as good as any.
        sign = 1.0 if rng.random() < 0.5 else -1.0
        thing = Placement(changed.object, X_RANGE[0], sign * Y_RANGE[0], thing.yaw)
        target = Placement(spec.target, X_RANGE[1], sign * Y_RANGE[1], target.yaw)
    return replace(thing, name=name), target, ()


def _candidates(
    rng: np.random.Generator, spec: SimTask, changed: Change
) -> tuple[Placement, Placement, tuple[Placement, ...]]:
    """Object, target and the other candidate, apart from each other; where the named one's side tells, on that side."""
    of_target = changed.rival == spec.target
    for _ in range(20 * _TRIES):
        thing = _place(rng, changed.object, _CANDIDATES_X, _CANDIDATES_Y)
        target = _place(rng, spec.target, _CANDIDATES_X, _CANDIDATES_Y)
        rival = _place(rng, changed.rival, _CANDIDATES_X, _CANDIDATES_Y)
        pairs = ((thing, target), (thing, rival), (target, rival))
        if not all(_apart(one, other, _CANDIDATES_GAP) for one, other in pairs):
            continue
        further = across_picture(rival) - across_picture(target if of_target else thing)
        if not changed.side or further * (1 if changed.side == SIDES[0] else -1) >= SIDE_GAP:
            return thing, target, (replace(rival, name=f"other_{changed.rival}"),)
    raise SimError(f"task {spec.name!r}: found no room for two candidates")


def across_picture(placement: Placement) -> float:
    """How far to the right a thing lies across the standard camera's picture, metres along its horizontal axis."""
    eye, look_at = CameraConfig().eye, CameraConfig().look_at
    forwards = (look_at[0] - eye[0], look_at[1] - eye[1])
    return (forwards[1] * placement.x - forwards[0] * placement.y) / math.hypot(*forwards)


def _standing(rng: np.random.Generator, spec: SimTask, initial_state: int) -> Scene:
    """The scene of a task whose object stands on its target from the start."""
    target = _place(rng, spec.target, X_RANGE, Y_RANGE)
    above = object_model(spec.target).surface + (BUTTON_TRAVEL if spec.goal == PRESS else 0.0)
    thing = Placement(spec.object, target.x, target.y, target.yaw, above)
    return Scene(spec.name, "clean", initial_state, thing, target, instruction=spec.instruction)


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


def _distractors(
    rng: np.random.Generator, count: int, names: Sequence[str], own: tuple[Placement, ...]
) -> tuple[Placement, ...]:
    """``count`` of the things named, none of them among the scene's ``own``, where there is room."""
    pool = [name for name in names if name not in [placement.model for placement in own]]
    placed = [*own]
    for index in rng.permutation(len(pool)):
        if len(placed) == len(own) + count:
            break
        # A long thing may find no room where a small one does: then the next has its turn.
        for _ in range(_TRIES // 10):
            extra = _place(rng, pool[index], _EXTRA_X, _EXTRA_Y)
            if all(_apart(extra, other) for other in placed):
                placed.append(extra)
                break
    return tuple(placed[len(own) :])


def _apart(one: Placement, other: Placement, gap: float = GAP) -> bool:
    room = object_model(one.model).radius + object_model(other.model).radius + gap
    return math.hypot(one.x - other.x, one.y - other.y) >= room
