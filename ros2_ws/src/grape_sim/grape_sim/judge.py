"""What happened, judged by the contacts in the world: success, mistakes, grasp, collisions, clearance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pybullet as pb

from grape_episode.episode import World as WorldTruth
from grape_sim.robot import Robot
from grape_sim.tasks import PLACE, PRESS, SimTask
from grape_sim.unseen_objects import BUTTON_TRAVEL

REACH = 0.4  # metres: clearances beyond are not measured, and reported as this


@dataclass(frozen=True)
class JudgeConfig:
    """Forces in newtons, lengths in metres, speed in metres per second; ``rest_checks`` are consecutive checks.

    The hand on the table or the target is part of the work up to ``hard_force``, and what it holds up to
    ``press_force`` (closing fingers press it down); touching an obstacle or a distractor, ``touch_force``, is not.
    ``pressed``: share of its travel that a button must go down; ``toppled``: radians that a bottle must lean.
    """

    hard_force: float = 40.0
    press_force: float = 90.0
    touch_force: float = 0.5
    rest_speed: float = 0.05
    rest_checks: int = 6
    lift: float = 0.015
    pressed: float = 0.7
    toppled: float = math.radians(60.0)


@dataclass(frozen=True)
class Cast:
    """Who is who in a scene, as body ids, and where the object is at home on its target.

    ``inside``: how far the object's middle may be from the target's, metres, along each side or, unless ``square``,
    in any direction; ``surface``: height of the target's surface above its origin; ``rest_height``: of the object's
    origin above what it lies on. ``wrong_objects``, ``wrong_targets``: candidates that were not named.
    """

    object: int
    target: int
    table: int
    forbidden: tuple[int, ...]
    inside: float
    square: bool
    surface: float
    rest_height: float
    wrong_objects: tuple[int, ...] = ()
    wrong_targets: tuple[int, ...] = ()


class Judge:
    """Watches one episode. ``update`` after physics steps, at a fixed stride; then ask."""

    def __init__(self, client: int, robot: Robot, task: SimTask, cast: Cast, config: JudgeConfig) -> None:
        self._client, self._robot, self._task, self._cast, self._config = client, robot, task, cast, config
        self._start_height = self._position(cast.object)[2]
        self._wrong_heights = [self._position(body)[2] for body in cast.wrong_objects]
        self._rested = 0
        self._touching: set[tuple[int, int]] = set()
        self._grasped = False
        self._collisions = 0
        self._force = 0.0
        self._clearance = REACH if cast.forbidden else math.nan
        self.held = False
        self.mistaken = False

    def _position(self, body: int) -> Sequence[float]:
        return tuple(pb.getBasePositionAndOrientation(body, physicsClientId=self._client)[0])

    def update(self) -> None:
        """Take the contacts of the last physics step into account."""
        cast, robot = self._cast, self._robot
        touched: dict[tuple[int, int], float] = {}
        pads: set[int] = set()
        by_hand = False
        for contact in pb.getContactPoints(bodyA=robot.body, physicsClientId=self._client):
            other, force = contact[2], contact[9]
            if other == robot.body:
                continue
            if other == cast.object:
                by_hand = by_hand or force > 0.0
                if contact[3] in robot.fingers and force > 0.0:
                    # A finger's pad and the link that carries it are one side.
                    pads.add(robot.side(contact[3]))
            else:
                key = (robot.body, other)
                touched[key] = touched.get(key, 0.0) + force
        self.held = len(pads) == 2
        on_target = 0.0
        on_wrong: set[int] = set()
        others: set[int] = set()
        for contact in pb.getContactPoints(bodyA=cast.object, physicsClientId=self._client):
            other, force = contact[2], contact[9]
            if other == cast.target:
                on_target += force
            elif other in cast.wrong_targets and force > 0.0:
                on_wrong.add(other)
            if other != robot.body:
                others.add(other)
                if self.held:
                    key = (cast.object, other)
                    touched[key] = touched.get(key, 0.0) + force
        self._count(touched)
        height = self._position(cast.object)[2] - self._start_height
        free = not (others - {cast.target})
        self._grasped = self._grasped or (self.held and free and height > self._config.lift)
        if self._task.goal == PLACE:
            done = on_target > 0.0 and not by_hand and self._rests()
        elif self._task.goal == PRESS:
            # a button that was pressed stays pressed: it springs back by itself
            done = self._rested >= self._config.rest_checks or (by_hand and self._down())
        else:
            done = not self.held and self._leans()
        self._rested = self._rested + 1 if done else 0
        self.mistaken = self.mistaken or self._lifted_wrong()
        self.mistaken = self.mistaken or (not by_hand and any(self._rests(body) for body in on_wrong))

    def _count(self, touched: dict[tuple[int, int], float]) -> None:
        now: set[tuple[int, int]] = set()
        for (who, other), force in touched.items():
            limit = self._limit(who, other)
            if force > limit:
                now.add((who, other))
                self._force = max(self._force, force)
            elif (who, other) in self._touching and force > 0.0:
                # Still the same contact, only lighter: it does not count again when it grows hard once more.
                now.add((who, other))
        self._collisions += len(now - self._touching)
        self._touching = now

    def _limit(self, who: int, other: int) -> float:
        if other in self._cast.forbidden:
            return self._config.touch_force
        return self._config.press_force if who == self._cast.object else self._config.hard_force

    def _down(self) -> bool:
        above = self._position(self._cast.object)[2] - self._position(self._cast.target)[2]
        return above <= self._cast.surface + self._cast.rest_height + (1.0 - self._config.pressed) * BUTTON_TRAVEL

    def _leans(self) -> bool:
        _, turn = pb.getBasePositionAndOrientation(self._cast.object, physicsClientId=self._client)
        return bool(pb.getMatrixFromQuaternion(turn)[8] < math.cos(self._config.toppled))

    def _lifted_wrong(self) -> bool:
        heights = zip(self._cast.wrong_objects, self._wrong_heights, strict=True)
        return any(self._position(body)[2] - start > self._config.lift for body, start in heights)

    def _rests(self, target: int | None = None) -> bool:
        linear, angular = pb.getBaseVelocity(self._cast.object, physicsClientId=self._client)
        if math.hypot(*linear) > self._config.rest_speed or math.hypot(*angular) > 10 * self._config.rest_speed:
            return False
        return self.in_place(target)

    def in_place(self, target: int | None = None) -> bool:
        """The object's middle is over the target's inside, and above its surface: on it, not beside or under it.
        ``target``: body of another target like it."""
        cast = self._cast
        on = cast.target if target is None else target
        position, turn = pb.getBasePositionAndOrientation(on, physicsClientId=self._client)
        back = pb.invertTransform(position, turn)
        local, _ = pb.multiplyTransforms(*back, self._position(cast.object), (0, 0, 0, 1))
        if cast.square:
            across = max(abs(local[0]), abs(local[1]))
        else:
            across = math.hypot(local[0], local[1])
        rise = local[2] - cast.surface
        return across <= cast.inside and 0.3 * cast.rest_height < rise < cast.rest_height + 0.03

    def measure_clearance(self) -> None:
        """Take the present distance from the robot, and from what it holds, to the forbidden bodies into account."""
        for body in self._cast.forbidden:
            for mover in (self._robot.body, self._cast.object) if self.held else (self._robot.body,):
                for point in pb.getClosestPoints(mover, body, REACH, physicsClientId=self._client):
                    distance = max(point[8], 0.0)
                    self._clearance = min(self._clearance, distance)

    def status(self) -> WorldTruth:
        """The judgement so far: success of this moment, everything else of the episode. A mistake, ``mistaken``, is of
        the whole episode: the wrong object was lifted, or the object was put on the wrong target."""
        return WorldTruth(
            success=self._rested >= self._config.rest_checks and not self.mistaken,
            grasped=self._grasped,
            collision=self._collisions > 0,
            collisions=self._collisions,
            contact_force=self._force,
            clearance=self._clearance,
        )
