"""What makes a Franka arm move or not, as franka_ros2 and ros2_control have it: user stop, reflex, the hardware
component and its controllers. Pure: every change gives a new arm. Times are seconds of the steady clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

HARDWARE = "FrankaHardwareInterface"
CONTROLLER = "cartesian_impedance_controller"
JOINT_BROADCASTER = "joint_state_broadcaster"
STATE_BROADCASTER = "franka_robot_state_broadcaster"
ON_ARM = (JOINT_BROADCASTER, STATE_BROADCASTER, CONTROLLER)
"""Controllers that the hardware component carries: they end with it."""
CONTROLLERS: Mapping[str, str] = {
    JOINT_BROADCASTER: "joint_state_broadcaster/JointStateBroadcaster",
    STATE_BROADCASTER: "franka_robot_state_broadcaster/FrankaRobotStateBroadcaster",
    CONTROLLER: "crisp_controllers/CartesianImpedanceController",
    "robotiq_gripper_controller": "parallel_gripper_action_controller/GripperActionController",
}
"""All that are loaded, with their types."""
IDLE, MOVE, REFLEX, USER_STOPPED = 1, 2, 4, 5
"""Modes as FrankaRobotState numbers them."""
LAST_WORDS = 0.2
"""Seconds for which the state is still broadcast after the hardware component has failed."""
_ALL = frozenset(CONTROLLERS)


@dataclass(frozen=True)
class FrankaArm:
    """``hardware``: lifecycle state of the component; ``active``: names of the active controllers; ``failed``: when the
    hardware component failed last."""

    user_stop: bool = False
    reflex: bool = False
    hardware: str = "active"
    active: frozenset[str] = _ALL
    failed: float = float("-inf")

    @property
    def mode(self) -> int:
        if self.user_stop:
            return USER_STOPPED
        if self.reflex:
            return REFLEX
        return MOVE if self.follows else IDLE

    @property
    def errors(self) -> tuple[str, ...]:
        """Names of the fields of franka_msgs/Errors that are raised."""
        return ("cartesian_reflex",) if self.reflex else ()

    @property
    def follows(self) -> bool:
        """Whether target poses move the arm."""
        return CONTROLLER in self.active

    @property
    def line(self) -> str:
        """Why it does not follow; "" where it does."""
        if self.follows:
            return ""
        causes = [text for so, text in ((self.user_stop, "user stop"), (self.reflex, "reflex")) if so]
        causes += [f"{HARDWARE} is {self.hardware}"] if self.hardware != "active" else []
        return ", ".join([*causes, f"{CONTROLLER} is inactive"])

    @property
    def stopping(self) -> bool:
        """Whether user stop or reflex hold it: said at least once, however late the world is."""
        return self.user_stop or self.reflex

    def tells(self, now: float) -> bool:
        """Whether pose, wrench and robot state are broadcast."""
        return STATE_BROADCASTER in self.active or now - self.failed <= LAST_WORDS

    def stopped(self, pressed: bool, now: float) -> FrankaArm:
        """The user stop is pressed or released; a release alone makes nothing move again."""
        return replace(self._fail(now) if pressed else self, user_stop=pressed)

    def tripped(self, now: float) -> FrankaArm:
        """A reflex, as after a collision."""
        return replace(self._fail(now), reflex=True)

    def cleared(self) -> tuple[FrankaArm, str]:
        """The error recovery, and why it was refused."""
        return (self, "the user stop is pressed") if self.user_stop else (replace(self, reflex=False), "")

    def set_hardware(self, name: str, state: str) -> tuple[FrankaArm, str]:
        """The component brought into a lifecycle state, and why it was refused."""
        if name != HARDWARE:
            return self, f"no hardware component {name!r}"
        if state not in ("active", "inactive", "unconfigured"):
            return self, f"no state {state!r}"
        if state != "active":
            return replace(self, hardware=state, active=self.active - set(ON_ARM)), ""
        if self.user_stop or self.reflex:
            return self, self.line
        return replace(self, hardware="active"), ""

    def switch(self, activate: Iterable[str], deactivate: Iterable[str], strict: bool) -> tuple[FrankaArm, str]:
        """Controllers switched, and why not: with ``strict`` all or none, else those that can be; a reason then says
        that none could."""
        wanted = [(name, True) for name in activate] + [(name, False) for name in deactivate]
        problems = {(name, on): self._hinders(name, on) for name, on in wanted}
        wrong = [problem for problem in problems.values() if problem]
        if wrong and (strict or len(wrong) == len(problems)):
            return self, "; ".join(wrong)
        done = [change for change in wanted if not problems[change]]
        active = (self.active - {name for name, on in done if not on}) | {name for name, on in done if on}
        return replace(self, active=active), ""

    def _hinders(self, name: str, activate: bool) -> str:
        if name not in CONTROLLERS:
            return f"no controller {name!r} is loaded"
        if (name in self.active) == activate:
            return f"{name} is {'active' if activate else 'inactive'} already"
        if activate and name in ON_ARM and self.hardware != "active":
            return f"{name} needs {HARDWARE}, which is {self.hardware}"
        if activate and name == CONTROLLER and (self.user_stop or self.reflex):
            return f"{name} cannot move the arm: {'user stop' if self.user_stop else 'reflex'}"
        return ""

    def _fail(self, now: float) -> FrankaArm:
        # franka_hardware fails where a motion that it commands is ended; without one it only reads
        if not self.follows:
            return self
        return replace(self, hardware="unconfigured", active=self.active - set(ON_ARM), failed=now)
