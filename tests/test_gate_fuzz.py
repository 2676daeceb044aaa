"""The gate under streams in which everything goes wrong; and the checker that looks on is shown to find something."""

import dataclasses
import json
import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

pytest.importorskip("pinocchio")

import gate_fuzz  # noqa: E402
from arm_geometry import angle_between, frames_of, jacobian_of, placed, reached, tcp_of, way_touches  # noqa: E402
from gate_player import PARAMS, Player  # noqa: E402

from grape_robot import checks, gate, sensed, slew  # noqa: E402
from grape_robot.arm_model import ArmModel  # noqa: E402
from grape_robot.boxes import LinkSphere  # noqa: E402
from grape_sim import kinematics  # noqa: E402

RANDOM = np.random.default_rng(1)
SEED = 3


def streams(profile: str, numbers: range) -> list[str]:
    """The kinds of failure in these streams of a profile."""
    kinds = []
    for number in numbers:
        _, failure, _ = gate_fuzz.play(profile, SEED, number, defaultdict(list))
        if failure is not None:
            kinds.append(failure.kind)
    return kinds


def test_four_thousand_steps_find_nothing() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/gate_fuzz.py"), "--n", "4000", "--workers", "2", "--seed", "11"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (found["findings"], found["crashes"], found["kinds"]) == (0, 0, {}), done.stderr
    # what finds nothing must have looked at something
    assert found["judged"] >= 4000 and found["accepted"] > 800 and found["moved"] > 2000 and found["stops"] > 50
    assert {"accepted", "finite", "box", "speed", "age", "order", "stopped"} <= set(found["checks_us"])


@pytest.mark.parametrize(("profile", "number"), [("supervised", 193), ("real", 342)])
def test_what_only_seems_to_leave_where_it_must_not_be_is_refused(profile: str, number: int) -> None:
    """Found by seed 21: joints that say that a link is below the floor, and a step that by its first-order prediction
    lifts it by 0.2 mm, by the exact solution sinks it by 0.5; the same of a joint within the margin of its limit."""
    events, failure, said = gate_fuzz.play(profile, 21, number, defaultdict(list))
    # the steps were among the first ten events
    assert failure is None and len(events) > 60 and said["refused"] > 15


def _no(*_: object) -> str:
    return ""


def _none(*_: object) -> tuple[str, str]:
    return "", ""


def _clamped(profile: Any, *rest: Any) -> Any:
    """A gate that clamps into its box instead of refusing: the direction changes."""
    verdict, state = _JUDGE(profile, *rest)
    if verdict.check != "box":
        return verdict, state
    measured = rest[3].measured
    place = np.clip(measured.position + np.array(rest[2].action[:3]), profile.box.low, profile.box.high)
    target = dataclasses.replace(measured, position=place)
    return gate.Verdict(True, target=target, gripper=1.0), dataclasses.replace(state, reference=target)


_JUDGE = gate.judge


def _leap(profile: Any, point: Any, now: float) -> Any:
    """A set point that is at its target at once."""
    return slew.SetPoint(point.target, point.target, now, now)


