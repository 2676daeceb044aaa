"""The simulated tabletop: reset to an initial state, step by control periods, observe. No ROS, no global state."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pybullet as pb
from numpy.typing import NDArray

from grape_episode.episode import World as WorldTruth
from grape_episode.geometry import Array, Pose
from grape_sim.camera import Camera, CameraConfig, View
from grape_sim.errors import SimError
from grape_sim.hand import Hand, KeepOut
from grape_sim.judge import Cast, Judge, JudgeConfig
from grape_sim.looks import table_top
from grape_sim.meshes import write_png
from grape_sim.models import Triple, write_object
from grape_sim.objects import object_model
from grape_sim.robot import Robot, compose_urdf
from grape_sim.scene import Placement, Scene, make_scene
from grape_sim.tasks import PRESS, SimTask, sim_task

TABLE_SIZE = (1.5, 2.4, 0.04)
TABLE_CENTRE = (0.45, 0.0)
BUTTON_FORCE = 8.0
"""Newtons at which a button's cap gives way."""
_SETTLE_SECONDS = 0.25
_WALL_SIZE = (0.02, 6.0, 3.0)


@dataclass(frozen=True)
class WorldConfig:
    """``control_period`` seconds must be a whole number of physics steps; ``image_size`` pixels, square.

    ``depth``: observations carry depth unless told otherwise. ``judge_stride``: physics steps between two looks at
    the contacts.
    """

    image_size: int = 112
    control_period: float = 0.2
    depth: bool = False
    physics_rate: int = 240
    judge_stride: int = 4
    camera: CameraConfig = field(default_factory=CameraConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        if self.image_size < 8:
            raise SimError(f"image_size {self.image_size} is below 8 pixels")
        steps = self.control_period * self.physics_rate
        if steps < 1 or abs(steps - round(steps)) > 1e-6:
            raise SimError(
                f"control_period {self.control_period} s is no whole number of physics steps at {self.physics_rate} Hz"
            )
        if self.judge_stride < 1:
            raise SimError(f"judge_stride {self.judge_stride} is below 1")


@dataclass(frozen=True)
class Observation:
    """What the robot's sensors and the world say at ``time`` (seconds of simulated time, never backwards).

    ``color`` (H, W, 3) uint8 RGB; ``depth`` (H, W) float32 metres, 0 where nothing is; ``tcp`` in the base frame;
    ``gripper_width`` metres; ``joints`` (7,) radians and ``joint_velocities`` (7,) radians per second of the arm;
    ``knuckle`` radians; ``wrench`` (6,) newtons and newton metres about the TCP, base-frame axes; ``keypoints`` (K, 3)
    metres, base frame: object, target, then obstacles; ``status`` is the world's own judgement;
    ``keep_outs``: boxes around what moves and must not be touched.
    """

    time: float
    color: NDArray[np.uint8] | None
    depth: NDArray[np.float32] | None
    tcp: Pose
    gripper_width: float
    joints: Array
    joint_velocities: Array
    knuckle: float
    wrench: Array
    keypoints: Array
    keypoint_names: tuple[str, ...]
    status: WorldTruth
    keep_outs: tuple[KeepOut, ...] = ()


class World:
    """One table, one arm, one physics client of its own: several worlds in a process do not know of each other.

    For the expert and for tests there are, after a reset: ``client`` (the physics client's id), ``robot``, ``judge``,
    ``camera``, and ``bodies``, the body ids in the order of ``keypoint_names``.
    """

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()
        self.client: int = pb.connect(pb.DIRECT)
        if self.client < 0:
            raise SimError("the physics engine gives no further client: close a world first")
        self._folder = tempfile.TemporaryDirectory(prefix="grape_sim_")
        self._files: dict[str, tuple[Path, Path]] = {}
        self._robot_urdf = compose_urdf(Path(self._folder.name))
        self.camera = Camera(self.client, self.config.camera)
        self._timestep = 1.0 / self.config.physics_rate
        self._steps = 0
        self._scene: Scene | None = None
        self._open = True

    # -- the episode ---------------------------------------------------------------------------------------------

    def reset(self, task: str, variant: str = "clean", initial_state: int = 0) -> Observation:
        """Build the scene anew and put the arm where it starts. Raises SimError for an unknown task, variant or state.

        Everything is loaded afresh, so that nothing of an earlier episode is left: the same arguments give the same
        scene and, under the same commands, the same episode, bit for bit. Simulated time goes on.
        """
        self._check_open()
        scene = make_scene(task, variant, initial_state)
        client = self.client
        pb.resetSimulation(physicsClientId=client)
        pb.setGravity(0, 0, -9.81, physicsClientId=client)
        pb.setPhysicsEngineParameter(
            fixedTimeStep=self._timestep,
            numSolverIterations=50,
            numSubSteps=0,
            deterministicOverlappingPairs=1,
            physicsClientId=client,
        )
        self._table = self._load_table(scene.look.table)
        self.robot = Robot(client, self._robot_urdf, self._timestep)
        self.bodies = [self._load(placement) for placement in scene.placements]
        if scene.start is not None:
            self.robot.home(np.array(scene.start))
        self._hand = Hand(client, scene.hand) if scene.hand is not None else None
        if scene.look.wall is not None:
            self._load_wall(scene.look.wall)
        self.camera.light = scene.look.light
        self._scene, self._task = scene, sim_task(task)
        if self._task.goal == PRESS:
            self._hold_up(scene.object.z + object_model(scene.object.model).rest_height)
        self._since_reset = 0
        thing, target = object_model(scene.object.model), object_model(scene.target.model)
        for _ in range(round(_SETTLE_SECONDS / self._timestep)):
            self.robot.apply()
            pb.stepSimulation(physicsClientId=client)
            self._steps += 1
        others = len(self.bodies) - len(scene.rivals)
        rivals = list(zip(self.bodies[others:], scene.rivals, strict=True))
        cast = Cast(
            object=self.bodies[0],
            target=self.bodies[1],
            table=self._table,
            forbidden=(*self.bodies[2:others], *(self._hand.bodies if self._hand else ())),
            inside=target.inside,
            square=target.square,
            surface=target.surface,
            rest_height=thing.rest_height,
            wrong_objects=tuple(body for body, rival in rivals if rival.model != scene.target.model),
            wrong_targets=tuple(body for body, rival in rivals if rival.model == scene.target.model),
        )
        self.judge = Judge(client, self.robot, self._task, cast, self.config.judge)
        self._after_steps()
        return self.observe()

    def step(self, target: Pose, gripper: float) -> Observation:
        """Go to ``target`` (TCP, base frame) with ``gripper`` 0 closed to 1 open for one control period; observe."""
        self.set_target(target, gripper)
        self.advance(self.config.control_period)
        return self.observe()

    def set_target(self, target: Pose, gripper: float) -> None:
        """Command a TCP pose (base frame) to be reached within a control period, and the gripper, 0 closed to 1 open.

        Raises SimError for a number that is not finite.
        """
        self._check_scene()
        if not (np.isfinite(target.position).all() and np.isfinite(target.quaternion).all() and math.isfinite(gripper)):
            raise SimError(f"target is not finite: {target}, gripper {gripper}")
        self.robot.set_target(target, gripper, self.config.control_period)

    def advance(self, seconds: float) -> None:
        """Let simulated time pass, to the nearest physics step."""
        self._check_scene()
        for _ in range(round(seconds / self._timestep)):
            self.robot.apply()
            if self._hand is not None:
                self._hand.step(self._timestep, self.robot.body)
            pb.stepSimulation(physicsClientId=self.client)
            self._steps += 1
            self._since_reset += 1
            if self._since_reset % self.config.judge_stride == 0:
                self.judge.update()
                if self._hand is not None:  # it comes and goes within a control period
                    self.judge.measure_clearance()
        self._after_steps()

    def observe(self, color: bool = True, depth: bool | None = None) -> Observation:
        """What there is to see and to measure now."""
        self._check_scene()
        wants_depth = self.config.depth if depth is None else depth
        image, metres = None, None
        if color or wants_depth:
            image, metres = self.camera.render(self.config.image_size, self.config.image_size, wants_depth)
        joints, velocities = self.robot.arm_state()
        return Observation(
            time=self.time,
            color=image if color else None,
            depth=metres,
            tcp=self.robot.tcp(),
            gripper_width=self.robot.width(),
            joints=joints,
            joint_velocities=velocities,
            knuckle=self.robot.knuckle(),
            wrench=self.robot.wrench(),
            keypoints=self.keypoints(),
            keypoint_names=self.keypoint_names,
            status=self.judge.status(),
            keep_outs=self._hand.keep_outs() if self._hand else (),
        )

    # -- what there is -------------------------------------------------------------------------------------------

    @property
    def time(self) -> float:
        """Simulated time, seconds since the world was made."""
        return self._steps * self._timestep

    @property
    def scene(self) -> Scene:
        return self._check_scene()

    @property
    def task(self) -> SimTask:
        self._check_scene()
        return self._task

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        return self._check_scene().names

    def keypoints(self) -> Array:
        """(K, 3) metres, base frame: the object's middle, the middle of the target's surface, obstacles' middles."""
        scene = self._check_scene()
        points = np.empty((len(self.bodies), 3))
        for index, (body, placement) in enumerate(zip(self.bodies, scene.placements, strict=True)):
            model = object_model(placement.model)
            if index == 0:
                height = 0.0
            elif index == 1:
                height = model.surface
            else:
                height = float(np.mean([model.mesh.vertices[:, 2].min(), model.mesh.vertices[:, 2].max()]))
            pose = self._pose(body)
            points[index] = pose.position + pose.rotation.apply([0.0, 0.0, height])
        return points

    def body_pose(self, index: int) -> Pose:
        """Pose in the base frame of the index-th thing of the scene (order of ``keypoint_names``)."""
        self._check_scene()
        return self._pose(self.bodies[index])

    def render(self, width: int, height: int, shadows: bool | None = None) -> NDArray[np.uint8]:
        """The camera's picture (height, width, 3) uint8 RGB at another size; ``shadows`` for a person's eyes."""
        self._check_scene()
        return self.camera.render(width, height, shadows=shadows)[0]

    def view(self, width: int = 640, height: int = 480) -> View:
        """Colour, depth and masks at the camera's size in the lab: ``labels`` are indices into ``keypoint_names``, -1
        for robot, table and nothing."""
        self._check_scene()
        seen = self.camera.view(width, height)
        index = np.full(max(2, *self.bodies, int(seen.labels.max())) + 2, -1, dtype=np.int32)
        index[self.bodies] = np.arange(len(self.bodies))
        return View(seen.color, seen.depth, index[seen.labels])

    def close(self) -> None:
        """End the physics client and remove generated files; a second call does nothing."""
        if self._open:
            self._open = False
            pb.disconnect(physicsClientId=self.client)
            self._folder.cleanup()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _after_steps(self) -> None:
        self.judge.measure_clearance()

    def _pose(self, body: int) -> Pose:
        position, quaternion = pb.getBasePositionAndOrientation(body, physicsClientId=self.client)
        return Pose(np.array(position), np.array(quaternion))

    def _load_table(self, top: str) -> int:
        half = [0.5 * side for side in TABLE_SIZE]
        shape = pb.createCollisionShape(pb.GEOM_BOX, halfExtents=half, physicsClientId=self.client)
        look = pb.createVisualShape(pb.GEOM_BOX, halfExtents=half, physicsClientId=self.client)
        body: int = pb.createMultiBody(0, shape, look, (*TABLE_CENTRE, -half[2]), physicsClientId=self.client)
        pb.changeDynamics(body, -1, lateralFriction=0.9, physicsClientId=self.client)
        texture = Path(self._folder.name) / f"table_{top}.png"
        if not texture.exists():
            write_png(np.clip(np.round(table_top(top)), 0, 255).astype(np.uint8), texture)
        self._paint(body, texture)
        return body

    def _load_wall(self, colour: Triple) -> None:
        """A wall behind the table and a floor below, which nothing can touch."""
        for size, place in (
            (_WALL_SIZE, (TABLE_CENTRE[0] - 0.5 * TABLE_SIZE[0] - 0.3, 0.0, 0.0)),
            ((6.0, _WALL_SIZE[1], 0.02), (0.0, 0.0, -0.8)),
        ):
            half, paint = [0.5 * side for side in size], (*colour, 1.0)
            look = pb.createVisualShape(pb.GEOM_BOX, halfExtents=half, rgbaColor=paint, physicsClientId=self.client)
            pb.createMultiBody(0, -1, look, place, physicsClientId=self.client)

    def _hold_up(self, height: float) -> None:
        """Hold the button's cap at ``height`` above the console's origin by a force that gives way."""
        cap, console = self.bodies[:2]
        joint = pb.createConstraint(
            console, -1, cap, -1, pb.JOINT_FIXED, (0, 0, 0), (0, 0, height), (0, 0, 0), physicsClientId=self.client
        )
        pb.changeConstraint(joint, maxForce=BUTTON_FORCE, physicsClientId=self.client)

    def _load(self, placement: Placement) -> int:
        model = object_model(placement.model)
        if placement.model not in self._files:
            self._files[placement.model] = write_object(model, Path(self._folder.name))
        urdf, texture = self._files[placement.model]
        quaternion = (0.0, 0.0, math.sin(placement.yaw / 2), math.cos(placement.yaw / 2))
        body: int = pb.loadURDF(
            str(urdf),
            (placement.x, placement.y, placement.z + model.rest_height + 0.0005),
            quaternion,
            flags=pb.URDF_USE_INERTIA_FROM_FILE,
            physicsClientId=self.client,
        )
        pb.changeDynamics(body, -1, linearDamping=0.04, angularDamping=0.3, physicsClientId=self.client)
        self._paint(body, texture)
        return body

    def _paint(self, body: int, texture: Path) -> None:
        image = pb.loadTexture(str(texture), physicsClientId=self.client)
        pb.changeVisualShape(body, -1, textureUniqueId=image, rgbaColor=(1, 1, 1, 1), physicsClientId=self.client)

    def _check_open(self) -> None:
        if not self._open:
            raise SimError("this world is closed")

    def _check_scene(self) -> Scene:
        self._check_open()
        if self._scene is None:
            raise SimError("no scene: reset the world first")
        return self._scene
