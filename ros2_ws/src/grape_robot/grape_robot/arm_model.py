"""Where the arm's links are: the FR3 with a Robotiq 2F-85, for Pinocchio.

The description is the arm's published kinematics (Denavit-Hartenberg parameters after Craig) and the mount of the
gripper; joint limits come from the profile. Frames: ``fr3_link0`` (the base) to ``fr3_link7`` turn with the joints of
their number, ``fr3_link8`` is the flange, ``tcp`` lies between the fingertips, z along the approach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from grape_episode.geometry import Pose
from grape_robot import quaternions
from grape_robot.boxes import LinkSphere
from grape_robot.integrate import placed
from grape_robot.profile import GateProfile, ProfileError

FLANGE = 0.107
TOOL = 0.145
TOOL_YAW = -math.pi / 4

_DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -math.pi / 2),
    (0.0, 0.316, math.pi / 2),
    (0.0825, 0.0, math.pi / 2),
    (-0.0825, 0.384, -math.pi / 2),
    (0.0, 0.0, math.pi / 2),
    (0.088, 0.0, math.pi / 2),
)
"""Of each joint after Craig: a (m), d (m), alpha (rad)."""

_DAMPING = 1e-4
"""Square of the damping of the least-squares step, m2: far from a singularity it changes nothing."""


class ArmModel:
    """Forward kinematics and the prediction of joints. One call at a time: it works in buffers of its own.

    ``spheres`` are what of the arm must stay out of keep-outs. Raises ValueError naming a link that is not there."""

    def __init__(self, spheres: Sequence[LinkSphere] = ()) -> None:
        self.spheres = tuple(spheres)
        self._model = _model()
        frames = []
        for index, sphere in enumerate(self.spheres):
            if not self._model.existFrame(sphere.link):
                known = ", ".join(frame.name for frame in self._model.frames if frame.name.startswith(("fr3", "tcp")))
                raise ValueError(f"link_spheres[{index}]: link {sphere.link!r}, expected one of {known}")
            parent = self._model.frames[self._model.getFrameId(sphere.link)]
            place = parent.placement * pin.SE3(np.eye(3), np.array(sphere.centre))
            frames.append(
                self._model.addFrame(pin.Frame(f"sphere{index}", parent.parentJoint, place, pin.FrameType.OP_FRAME))
            )
        self._data = self._model.createData()
        self._tcp = self._model.getFrameId("tcp")
        # views into Pinocchio's own memory: reading one costs a tenth of asking for it
        self.radii = tuple(sphere.radius for sphere in self.spheres)
        self._views = [self._data.oMf[frame].translation for frame in frames]
        self._damping = np.asfortranarray(_DAMPING * np.eye(6))

    @classmethod
    def of(cls, profile: GateProfile, source: str = "profile") -> ArmModel | None:
        """The model that ``profile`` asks for; None where it watches no joints. Raises ProfileError."""
        if not profile.needs_model:
            return None
        try:
            return cls(profile.link_spheres if profile.keep_out_links else ())
        except ValueError as error:
            raise ProfileError(f"{source}: {error}") from None

    def forward(self, joints: Sequence[float]) -> Pose:
        """The TCP in the base frame for ``joints`` (7,) radians."""
        pin.framesForwardKinematics(self._model, self._data, np.array(joints, dtype=np.float64))
        tcp = self._data.oMf[self._tcp]
        return Pose(tcp.translation.copy(), pin.Quaternion(tcp.rotation).coeffs())

    def jacobian(self, joints: Sequence[float]) -> NDArray[np.float64]:
        """Geometric Jacobian (6, 7) of the TCP in the base frame: metres and radians per radian."""
        q = np.array(joints, dtype=np.float64)
        return np.asarray(
            pin.computeFrameJacobian(self._model, self._data, q, self._tcp, pin.LOCAL_WORLD_ALIGNED), dtype=np.float64
        )

    def reach(self, joints: Sequence[float], measured: Pose, target: Pose) -> tuple[float, ...]:
        """The joints (7,) rad that ``target`` asks for, predicted from ``joints`` and the TCP ``measured`` with them.

        One step of damped least squares, dq = J^T (J J^T + l^2 I)^-1 e, where e (6,) is the way from the measured TCP
        to the target (metres, and the rotation vector in the base frame) and J the Jacobian at the measured joints.
        An approximation in three respects: it is linear (some milliradians for ways of a few centimetres); of all
        postures it takes the nearest, while a controller may add motion in the null space; and close to a singularity
        it undershoots. None of them matters much to a margin, and the next step starts from measured joints again."""
        (x, y, z), turned = placed(measured)
        (a, b, c), wanted = placed(target)
        turn = quaternions.to_vector(quaternions.product(wanted, quaternions.conjugate(turned)))
        return self.follow(joints, (a - x, b - y, c - z, *turn))

    def follow(self, joints: Sequence[float], way: Sequence[float]) -> tuple[float, ...]:
        """The same for a ``way`` (6,) of the TCP: metres, and the rotation vector in the base frame."""
        q = np.array(joints)
        transposed = pin.computeFrameJacobian(self._model, self._data, q, self._tcp, pin.LOCAL_WORLD_ALIGNED).T
        # BLAS by name: on matrices this small NumPy's operators take most of the time
        square = blas.dsyrk(1.0, transposed, 1.0, self._damping, 1)  # J J^T + l^2 I, its upper half
        _, solution, _ = lapack.dposv(square, way)
        return tuple(blas.dgemv(1.0, transposed, solution, 1.0, q).tolist())  # q + J^T solution

    def centres(self, joints: Sequence[float]) -> list[list[float]]:
        """Where the spheres' centres are, each (3,) metres in the base frame, for ``joints`` (7,) radians."""
        pin.framesForwardKinematics(self._model, self._data, np.array(joints))
        return [view.tolist() for view in self._views]


def _model() -> pin.Model:
    model = pin.Model()
    parent, before = 0, pin.SE3.Identity()
    model.addFrame(pin.Frame("fr3_link0", 0, before, pin.FrameType.BODY))
    for number, (a, d, alpha) in enumerate(_DH, 1):
        c, s = math.cos(alpha), math.sin(alpha)
        place = pin.SE3(np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]), np.array([a, -d * s, d * c]))
        parent = model.addJoint(parent, pin.JointModelRZ(), place, f"fr3_joint{number}")
        model.addFrame(pin.Frame(f"fr3_link{number}", parent, pin.SE3.Identity(), pin.FrameType.BODY))
    flange = pin.SE3(np.eye(3), np.array([0.0, 0.0, FLANGE]))
    c, s = math.cos(TOOL_YAW), math.sin(TOOL_YAW)
    hand = pin.SE3(np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]), np.array([0.0, 0.0, FLANGE]))
    model.addFrame(pin.Frame("fr3_link8", parent, flange, pin.FrameType.BODY))
    model.addFrame(pin.Frame("hand", parent, hand, pin.FrameType.BODY))
    model.addFrame(pin.Frame("tcp", parent, hand * pin.SE3(np.eye(3), np.array([0.0, 0.0, TOOL])), pin.FrameType.BODY))
    return model
