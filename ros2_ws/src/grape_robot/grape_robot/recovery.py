"""Bringing a Franka arm back after a reflex or the user stop, in franka_ros2's order: clear the error, activate the
hardware component, activate the controllers. Pure: what was asked, what was answered, what is next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from grape_robot.franka import ACTIVE, GUIDING, RECOVERING, USER_STOPPED, RobotMode

FRESH = 1.0
"""Seconds for which a state of the arm or of the gate says what is so now."""
BUSY = ("ACTIVE", "HOLD")
"""The gate's modes in which an episode or a person has the arm."""
UNDER_WAY = "a recovery is under way"
"""The answer to a request while another one is worked on."""
HINTS = {
    USER_STOPPED: "release it first",
    GUIDING: "let go of the arm first",
    RECOVERING: "wait until that has ended",
}
"""The arm's modes in which it is not recovered, and what a person does about them."""


class Stage(StrEnum):
    """What is under way; the values name it in messages."""

    CLEAR = "error recovery"
    HARDWARE = "activating the hardware"
    LOOK = "listing the controllers"
    SWITCH = "activating the controllers"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class RecoveryPlan:
    """``hardware``: components to activate; ``controllers``: those that must be active in the end, each activated with
    the others or not at all; ``deadline``: seconds for each stage (and each component)."""

    hardware: tuple[str, ...]
    controllers: tuple[str, ...]
    deadline: float


@dataclass(frozen=True)
class Recovery:
    """One recovery. ``since``: begin of the stage, seconds of the steady clock; ``component``: which of the plan's
    hardware is being activated; ``activate``: the controllers that are to be; ``done``: what was achieved, a line each;
    ``reason``: why it failed."""

    stage: Stage
    since: float
    component: int = 0
    activate: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.stage in (Stage.DONE, Stage.FAILED)

    @property
    def line(self) -> str:
        """All of it in one line."""
        achieved = "; ".join(self.done) or "nothing"
        if self.stage is Stage.FAILED:
            return f"{self.reason}; done before: {achieved}; nothing after it was tried"
        return f"recovered: {achieved}" if self.stage is Stage.DONE else f"{self.stage} is under way"


def refusal(mode: RobotMode | None, gate: str, episode: str, gate_heard: float | None, now: float) -> str:
    """Why the arm must not be recovered now; "" where it may. ``mode``: the arm's last state; ``gate``: name of the
    gate's mode, which has ``episode``, heard at ``gate_heard`` (None: never), seconds of the steady clock as ``now``.

    What is older than ``FRESH`` says nothing: after a reflex franka_ros2's broadcasters are silent."""
    if gate_heard is not None and now - gate_heard <= FRESH and gate in BUSY:
        whose = f"episode {episode!r}" if episode else "a person who drives"
        return f"the gate is {gate} for {whose}: end that first"
    if mode is not None and now - mode.heard <= FRESH and mode.mode in HINTS:
        return f"the arm is in {mode.name}: {HINTS[mode.mode]}"
    return ""


def begin(mode: RobotMode | None, now: float) -> Recovery:
    """The first stage. Where the arm says freshly that it has no error there is none to clear: franka's action refuses
    that while a controller moves the arm."""
    if mode is not None and now - mode.heard <= FRESH and mode.healthy:
        return Recovery(Stage.HARDWARE, now, done=("no error to clear",))
    return Recovery(Stage.CLEAR, now)


def asked(plan: RecoveryPlan, recovery: Recovery) -> str:
    """What the stage asks for, by the name of a component or controllers where it concerns them."""
    if recovery.stage is Stage.HARDWARE:
        return f"{recovery.stage} {plan.hardware[recovery.component]}"
    if recovery.stage is Stage.SWITCH:
        return f"{recovery.stage} {', '.join(recovery.activate)}"
    return str(recovery.stage)


def fail(plan: RecoveryPlan, recovery: Recovery, reason: str) -> Recovery:
    """The stage did not succeed: the end."""
    return replace(recovery, stage=Stage.FAILED, reason=f"{asked(plan, recovery)} failed: {reason}")


def overdue(plan: RecoveryPlan, recovery: Recovery, now: float, waits_for: str) -> Recovery:
    """Failed where the stage has taken longer than its deadline; ``waits_for`` says on what it hangs."""
    if recovery.ended or now - recovery.since <= plan.deadline:
        return recovery
    return fail(plan, recovery, f"{waits_for} within {plan.deadline:g} s")


def succeed(
    plan: RecoveryPlan, recovery: Recovery, now: float, controllers: Mapping[str, str] | None = None
) -> Recovery:
    """The stage was answered with success: the next one. ``controllers``: state by name, in answer to ``LOOK``."""
    done = (*recovery.done, asked(plan, recovery))
    if recovery.stage is Stage.CLEAR:
        return replace(recovery, stage=Stage.HARDWARE, since=now, done=done)
    if recovery.stage is Stage.HARDWARE:
        following = recovery.component + 1
        if following < len(plan.hardware):
            return replace(recovery, component=following, since=now, done=done)
        return replace(recovery, stage=Stage.LOOK, since=now, done=done)
    if recovery.stage is Stage.LOOK:
        return _looked(plan, recovery, now, controllers or {})
    return replace(recovery, stage=Stage.DONE, done=done)


def _looked(plan: RecoveryPlan, recovery: Recovery, now: float, controllers: Mapping[str, str]) -> Recovery:
    states = {name: controllers.get(name, "not loaded") for name in plan.controllers}
    inactive = tuple(name for name, state in states.items() if state != ACTIVE)
    unfit = [f"{name} is {states[name]}" for name in inactive if states[name] != "inactive"]
    if unfit:
        return fail(plan, recovery, f"{', '.join(unfit)}: load and configure it first")
    if not inactive:
        return replace(recovery, stage=Stage.DONE, done=(*recovery.done, "every controller is active"))
    return replace(recovery, stage=Stage.SWITCH, since=now, activate=inactive)
