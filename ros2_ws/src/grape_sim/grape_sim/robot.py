"""The Panda with a Robotiq 2F-85: description composed at run time, position control, what its sensors say."""

from __future__ import annotations

import math
import sysconfig
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pybullet as pb
import pybullet_data

from grape_episode.geometry import Array, Pose
from grape_sim import kinematics
from grape_sim.errors import SimError

KNUCKLE_CLOSED = 0.7929
WIDTH_OPEN = 0.085
ARM_JOINTS = tuple(f"panda_joint{index}" for index in range(1, 8))
KNUCKLE_JOINT = "finger_joint"
HOME_TCP = Pose(np.array([0.42, 0.0, 0.26]), np.array([1.0, 0.0, 0.0, 0.0]))
PADS = ("left_inner_finger_pad", "right_inner_finger_pad")
FINGERS = (*PADS, "left_inner_finger", "right_inner_finger")

_MIMICS = {
    "left_inner_knuckle_joint": 1.0,
    "left_inner_finger_joint": -1.0,
    "right_outer_knuckle_joint": 1.0,
    "right_inner_knuckle_joint": 1.0,
    "right_inner_finger_joint": -1.0,
}
_ARM_COLOUR = "0.93 0.93 0.94 1"
_HAND_COLOUR = "0.16 0.16 0.18 1"
_PAD_COLOUR = "0.45 0.45 0.48 1"
# The knuckles are inside the fingers' sweep: they need not collide, and the inner ones, hardly seen and costly, are not
# drawn either.
_NO_COLLISION = ("knuckle",)
_NOT_DRAWN = ("inner_knuckle",)
# Links of many convex parts, of which only the outside can touch anything: one box each (centre, size), metres.
_BOXES = {
    "robotiq_arg2f_85_base_link": ((0.0, 0.0, 0.043), (0.075, 0.085, 0.094)),
    "left_outer_finger": ((0.0, 0.003, 0.0236), (0.0272, 0.0182, 0.0593)),
    "right_outer_finger": ((0.0, 0.003, 0.0236), (0.0272, 0.0182, 0.0593)),
}


def gripper_folder() -> Path:
    """The installed description of the 2F-85. Raises SimError when the package ``pybullet-grasper`` is missing."""
    for key in ("data", "purelib"):
        base = Path(sysconfig.get_path(key))
        for folder in (base / "share", *(parent / "share" for parent in base.parents)):
            found = folder / "pybullet_grasper" / "grippers" / "robotiq_2f_85"
            if (found / "robotiq_2f_85.urdf").is_file():
                return found
    raise SimError("robotiq_2f_85.urdf not found: install pybullet-grasper (pip install --no-deps pybullet-grasper)")


def knuckle_to_width(knuckle: float) -> float:
    """Opening between the fingertips, metres, of a knuckle angle, radians; linear, as the gripper's driver has it."""
    return WIDTH_OPEN * (1.0 - min(max(knuckle / KNUCKLE_CLOSED, 0.0), 1.0))


def compose_urdf(folder: Path) -> Path:
    """Write arm and gripper as one description into ``folder`` and return its path; meshes stay where they are."""
    arm_root = Path(pybullet_data.getDataPath()) / "franka_panda"
    arm = ET.parse(arm_root / "panda.urdf").getroot()
    hand_root = gripper_folder()
    hand = ET.parse(hand_root / "robotiq_2f_85.urdf").getroot()
    robot = ET.Element("robot", name="panda_2f85")
    for element in arm:
        name = element.get("name", "")
        if element.tag == "link" and name.startswith("panda_link"):
            robot.append(_link(element, arm_root, _ARM_COLOUR))
        elif element.tag == "joint" and name.startswith("panda_joint"):
            robot.append(element)
    for element in hand:
        name = element.get("name", "")
        if element.tag == "link" and name not in ("world", "forward_link"):
            robot.append(_link(element, hand_root, _PAD_COLOUR if name in PADS else _HAND_COLOUR))
        elif element.tag == "joint" and name not in ("rotation_joint", "forward_joint"):
            robot.append(element)
    mount = ET.SubElement(robot, "joint", name="gripper_mount", type="fixed")
    ET.SubElement(mount, "parent", link="panda_link8")
    ET.SubElement(mount, "child", link="robotiq_arg2f_85_base_link")
    ET.SubElement(mount, "origin", rpy=f"0 0 {kinematics.TOOL_YAW}", xyz="0 0 0")
    path = folder / "panda_2f85.urdf"
    ET.ElementTree(robot).write(path)
    return path


