"""A scripted expert that picks and places, presses and topples, in the policy's own action space.

Its action is a function of the present state alone: no timers, no memory. What to do next follows from where things
are (the object between the fingers, on its target, or neither), and every motion is a funnel that narrows towards the
contact; so it recovers from disturbances by itself, and a policy that sees single frames can learn it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from grape_episode.geometry import Array, Pose
from grape_sim.expert_actions import press, topple
from grape_sim.objects import object_model
from grape_sim.robot import finger_tip_drop
from grape_sim.tasks import PLACE, PRESS
from grape_sim.world import Observation, World


@dataclass(frozen=True)
class ExpertConfig:
    """Lengths in metres, angles in radians, per control step where a motion is meant.

    ``hover``: height above the grasp from which to come down; ``carry``: height above the release at which to
    travel; ``tolerance``: of a pose at which the gripper acts; ``cone``: sideways error at which the funnel is at its
    full height; ``floor``: least height of the fingertips above the table; ``clearance``: over an obstacle that
    lies nearer than ``berth``, half a hand, to the way.
    """

    max_step: float = 0.045
    max_turn: float = 0.15
    gain: float = 0.75
    hover: float = 0.07
    carry: float = 0.09
    cone: float = 0.05
    tolerance: float = 0.009
    turn_tolerance: float = 0.10
    floor: float = 0.003
    retreat: float = 0.10
    clearance: float = 0.04
    berth: float = 0.11


def tcp_yaw(pose: Pose) -> float:
    """Heading of the TCP's x axis about the base's z, radians."""
    x_axis = pose.rotation.apply([1.0, 0.0, 0.0])
    return math.atan2(x_axis[1], x_axis[0])


def wrap(angle: float, period: float) -> float:
    """The representative of ``angle`` nearest to zero under a symmetry of ``period`` radians."""
    return (angle + 0.5 * period) % period - 0.5 * period


class Expert:
    """Knows the world's true state. ``action(observation)`` is what to do now."""

    def __init__(self, world: World, config: ExpertConfig | None = None) -> None:
        self._world = world
        self.config = config or ExpertConfig()

    def action(self, observation: Observation) -> Array:
        """(7,) float64: translation m and euler xyz rad in the base frame, gripper 0 closed to 1 open."""
        thing = self._world.body_pose(0)
        if self._world.task.goal != PLACE:
            return self._act(observation, thing)
        if self._world.judge.held:
            return self._carry(observation, thing)
        if self._let_go(thing):
            return self._retreat(observation, thing)
        return self._reach(observation, thing)

    def _act(self, observation: Observation, thing: Pose) -> Array:
        """Press or topple, with closed fingers; once it is done, rest."""
        scene, tcp = self._world.scene, observation.tcp
        model = object_model(scene.object.model)
        if observation.status.success:
            way = np.zeros(3)
        elif self._world.task.goal == PRESS:
            way = press(tcp.position, thing.position, scene.object.z + model.rest_height, model.rest_height)
        else:
            way = topple(tcp.position, thing.position, model.rest_height, model.radius)
        return self._compose(way, tcp, 0.0, 0.0)

    def _reach(self, observation: Observation, thing: Pose) -> Array:
        config, tcp = self.config, observation.tcp
        model = object_model(self._world.scene.object.model)
        heading = thing.rotation.apply([1.0, 0.0, 0.0])
        turn = wrap(math.atan2(heading[1], heading[0]) - tcp_yaw(tcp), math.pi if model.elongated else 0.5 * math.pi)
        tips = finger_tip_drop(model.grasp_width) + config.floor
        goal = np.array([thing.position[0], thing.position[1], max(thing.position[2] + model.grasp_height, tips)])
        error = goal - tcp.position
        aside = math.hypot(error[0], error[1])
        above = tcp.position[2] - goal[2]
        near = aside < config.tolerance and abs(above) < config.tolerance and abs(turn) < config.turn_tolerance
        if near and observation.gripper_width > 0.004:
            return self._compose(0.5 * error, tcp, 0.5 * turn, 0.0)
        opened = observation.gripper_width > model.grasp_width + 0.02
        slack = max(aside - 0.5 * config.tolerance, 0.3 * (abs(turn) - 0.5 * config.turn_tolerance), 0.0)
        height = config.hover * min(slack / config.cone + (0.0 if opened else 0.5), 1.0)
        height = max(height, self._over(tcp, goal) - goal[2])
        return self._compose(self._funnel(error, height - above), tcp, turn, 1.0)

    def _carry(self, observation: Observation, thing: Pose) -> Array:
        config, tcp = self.config, observation.tcp
        error, above = self._to_release(thing)
        aside = math.hypot(error[0], error[1])
        if aside < config.tolerance and above < config.tolerance:
            return self._compose(np.zeros(3), tcp, 0.0, 1.0)
        slack = max(aside - 0.5 * config.tolerance, 0.0)
        height = config.carry * min(slack / config.cone, 1.0)
        goal = tcp.position + error
        # What hangs below the fingertips has to clear the obstacle too.
        hang = float(tcp.position[2] - thing.position[2]) + object_model(self._world.scene.object.model).rest_height
        height = max(height, self._over(tcp, goal, hang) - float(goal[2]))
        return self._compose(self._funnel(error, height - above), tcp, 0.0, 0.0)

    def _retreat(self, observation: Observation, thing: Pose) -> Array:
        tcp = observation.tcp
        lift = max(self.config.retreat - (tcp.position[2] - thing.position[2]), 0.0)
        opened = observation.gripper_width > object_model(self._world.scene.object.model).grasp_width + 0.01
        return self._compose(np.array([0.0, 0.0, lift if opened else 0.0]), tcp, 0.0, 1.0)

    def _over(self, tcp: Pose, goal: Array, hang: float = 0.0) -> float:
        """Height of the TCP, metres, at which it may go on to ``goal`` (3,) over the obstacles on the way; 0 where none
        is. Over the last centimetres it may come down, though an obstacle be near."""
        start, way = tcp.position[:2], goal[:2] - tcp.position[:2]
        length = float(np.linalg.norm(way))
        share = min(max((length - 0.025) / 0.025, 0.0), 1.0)
        highest = 0.0
        for placement in self._world.scene.obstacles:
            place = np.array([placement.x, placement.y]) - start
            along = min(max(float(place @ way) / max(length, 1e-9) ** 2, 0.0), 1.0)
            if np.linalg.norm(place - along * way) < self.config.berth:
                top = float(object_model(placement.model).mesh.vertices[:, 2].max())
                highest = max(highest, share * (top + hang + self.config.clearance))
        return highest

    def _to_release(self, thing: Pose) -> tuple[Array, float]:
        """Way of the object to where it is let go (3,), and its height above that."""
        model, task = object_model(self._world.scene.object.model), self._world.task
        release = self._world.keypoints()[1] + np.array([0.0, 0.0, model.rest_height + task.release_gap])
        return release - thing.position, float(thing.position[2] - release[2])

    def _let_go(self, thing: Pose) -> bool:
        """The object is over its target, no higher than where it is let go, and no lower than the target's surface."""
        error, above = self._to_release(thing)
        inside = 0.8 * object_model(self._world.scene.target.model).inside
        return math.hypot(error[0], error[1]) < inside and -self._world.task.release_gap - 0.012 < above < 0.02

    def _funnel(self, error: Array, rise: float) -> Array:
        """Sideways by the error, upwards by ``rise`` (negative: down); sideways waits while there is far to rise."""
        freedom = min(max(1.0 - (rise - 0.03) / 0.04, 0.0), 1.0)
        return np.array([error[0] * freedom, error[1] * freedom, rise])

    def _compose(self, way: Array, tcp: Pose, turn: float, gripper: float) -> Array:
        config = self.config
        step = config.gain * way
        length = float(np.linalg.norm(step))
        if length > config.max_step:
            step = step * (config.max_step / length)
        # What keeps the hand upright: the rotation that brings its approach back to straight down.
        down = tcp.rotation.apply([0.0, 0.0, 1.0])
        tilt = config.gain * np.cross(down, [0.0, 0.0, -1.0])
        limit = config.max_turn
        vector = np.clip([tilt[0], tilt[1], config.gain * turn], -limit, limit)
        euler = Rotation.from_rotvec(vector).as_euler("xyz")
        return np.concatenate([step, euler, [gripper]])
