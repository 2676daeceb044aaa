"""A reset in the lab against a stand-in gate: its order, and one line for everything that can go wrong on the way."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from grape_episode import topics
from grape_episode.geometry import Pose
from grape_robot.homing import Homing
from grape_robot.lab_reset import LabReset, ResetSettings, Wanted
from grape_robot.reset_desk import SUPERSEDED, ResetFailed
from grape_robot.state import Mode
from grape_robot.state_library import StateLibrary

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_gate import SECOND, StandInGate

DOWN = np.array([1.0, 0.0, 0.0, 0.0])
HOME = Pose(np.array([0.42, 0.0, 0.26]), DOWN)
START = Pose(np.array([0.6, -0.2, 0.05]), DOWN)
HOMING = Homing(HOME, 0.3, 0.1, 0.3, 0.1)
WANTED = Wanted("episode_1", "carrot", "clean", 7)


class Lab:
    """A reset with its library and gate; ``confirm_at``: seconds after which the operator confirms."""

    def __init__(self, folder: Path, start: Pose = START, **settings: object) -> None:
        self.gate = StandInGate(start)
        self.gate.episode = WANTED.episode_id
        self.library = StateLibrary(folder / "states")
        self.reset = LabReset(self.gate.desk, self.gate, self.library, HOMING, ResetSettings(**settings))  # type: ignore[arg-type]
        self.words: list[tuple[str, int]] = [("carrot", 7)]
        self.answers: list[str] = []
        self.confirmed = 0
        self.gate.on_wait = self.operator

    def operator(self, gate: StandInGate) -> None:
        if gate.desk.awaited is not None and gate.desk.awaited.confirmed is None and self.words:
            gate.tell()
            self.confirmed = gate.now()
            self.answers.append(gate.desk.confirm(*self.words.pop(0), self.confirmed))

    def store(self, value: int = 77, height: int = 6) -> None:
        self.library.store("carrot", "clean", 7, np.full((height, 8, 3), value, np.uint8), "test")

    def run(self, wanted: Wanted = WANTED) -> int:
        return self.reset.run(wanted, self.gate.desk.ask())

    def fails(self, wanted: Wanted = WANTED) -> str:
        with pytest.raises(ResetFailed) as failure:
            self.run(wanted)
        return str(failure.value)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_home_then_the_word_then_the_arm_is_handed_back(lab: Lab) -> None:
    lab.store()
    seen: list[tuple[bool, float]] = []
    watch = lab.gate.on_wait

    def look(gate: StandInGate) -> None:
        if gate.desk.awaited is not None:
            seen.append((gate.operator, gate.pose.distance(HOME)))
        watch(gate)

    lab.gate.on_wait = look
    stamp = lab.run()
    # while people lay the scene out, the arm is at home and not the policy's
    assert seen[0] == (True, pytest.approx(0.0, abs=1e-5))
    assert lab.answers == [""] and stamp > lab.confirmed
    assert lab.gate.back == 1 and not lab.gate.operator
    path = np.array([pose.position for pose in lab.gate.path])
    assert path[:, 2].max() == pytest.approx(0.3)
    over = path[np.abs(path[:, :2] - path[0, :2]).max(1) > 1e-6]
    assert over[np.abs(over[:, :2] - HOME.position[:2]).max(1) > 1e-6][:, 2] == pytest.approx(0.3)
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() <= 0.1 * 0.1 + 1e-9
    # the gripper first, where the arm is
    assert lab.gate.moves[0] == (0, 0, 0, 0, 0, 0, 1.0)
    assert any("grape confirm carrot 7" in line for line in lab.gate.lines)


def test_a_new_state_is_stored_as_it_is_confirmed(lab: Lab) -> None:
    lab.run()
    state = lab.library.find("carrot", "clean", 7)
    assert state is not None and state.source == "episode_1"
    assert (lab.library.image(state) == 77).all()
    assert any("new" in line for line in lab.gate.lines)


def test_a_new_state_is_refused_where_that_is_wanted(tmp_path: Path) -> None:
    lab = Lab(tmp_path, capture_missing=False)
    assert "no first frame of carrot 7 (clean)" in lab.fails()
    assert not lab.gate.moves and not lab.gate.back


def test_another_id_is_refused_by_name_and_the_right_one_taken(lab: Lab) -> None:
    lab.store()
    lab.words = [("carrot", 8), ("spoon", 7), ("carrot", 7)]
    lab.run()
    assert lab.answers == [
        "carrot 8 is confirmed, carrot 7 is waited for",
        "spoon 7 is confirmed, carrot 7 is waited for",
        "",
    ]
    assert "no reset waits" in lab.gate.desk.confirm("carrot", 8, 0)
    # a client whose answer was lost asks again
    assert lab.gate.desk.confirm("carrot", 7, 0) == ""
    lab.gate.time += 30.0
    assert "no reset waits" in lab.gate.desk.confirm("carrot", 7, 0)


def test_the_word_on_one_reset_is_none_on_the_next(lab: Lab) -> None:
    lab.store()
    lab.run()
    lab.gate.desk.ask()
    assert "no reset waits" in lab.gate.desk.confirm("carrot", 7, 0)


def test_nobody_confirms(lab: Lab) -> None:
    lab.store()
    lab.words = []
    assert lab.fails() == "nobody confirmed carrot 7 (clean) within 600 s"
    assert lab.gate.back == 1 and not lab.gate.operator


def test_what_cannot_be_confirmed_blind(lab: Lab) -> None:
    lab.store()
    watch = lab.gate.on_wait

    def blind(gate: StandInGate) -> None:
        if gate.desk.awaited is not None and not lab.answers:
            gate.silent.add("camera")
            gate.time += 2.0
        elif lab.answers:
            gate.silent.discard("camera")
        watch(gate)

    lab.words = [("carrot", 7), ("carrot", 7)]
    lab.gate.on_wait = blind
    lab.run()
    assert "nobody can have looked" in lab.answers[0] and lab.answers[1] == ""


def test_a_frame_of_another_size_is_refused_before_anything_moves(lab: Lab) -> None:
    lab.store(height=12)
    assert lab.fails() == f"carrot 7 (clean): 8x12 was stored, {topics.COLOR} is 8x6"
    assert not lab.gate.moves


@pytest.mark.parametrize(
    ("silent", "words"),
    [
        ("gate", f"no gate: nothing on {topics.GATE_STATUS} after 5 s"),
        ("arm", f"no gate: nothing on {topics.ARM_STATUS} after 5 s"),
        ("tcp", f"nothing on {topics.CURRENT_POSE} after 5 s"),
        ("width", f"no {topics.KNUCKLE_JOINT} on {topics.JOINT_STATES} after 5 s"),
        ("camera", f"nothing on {topics.COLOR} for 5 s"),
    ],
)
def test_who_is_not_there_is_named(lab: Lab, silent: str, words: str) -> None:
    lab.store()
    lab.gate.silent.add(silent)
    assert lab.fails() == words
    assert not lab.gate.moves and not lab.gate.back


def test_a_gate_that_is_armed_for_another_episode(lab: Lab) -> None:
    lab.gate.episode = "episode_0"
    assert lab.fails() == "the gate is not armed for episode episode_1 after 5 s"
    lab.gate.check, lab.gate.reason = "episode", "control_period 0.1 s"
    assert lab.fails() == "the gate declines the episode: control_period 0.1 s"


def test_without_an_episode_none_needs_to_be_armed(lab: Lab) -> None:
    lab.gate.episode = ""
    lab.run(Wanted("", "carrot", "clean", 7))


def at_step(number: int, change) -> object:
    def on_step(gate: StandInGate, sequence: int) -> None:
        if sequence == number:
            change(gate)

    return on_step


def stop(gate: StandInGate) -> None:
    gate.mode, gate.check, gate.reason = Mode.STOPPED, "wrench", "40 N, limit 30 N"


TROUBLE = {
    "homing given up: the gate refuses a step: box: z = 0.5 m": lambda gate: setattr(gate, "refuse", "box: z = 0.5 m"),
    "the gate has stopped: wrench: 40 N, limit 30 N": stop,
    "homing given up: the gate refuses a step: operator: teleop drives": lambda gate: setattr(
        gate, "refuse", "operator: teleop drives"
    ),
    f"homing given up: no answer of the gate on {topics.GATE_STATUS} to step 5": lambda g: g.silent.add("gate"),
    "episode episode_1 has ended": lambda gate: gate.desk.ended("episode_1"),
    SUPERSEDED: lambda gate: gate.desk.ask(),
    "the reset node ends": lambda gate: gate.desk.close("the reset node ends"),
}


@pytest.mark.parametrize("words", TROUBLE)
def test_trouble_on_the_way_ends_it_in_one_line_and_the_arm_is_handed_back(lab: Lab, words: str) -> None:
    lab.store()
    lab.gate.on_step = at_step(5, TROUBLE[words])  # type: ignore[assignment]
    assert lab.fails() == words
    assert lab.gate.back == 1 and len(lab.gate.moves) == 6


def test_a_hold_that_passes_is_waited_out(lab: Lab) -> None:
    lab.store()
    refused: list[int] = []

    def let_go(gate: StandInGate, sequence: int) -> None:
        gate.refuse = "dead_man: not held" if 5 <= sequence < 15 else ""
        if gate.refuse:
            refused.append(sequence)

    lab.gate.on_step = let_go
    assert lab.run() > 0 and len(refused) == 10
    assert lab.gate.lines.count("the homing waits: dead_man: not held") == 1


def test_a_hold_that_does_not_pass_ends_it(lab: Lab) -> None:
    lab.store()
    lab.gate.on_step = at_step(5, lambda gate: setattr(gate, "refuse", "dead_man: not held"))  # type: ignore[assignment]
    assert lab.fails() == "homing given up: the gate holds for 3 s: dead_man: not held"
    assert lab.gate.back == 1 and 20 < len(lab.gate.moves) < 60


def test_held_from_the_start_it_begins_from_where_the_arm_is(lab: Lab) -> None:
    lab.store()
    lab.gate.on_step = lambda gate, sequence: setattr(gate, "refuse", "state: 0.2 s old" if sequence < 4 else "")
    lab.run()
    assert lab.gate.pose.distance(HOME) < 1e-5


def test_in_a_dry_run_nothing_moves_and_people_may_rehearse(lab: Lab) -> None:
    lab.store()
    lab.gate.dry_run = True
    assert lab.run() > lab.confirmed
    assert not lab.gate.moves and "dry run" in lab.gate.lines[0]


def test_in_a_dry_run_a_ghost_goes_home(lab: Lab) -> None:
    lab.store()
    lab.gate.dry_run = lab.gate.follows = True
    lab.run()
    assert lab.gate.pose.distance(HOME) < 1e-5 and lab.gate.back == 1


def test_a_gripper_that_does_not_open(lab: Lab) -> None:
    lab.store()
    lab.gate.width = -1.0
    assert lab.fails().startswith("homing given up: the gripper did not open")
    assert all(move[:6] == (0,) * 6 for move in lab.gate.moves)


def test_a_gripper_that_is_no_longer_heard_does_not_pass_for_open(lab: Lab) -> None:
    lab.store()
    lab.gate.width = topics.GRIPPER_STROKE

    def fall_silent(gate: StandInGate) -> None:
        gate.silent.add("width")
        gate.time += 2.0

    lab.gate.on_step = at_step(0, fall_silent)  # type: ignore[assignment]
    assert lab.fails().startswith("homing given up: the gripper did not open")


def test_an_arm_that_lags_so_far_that_the_gate_starts_anew_arrives(lab: Lab) -> None:
    lab.store()
    # a third of the way of a step a step, and the gate's reference is never more than 3 cm ahead
    lab.gate.reach, lab.gate.gap = 0.0033, 0.03
    lab.run()
    assert lab.gate.pose.distance(HOME) <= HOMING.tolerance
    way = [a.distance(b) for a, b in zip(lab.gate.path, lab.gate.path[1:], strict=False)]
    assert max(way) <= 0.0033 + 1e-9


def test_an_arm_that_falls_behind_at_the_end_is_fetched(lab: Lab) -> None:
    lab.store()
    lab.gate.gap = 0.03
    pushed: list[int] = []

    def push(gate: StandInGate, sequence: int) -> None:
        if not pushed and gate.pose.distance(HOME) < 0.015:
            pushed.append(sequence)
            gate.reach = 0.0
            gate.pose = Pose(HOME.position + np.array([0.0, 0.025, 0.0]), DOWN)
        elif pushed and sequence == pushed[0] + 3:  # home is the target by now
            gate.reach = 1.0
            gate.pose = Pose(HOME.position + np.array([0.0, 0.05, 0.0]), DOWN)

    lab.gate.on_step = push
    lab.run()
    assert pushed and lab.gate.pose.distance(HOME) <= HOMING.tolerance


def test_an_arm_that_does_not_arrive(tmp_path: Path) -> None:
    lab = Lab(tmp_path, homing_deadline=20.0)
    stuck = Pose(START.position, DOWN)
    lab.gate.on_wait = lambda gate: setattr(gate, "pose", stuck)
    assert lab.fails() == "homing given up: not home after 20 s"


def test_an_arm_that_is_moved_while_people_lay_out(lab: Lab) -> None:
    lab.store()
    watch = lab.gate.on_wait

    def push(gate: StandInGate) -> None:
        if gate.desk.awaited is not None:
            gate.pose = Pose(HOME.position + np.array([0.0, 0.05, 0.0]), DOWN)
        watch(gate)

    lab.gate.on_wait = push
    assert lab.fails() == "the arm was moved after it came home: it is 0.050 m away"


def test_the_dead_mans_switch_is_asked_for_and_waited_for(lab: Lab) -> None:
    lab.store()
    gate = lab.gate
    gate.required, gate.held = True, False
    watch, asked = gate.on_wait, []

    def person(gate: StandInGate) -> None:
        if gate.lines and gate.lines[-1].startswith("hold"):
            asked.append(len(gate.moves))
            gate.held = True
        elif gate.desk.awaited is not None:
            gate.held = False  # both hands are needed for the scene
        watch(gate)

    gate.on_wait = person
    lab.run()
    assert gate.lines[0] == "hold the dead-man's switch: the arm goes home" and asked[0] == 0
    assert gate.lines[-1] == "hold the dead-man's switch: the episode begins" and gate.back == 1


def test_nobody_holds_the_dead_mans_switch(lab: Lab) -> None:
    lab.store()
    lab.gate.required, lab.gate.held = True, False
    assert lab.fails() == "nobody held the dead-man's switch for 600 s"
    assert not lab.gate.moves


def test_the_observation_is_one_after_the_word(lab: Lab) -> None:
    lab.store()
    before = lab.gate.now()
    stamp = lab.run()
    assert before < lab.confirmed < stamp <= lab.gate.now() and stamp - lab.confirmed < 20 * SECOND


def test_an_arm_that_the_gate_does_not_take_back(lab: Lab) -> None:
    lab.store()
    lab.gate.hand_back = lambda sequence: None  # type: ignore[method-assign]
    assert "did not take the arm back within 5 s" in lab.fails()


def test_a_ticket_that_is_over_begins_nothing(lab: Lab) -> None:
    lab.store()
    old = lab.gate.desk.ask()
    lab.gate.desk.ask()
    with pytest.raises(ResetFailed, match=SUPERSEDED):
        lab.reset.run(WANTED, old)
    assert not lab.gate.moves


def test_two_resets_count_their_steps_up(lab: Lab) -> None:
    lab.store()
    numbers: list[int] = []
    lab.gate.on_step = lambda gate, sequence: numbers.append(sequence)
    lab.run()
    lab.words = [("carrot", 7)]
    lab.run()
    assert numbers == sorted(set(numbers)) and numbers[0] == 0