def _link(link: ET.Element, root: Path, colour: str) -> ET.Element:
    """The link with absolute mesh paths, its collision mesh also as what is drawn (cheap), and a mass above zero."""
    name = link.get("name", "")
    out = ET.Element("link", name=name)
    inertial = link.find("inertial")
    mass = inertial.find("mass") if inertial is not None else None
    if inertial is not None and mass is not None and float(mass.get("value", "0")) > 0:
        out.append(inertial)
    else:
        small = ET.SubElement(out, "inertial")
        ET.SubElement(small, "mass", value="0.01")
        ET.SubElement(small, "inertia", ixx="1e-5", ixy="0", ixz="0", iyy="1e-5", iyz="0", izz="1e-5")
    collision = link.find("collision")
    mesh = collision.find("geometry/mesh") if collision is not None else None
    if collision is None or mesh is None:
        return out
    file = str(root / mesh.get("filename", "").removeprefix("package://"))
    hidden = {"visual": _NOT_DRAWN, "collision": _NO_COLLISION}
    for tag, words in hidden.items():
        if any(word in name for word in words):
            continue
        part = ET.SubElement(out, tag)
        if tag == "collision" and name in _BOXES:
            centre, size = (" ".join(map(str, triple)) for triple in _BOXES[name])
            ET.SubElement(part, "origin", xyz=centre, rpy="0 0 0")
            ET.SubElement(ET.SubElement(part, "geometry"), "box", size=size)
            continue
        origin = collision.find("origin")
        if origin is not None:
            part.append(origin)
        ET.SubElement(ET.SubElement(part, "geometry"), "mesh", filename=file)
        if tag == "visual":
            material = ET.SubElement(part, "material", name=f"{name}_colour")
            ET.SubElement(material, "color", rgba=colour)
    return out