MUTATIONS: dict[str, tuple[Any, str, Callable[..., Any], str, str]] = {
    "no box": (checks, "box", _no, "sim", "box"),
    "no speed": (checks, "too_fast", lambda *_: ("", 1.0), "sim", "max_speed"),
    "no joints": (checks, "_joints", _no, "real", "joint"),
    "no wrench, mode or controller": (sensed, "stop_cause", _none, "real", "while"),
    "no dead-man's switch": (sensed, "dead_man", _no, "real", "dead-man"),
    "clamped": (gate, "judge", _clamped, "sim", "beside the way"),
    "no slew": (slew, "advance", _leap, "sim", "slew_speed"),
    "no watchdog": (gate, "_policy_timers", lambda *_: (False, "", ""), "sim", "last step"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_gate_without_a_limit_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, attribute, instead, profile, words = MUTATIONS[name]
    monkeypatch.setattr(module, attribute, instead)
    if attribute == "dead_man":  # by the name under which the checks have it
        monkeypatch.setattr(checks, attribute, instead)
    if attribute == "stop_cause":
        monkeypatch.setattr(checks, attribute, instead)
    for number in range(60):
        events, failure, _ = gate_fuzz.play(profile, SEED, number, defaultdict(list))
        if failure is not None:
            break
    else:
        pytest.fail("60 streams have found nothing")
    assert words in failure.what, failure.what
    fewer = gate_fuzz.shrink(profile, events, failure)
    again = gate_fuzz.replay(profile, json.loads(json.dumps(fewer)))
    assert len(fewer) <= len(events) and again is not None and again.kind == failure.kind


def test_an_exception_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise ZeroDivisionError("of a quaternion")

    monkeypatch.setattr(checks, "box", fails)
    kinds = streams("sim", range(3))
    assert kinds and set(kinds) == {"crash: ZeroDivisionError"}


def test_the_checkers_arm_is_the_arm_of_two_others() -> None:
    spheres = [LinkSphere("fr3_link4", (0.01, 0.02, 0.03), 0.1), LinkSphere("hand", (0.0, 0.0, 0.05), 0.1)]
    spheres.append(LinkSphere("tcp", (0.0, 0.04, -0.01), 0.1))
    model = ArmModel(spheres)
    own = [(sphere.link, np.array(sphere.centre), sphere.radius) for sphere in spheres]
    for _ in range(30):
        joints = RANDOM.uniform(kinematics.JOINT_LOW, kinematics.JOINT_HIGH)
        tcp, third, fourth = tcp_of(joints), kinematics.forward(joints), model.forward(joints.tolist())
        for other in (third, fourth):
            np.testing.assert_allclose(tcp[:3], other.position, atol=1e-9)
            assert angle_between(tcp[3:], other.quaternion) < 1e-7
        np.testing.assert_allclose(jacobian_of(frames_of(joints)), model.jacobian(joints.tolist()), atol=1e-9)
        np.testing.assert_allclose(placed(own, joints), model.centres(joints.tolist()), atol=1e-9)


def test_the_joints_that_a_way_asks_for_lead_there() -> None:
    rest = np.array([0.0, -0.4, 0.0, -2.45, 0.0, 2.05, math.pi / 4])
    for _ in range(20):
        joints, way = rest + RANDOM.normal(0.0, 0.1, 7), RANDOM.normal(0.0, 0.03, 6)
        there, exact = reached(joints, way)
        assert exact
        np.testing.assert_allclose(tcp_of(there)[:3], tcp_of(joints)[:3] + way[:3], atol=1e-5)
    stretched = np.array([0.0, 0.0, 0.0, -1e-4, 0.0, 1.57, 0.0])
    assert not reached(stretched, np.array([0.05, 0.0, 0.0, 0.0, 0.0, 0.0]))[1]


def test_a_way_through_a_box() -> None:
    low, high = np.array([0.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0])
    for start, end, touches in (
        ((-1.0, 0.5, 0.5), (2.0, 0.5, 0.5), True),
        ((-1.0, 0.5, 0.5), (-0.1, 0.5, 0.5), False),
        ((-1.0, 1.5, 0.5), (2.0, 1.5, 0.5), False),
        ((0.5, 0.5, 0.5), (0.6, 0.6, 0.6), True),
        ((-0.5, 0.5, 0.5), (0.5, 1.6, 0.5), False),
        ((-0.5, 0.5, 0.5), (0.5, 1.4, 0.5), True),
    ):
        assert way_touches(np.array(start), np.array(end), low, high) is touches


def test_the_player_moves_the_arm_as_the_profile_says() -> None:
    """An ordinary episode without a fault is followed to its targets, and nothing is found."""
    player = Player(PARAMS / "gate_real.yaml", defaultdict(list))
    joints = [0.0, -0.4, 0.0, -2.45, 0.0, 2.05, math.pi / 4]
    pose, stamp, now = tcp_of(np.array(joints)), 10**12, 100.0

    def facts(later: float) -> dict[str, Any]:
        age = {name: now + later for name in ("mode_at", "controller_at", "joy_at")}
        stamps = {name: stamp + round(later * 1e9) for name in ("stamp", "pose_stamp", "joints_stamp", "wrench_stamp")}
        known = {"pose": pose.tolist(), "pose_frame": "fr3_link0", "joints": joints, "wrench": [0.0] * 6}
        return {"now": now + later, **age, **stamps, **known, "mode": 2, "controller": True, "held": True}

    assert player.apply({"do": "announce", "episode": "e"}) is None
    assert player.apply({"do": "beat", "episode": "e", "now": now}) is None
    ask = {
        "source": "policy",
        "episode": "e",
        "index": 0,
        "stamp": stamp,
        "frame": "fr3_link0",
        "rotation": "euler_xyz",
    }
    step = {"do": "step", "ask": {**ask, "action": [0.02, 0.0, 0.0, 0.0, 0.0, 0.05, 1.0]}, "facts": facts(0.0)}
    assert player.apply(step) is None
    assert player.said["accepted"] == 1
    places = []
    for tick in range(1, 11):
        assert player.apply({"do": "tick", "facts": facts(0.02 * tick)}) is None
        assert player.setpoint is not None
        places.append(player.setpoint[0] - pose[0])
    np.testing.assert_allclose(places, 0.002 * np.arange(1, 11), atol=1e-9)
