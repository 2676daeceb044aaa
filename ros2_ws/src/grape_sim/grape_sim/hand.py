"""A person's hand that reaches into the workspace: its seeded way, its motion, and its two bodies in the world.

The hand moves as a person's does beside a robot: it stops while the robot is near and in its way. What touches it has
moved into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pybullet as pb

PALM = (0.045, 0.07, 0.02)
FOREARM = (0.035, 0.22, 0.03)
"""Half extents of the two boxes, metres."""
OUTSIDE = 0.65
"""Where the palm's middle waits, metres beside the robot: outside every workspace."""
YIELD_GAP = 0.05
"""The hand does not move towards a robot that is nearer than this, metres."""
_LOOK_STRIDE = 4
"""Physics steps between two looks for the robot."""
_SKIN = (0.87, 0.67, 0.55, 1.0)
_SLEEVE = (0.20, 0.30, 0.52, 1.0)


@dataclass(frozen=True)
class KeepOut:
    """A box (metres, base frame) that the arm must stay out of."""

    name: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclass(frozen=True)
class HandPath:
    """The hand comes along y from ``side`` (1 left, -1 right) at ``x`` and ``z`` metres until its palm is at ``reach``
    metres in y. It waits outside for ``wait`` s, comes and goes with ``speed`` m/s, stays for ``stay`` s, and begins
    again. It is impatient after ``patience`` s on its way and goes back."""

    x: float
    z: float
    reach: float
    side: int
    speed: float
    wait: float
    stay: float
    patience: float = 4.0


def hand_path(rng: np.random.Generator, middle: tuple[float, float]) -> HandPath:
    """A way to above ``middle`` (x, y metres), the point between object and target."""
    return HandPath(
        x=middle[0] + rng.uniform(-0.03, 0.03),
        z=rng.uniform(0.11, 0.17),
        reach=middle[1] + rng.uniform(-0.03, 0.03),
        side=1 if rng.random() < 0.5 else -1,
        speed=rng.uniform(0.15, 0.30),
        wait=rng.uniform(0.5, 2.5),
        stay=rng.uniform(1.5, 3.0),
    )


class HandMotion:
    """Where the palm is in time: y metres. ``direction`` is the sign of its motion along y now, 0 at rest."""

    def __init__(self, path: HandPath) -> None:
        self.path = path
        self.y = path.side * OUTSIDE
        self._phase, self._left = "wait", path.wait

    @property
    def direction(self) -> int:
        return {"come": -self.path.side, "go": self.path.side}.get(self._phase, 0)

    def step(self, seconds: float, free: bool) -> float:
        """The palm's y after ``seconds``; ``free``: nothing is in its way."""
        self._left -= seconds
        if self.direction and free:
            goal = self.path.reach if self._phase == "come" else self.path.side * OUTSIDE
            way = self.path.speed * seconds
            self.y = goal if abs(goal - self.y) <= way else self.y + self.direction * way
            if self.y == goal:
                self._left = 0.0 if self._phase == "come" else self._left
        if self._phase == "go":
            if self.y == self.path.side * OUTSIDE:
                self._phase, self._left = "wait", self.path.wait
        elif self._left <= 0.0:
            self._next()
        return self.y

    def _next(self) -> None:
        if self._phase == "wait":
            self._phase, self._left = "come", self.path.patience
        elif self._phase == "come" and self.y == self.path.reach:
            self._phase, self._left = "stay", self.path.stay
        else:
            self._phase = "go"


class Hand:
    """Palm and forearm as two kinematic bodies of a physics client; ``bodies`` are their ids."""

    def __init__(self, client: int, path: HandPath) -> None:
        self._client, self._motion = client, HandMotion(path)
        self._steps, self._free = 0, True
        self.bodies = tuple(self._box(half, colour) for half, colour in ((PALM, _SKIN), (FOREARM, _SLEEVE)))
        self._place()

    def step(self, seconds: float, robot: int) -> None:
        """Move for one physics step beside ``robot`` (body id)."""
        if self._steps % _LOOK_STRIDE == 0:
            self._free = self._looks_free(robot)
        self._steps += 1
        before = self._motion.y
        if self._motion.step(seconds, self._free) != before:
            self._place()

    def _looks_free(self, robot: int) -> bool:
        """Whether nothing of the robot is near in the direction of the hand's motion."""
        direction = self._motion.direction
        if direction == 0:
            return True
        for body in self.bodies:
            for point in pb.getClosestPoints(robot, body, YIELD_GAP, physicsClientId=self._client):
                # the normal points from the hand to the robot
                if point[7][1] * direction > 1e-3:
                    return False
        return True

    def keep_outs(self) -> tuple[KeepOut, ...]:
        """The boxes of palm and forearm as they are now."""
        boxes = []
        for name, half, centre in zip(("palm", "forearm"), (PALM, FOREARM), self._centres(), strict=True):
            low, high = (tuple(float(c + sign * h) for c, h in zip(centre, half, strict=True)) for sign in (-1, 1))
            boxes.append(KeepOut(name, (low[0], low[1], low[2]), (high[0], high[1], high[2])))
        return tuple(boxes)

    def _centres(self) -> tuple[tuple[float, float, float], ...]:
        path, y = self._motion.path, self._motion.y
        return (path.x, y, path.z), (path.x, y + path.side * (PALM[1] + FOREARM[1]), path.z)

    def _place(self) -> None:
        for body, centre in zip(self.bodies, self._centres(), strict=True):
            pb.resetBasePositionAndOrientation(body, centre, (0, 0, 0, 1), physicsClientId=self._client)

    def _box(self, half: tuple[float, float, float], colour: tuple[float, float, float, float]) -> int:
        shape = pb.createCollisionShape(pb.GEOM_BOX, halfExtents=half, physicsClientId=self._client)
        look = pb.createVisualShape(pb.GEOM_BOX, halfExtents=half, rgbaColor=colour, physicsClientId=self._client)
        body: int = pb.createMultiBody(0, shape, look, (0, 0, 1), physicsClientId=self._client)
        return body