class Robot:
    """Arm and gripper in one physics client. Loads at the origin: the world frame is the robot's base frame.

    ``max_knuckle_rate`` radians per second is the speed at which the gripper's command moves.
    """

    def __init__(self, client: int, urdf: Path, timestep: float, max_knuckle_rate: float = 2.2) -> None:
        self._client = client
        self._timestep = timestep
        self._knuckle_rate = max_knuckle_rate
        self.body: int = pb.loadURDF(
            str(urdf), useFixedBase=True, flags=pb.URDF_ENABLE_CACHED_GRAPHICS_SHAPES, physicsClientId=client
        )
        joints: dict[str, int] = {}
        self.links: dict[str, int] = {}
        for index in range(pb.getNumJoints(self.body, physicsClientId=client)):
            info = pb.getJointInfo(self.body, index, physicsClientId=client)
            joints[info[1].decode()] = index
            self.links[info[12].decode()] = index
        self._arm = [joints[name] for name in ARM_JOINTS]
        self._knuckle = joints[KNUCKLE_JOINT]
        self._mimics = [(joints[name], ratio) for name, ratio in _MIMICS.items()]
        self.pads = tuple(self.links[name] for name in PADS)
        self.fingers = tuple(self.links[name] for name in FINGERS)
        self._left = tuple(index for name, index in self.links.items() if name.startswith("left"))
        self.hand = tuple(
            index for name, index in self.links.items() if name == "panda_link8" or not name.startswith("panda")
        )
        self._prepare()
        self.home()

    def side(self, link: int) -> bool:
        """Which of the two fingers a link of ``fingers`` belongs to."""
        return link in self._left

    def _prepare(self) -> None:
        for joint, ratio in self._mimics:
            pb.setJointMotorControl2(self.body, joint, pb.VELOCITY_CONTROL, force=0.0, physicsClientId=self._client)
            gear = pb.createConstraint(
                self.body,
                self._knuckle,
                self.body,
                joint,
                pb.JOINT_GEAR,
                [1, 0, 0],
                [0, 0, 0],
                [0, 0, 0],
                physicsClientId=self._client,
            )
            pb.changeConstraint(gear, gearRatio=-ratio, erp=0.5, maxForce=500, physicsClientId=self._client)
        for link in self.fingers:
            pb.changeDynamics(
                self.body,
                link,
                lateralFriction=1.6,
                spinningFriction=0.02,
                rollingFriction=0.001,
                physicsClientId=self._client,
            )

    def home(self, joints: Array | None = None) -> None:
        """Put the arm at ``HOME_TCP``, or at ``joints`` (7,) radians, with the gripper open, at rest."""
        joints = kinematics.inverse(HOME_TCP, kinematics.REST, iterations=200) if joints is None else joints
        for index, angle in zip(self._arm, joints, strict=True):
            pb.resetJointState(self.body, index, float(angle), 0.0, physicsClientId=self._client)
        for index in (self._knuckle, *(joint for joint, _ in self._mimics)):
            pb.resetJointState(self.body, index, 0.0, 0.0, physicsClientId=self._client)
        self._start = self._goal = self._command = joints
        self._progress, self._duration = 1, 1
        self._knuckle_goal = self._knuckle_command = 0.0

    def set_target(self, target: Pose, gripper: float, duration: float) -> None:
        """Move the TCP to ``target`` (base frame) within ``duration`` seconds; gripper 0 closed to 1 open.

        Joint commands run on a straight line from where the last command stands: no jump, whatever the target.
        """
        self.move(target, duration)
        self.grip(gripper)

    def move(self, target: Pose, duration: float) -> None:
        """The arm's part of ``set_target``."""
        self._start = self._command
        self._goal = kinematics.inverse(target, self._command)
        self._progress, self._duration = 0, max(1, round(duration / self._timestep))

    def grip(self, gripper: float) -> None:
        """The gripper's part of ``set_target``."""
        self._knuckle_goal = KNUCKLE_CLOSED * (1.0 - min(max(float(gripper), 0.0), 1.0))

    def halt(self) -> None:
        """The arm goes no further than it is commanded now."""
        self._start = self._goal = self._command

    def apply(self) -> None:
        """Hand the motors their command of the coming physics step."""
        self._progress = min(self._progress + 1, self._duration)
        self._command = self._start + (self._goal - self._start) * (self._progress / self._duration)
        step = self._knuckle_rate * self._timestep
        self._knuckle_command += min(max(self._knuckle_goal - self._knuckle_command, -step), step)
        pb.setJointMotorControlArray(
            self.body,
            self._arm,
            pb.POSITION_CONTROL,
            targetPositions=self._command.tolist(),
            forces=[240.0] * 7,
            positionGains=[0.35] * 7,
            velocityGains=[1.0] * 7,
            physicsClientId=self._client,
        )
        pb.setJointMotorControl2(
            self.body,
            self._knuckle,
            pb.POSITION_CONTROL,
            targetPosition=self._knuckle_command,
            force=2.5,
            maxVelocity=3.0,
            physicsClientId=self._client,
        )

    def arm_state(self) -> tuple[Array, Array]:
        """Measured joint angles (7,) radians and velocities (7,) radians per second."""
        states = pb.getJointStates(self.body, self._arm, physicsClientId=self._client)
        return np.array([state[0] for state in states]), np.array([state[1] for state in states])

    def tcp(self) -> Pose:
        """Measured TCP pose in the base frame."""
        return kinematics.forward(self.arm_state()[0])

    def knuckle(self) -> float:
        """Measured knuckle angle, radians: 0 open, ``KNUCKLE_CLOSED`` closed."""
        return float(pb.getJointState(self.body, self._knuckle, physicsClientId=self._client)[0])

    def width(self) -> float:
        """Measured opening, metres."""
        return knuckle_to_width(self.knuckle())

    def wrench(self) -> Array:
        """External wrench (6,) on the hand from its contacts: force N and torque Nm about the TCP, base-frame axes.

        What the fingers hold between them cancels, but for its weight and what it touches.
        """
        origin = self.tcp().position
        total = np.zeros(6)
        for contact in pb.getContactPoints(bodyA=self.body, physicsClientId=self._client):
            if contact[2] == self.body or contact[3] not in self.hand:
                continue
            force = contact[9] * np.array(contact[7])
            force = force + contact[10] * np.array(contact[11]) + contact[12] * np.array(contact[13])
            total[:3] += force
            total[3:] += np.cross(np.array(contact[5]) - origin, force)
        return total


def finger_tip_drop(width: float) -> float:
    """How far the fingertips reach beyond the TCP, metres, at an opening (metres): closing swings them forwards."""
    angle = KNUCKLE_CLOSED * (1.0 - width / WIDTH_OPEN)
    reach = 0.054904 + 0.0376 * math.sin(angle) + 0.0430 * math.cos(angle) + 0.03242 + 0.0176
    return reach - kinematics.TOOL_OFFSET
