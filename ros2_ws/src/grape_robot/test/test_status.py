from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Of

import numpy as np
import pytest

from grape_robot.arm_model import ArmModel
from grape_robot.boxes import Box
from grape_robot.profile import load_profile
from grape_robot.state import Authority, GateState, Senses
from grape_robot.status import UNHEARD, fill_arm_status

PROFILE = load_profile(Path(__file__).parents[4] / "launch" / "params" / "gate_real.yaml")
REST = (0.0, -0.4, 0.0, -2.45, 0.0, 2.05, 0.785)
ARM = ArmModel.of(PROFILE)


def message() -> Of:
    pose = Of(position=Of(x=0.0, y=0.0, z=0.0), orientation=Of(x=0.0, y=0.0, z=0.0, w=1.0))
    return Of(header=Of(stamp=Of(sec=0, nanosec=0), frame_id=""), setpoint=pose)


def test_what_is_not_heard_is_told_as_such() -> None:
    told = fill_arm_status(message(), PROFILE, ARM, GateState(), Senses(1.0, 2_500_000_000), None, True)
    assert (told.robot_mode, told.controller_active, told.dead_man, told.dry_run) == (UNHEARD, False, False, True)
    assert all(map(math.isnan, (told.force, told.torque, told.joint_margin, told.clearance)))
    assert (told.header.stamp.sec, told.header.frame_id) == (2, "fr3_link0")


def test_margins_and_clearance_are_the_least_ones() -> None:
    assert ARM is not None
    tcp = ARM.forward(REST)
    senses = Senses(
        1.0,
        0,
        measured=tcp,
        joints=REST,
        wrench=(3.0, 4.0, 0.0, 0.0, 0.6, 0.8),
        robot_mode=2,
        controller_active=True,
        dead_man=True,
        joy_heard=1.0,
    )
    wall = Box("wall", (tcp.position[0] + 0.3, -1.0, -1.0), (2.0, 1.0, 1.0))
    profile = replace(PROFILE, keep_out=(wall,))
    state = replace(GateState(), authority=Authority.OPERATOR, episode_id="e")
    told = fill_arm_status(message(), profile, ARM, state, senses, tcp, False)
    assert (told.authority, told.episode_id, told.dead_man, told.force) == (1, "e", True, 5.0)
    assert told.torque == pytest.approx(1.0)
    # the elbow's limit at -3.0421 is the nearest: 3.0421 - 2.45
    limits = PROFILE.joint_limits
    least = np.min(np.minimum(np.array(REST) - limits.low, np.array(limits.high) - REST))
    assert told.joint_margin == pytest.approx(least)
    foremost = max([tcp.position[0], *(c[0] + r for c, r in zip(ARM.centres(REST), ARM.radii, strict=True))])
    assert told.clearance == pytest.approx(wall.low[0] - foremost)
    assert told.setpoint.position.x == tcp.position[0]
