"""What a model is asked holds all that it needs to know, and asks for what is read."""

import pytest

from grape_reward.extract import json_object, program_text
from grape_reward.program.compiler import compile_program
from grape_reward.prompts import cost_prompt, repair_prompt, scene_prompt
from grape_reward.proposal_check import allowed_functions
from grape_reward.scene import read_scene

STAGES, KEYPOINTS = ("grasp the cup", "lift the cup"), ("cup", "table", "vase")


def test_the_costs_are_asked_for_with_stages_keypoints_axis_and_the_compilers_functions() -> None:
    asked = cost_prompt("lift the cup", "safety", STAGES, KEYPOINTS, allowed_functions(), up="y")
    assert 'task: "lift the cup"' in asked and "num_stages = 2" in asked
    assert "  2. lift the cup" in asked and "keypoints[2]: vase" in asked
    assert "Index 1 (y) points up" in asked and "collision constraints" in asked
    for name in ("np.linalg.norm", "np.clip", "max", "np.pi"):
        assert name in asked
    for kind in ("target", "path", "collision", "grasp"):
        assert f"- {kind}:" in asked


def test_an_objective_of_ones_own_is_named_as_it_is() -> None:
    assert "Objective: keep upright." in cost_prompt("lift", "keep_upright", STAGES, KEYPOINTS, ())


def test_the_costs_example_becomes_a_program_once_its_blanks_are_filled() -> None:
    asked = cost_prompt("lift the cup", "safety", ("lift",), KEYPOINTS, allowed_functions())
    text = program_text(asked).replace("    ...\n", "    cost = np.linalg.norm(end_effector - keypoints[0])\n")
    assert len(compile_program(text, "example.txt", 3).stages) == 1


def test_the_scenes_example_is_of_the_form_that_is_read() -> None:
    for numbered, number in ((9, ', "number": 3'), (None, "")):
        asked = scene_prompt("lift the cup", "safety", (), (), numbered)
        text = asked.replace(', "number": <the number drawn at it>', number).replace("}, ...]", "}]")
        scene = read_scene(str(json_object(text)).replace("'", '"'), (), (), numbered)
        assert scene.keypoints == ("carrot",) and scene.ends_at == (0,) and scene.picked == ((3,) if number else ())


@pytest.mark.parametrize("numbered", [None, 9])
def test_what_is_given_is_said_and_what_is_not_is_asked(numbered: int | None) -> None:
    asked = scene_prompt("lift", "safety", STAGES, KEYPOINTS, numbered)
    assert "grasp the cup; lift the cup" in asked and "cup, table, vase" in asked and "Split the task" not in asked
    assert ("0 to 8" in asked) == (numbered is not None) == ('"number"' in asked)


def test_what_was_wrong_is_sent_back_with_what_is_wanted() -> None:
    text = repair_prompt(["line 3: no loops", "line 9: no import"], "one JSON object")
    assert "- line 3: no loops\n- line 9: no import\n" in text and "answer with one JSON object" in text
