"""The whole way of a proposal, from a picture to a program that a person may approve, against an endpoint on loopback
that answers well, badly, or with malice."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from grape_reward.approvals import NotApprovedError, approve, clear_to_score
from grape_reward.cache import Cache
from grape_reward.program.compiler import compile_program
from grape_reward.proposal_check import allowed_functions, compile_check, read_program
from grape_reward.propose import Proposal, ProposalError, ProposalRequest, propose_into
from grape_reward.vlm import ChatClient, ClientSettings, Clock, VlmRefusal, VlmStatusError
from grape_reward.vlm_http import VlmTimeout
from grape_reward.vlm_messages import Endpoint, Image
from grape_reward.vlm_testing import KEY, Asked, Scripted, ScriptedEndpoint, completion, failure

pytest.importorskip("openai", reason="the openai package is not installed")

GOOD = '''# put the carrot on the plate
num_stages = 2

### stage 1: grasp the carrot
def stage1_target_constraint1(end_effector, keypoints):
    """Reach the carrot."""
    return np.linalg.norm(end_effector - keypoints[0])

def stage1_collision_constraint1(end_effector, keypoints):
    """Keep clear of what stands around."""
    return sum(max(0, 0.1 - np.linalg.norm(end_effector - o)) for o in keypoints[2:])

### stage 2: move the carrot to the plate
def stage2_target_constraint1(end_effector, keypoints):
    """Bring the carrot to the plate."""
    return np.linalg.norm(keypoints[0] - keypoints[1])
'''
STAGES, KEYPOINTS = ("grasp the carrot", "move the carrot to the plate"), ("carrot", "plate")
SCENE = {
    "keypoints": [{"name": "carrot", "number": 4}, {"name": "plate", "number": 0}, {"name": "cup", "number": 2}],
    "stages": [{"name": STAGES[0], "ends_at": "carrot"}, {"name": STAGES[1], "ends_at": "plate"}],
}


def picture() -> Image:
    buffer = BytesIO()
    Pillow.new("RGB", (8, 6), (90, 60, 30)).save(buffer, "PNG")
    return Image(buffer.getvalue(), "image/png", 8, 6)


def code(text: str) -> Scripted:
    return completion(f"```python\n{text}```")


def scene(**changes: Any) -> Scripted:
    return completion(f"```json\n{json.dumps({**SCENE, **changes})}\n```")


def run(
    folder: Path, answers: Sequence[Scripted], rounds: int = 3, timeout_s: float = 30.0, **request: Any
) -> tuple[Any, list[Asked]]:
    """(what propose_into returns or raises, the requests that were made)."""
    told = {"task": "carrot", "instruction": "put the carrot on the plate", "image": picture(), **request}
    told = {"stages": STAGES, "keypoints": KEYPOINTS, **told}
    with ScriptedEndpoint(answers) as server:
        clock = Clock(sleep=lambda seconds: None)
        endpoint = Endpoint.from_environment(server.environment)
        chat = ChatClient(endpoint, lambda line: None, settings=ClientSettings(timeout_s=timeout_s), clock=clock)
        try:
            result: Any = propose_into(
                folder, ProposalRequest(**told), chat, compile_check, allowed_functions(), rounds
            )
        except Exception as error:
            result = error
        asked = server.asked
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY not in path.read_text()
    return result, asked


def transcript(folder: Path, name: str = "transcript.json") -> list[dict[str, Any]]:
    return json.loads((folder / name).read_text())["rounds"]


def nothing_but_a_transcript(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == ["transcript.json"]


def test_a_good_answer_is_a_proposal_which_scores_once_it_is_approved(tmp_path: Path) -> None:
    made, asked = run(tmp_path, [code(GOOD)])
    assert isinstance(made, Proposal) and made.program == GOOD and made.model == "scripted-1"
    assert len(asked) == 1 and "keypoints[1]: plate" in asked[0].text and "np.linalg.norm" in asked[0].text
    assert asked[0].body["messages"][1]["content"][1]["image_url"]["url"] == picture().data_url
    text, program_hash = read_program(tmp_path / "program.txt", 2)
    assert (text, program_hash) == (GOOD, made.program_hash)
    with pytest.raises(NotApprovedError):
        clear_to_score([tmp_path], program_hash)
    approve(tmp_path, program_hash, "ana", "read it")
    assert clear_to_score([tmp_path], program_hash).approved
    told = json.loads((tmp_path / "proposal.json").read_text())
    assert told["program_hash"] == program_hash and told["scene"]["keypoints"] == list(KEYPOINTS)
    (one,) = transcript(tmp_path)
    assert one["answer"].startswith("```python") and one["findings"] == [] and one["sent"][1]["images"][0]["sha256"]


@pytest.mark.parametrize(
    "answer",
    [
        f"Certainly! This is my program:\n\n```python\n{GOOD}```\n\nIt has 2 stages. Try:\n```bash\npython it.py\n```",
        "```python\n{}```\nand then\n```python\n{}```".format(
            *GOOD.split("### stage 2: move the carrot to the plate\n")
        ),
        GOOD,
    ],
    ids=["prose", "two blocks", "no fence"],
)
def test_a_program_is_found_in_what_is_said_around_it(tmp_path: Path, answer: str) -> None:
    made, asked = run(tmp_path, [completion(answer)])
    assert isinstance(made, Proposal), made
    assert made.program_hash == compile_program(GOOD, "good.txt", 2).hash and len(asked) == 1


def test_wrong_code_goes_back_with_the_compilers_words_and_comes_back_right(tmp_path: Path) -> None:
    loop = "    total = 0\n    for o in keypoints:\n        total += 1\n    return total\n"
    wrong = GOOD.replace("    return np.linalg.norm(keypoints[0] - keypoints[1])\n", loop).replace(
        "keypoints[2:]", "keypoints[7]"
    )
    made, asked = run(tmp_path, [code(wrong), code(GOOD)])
    assert isinstance(made, Proposal) and made.program == GOOD and len(asked) == 2
    first, second = transcript(tmp_path)
    assert any("loops are not understood" in finding for finding in first["findings"])
    assert any("for o in keypoints:" in finding and "line 1" in finding for finding in first["findings"])
    messages = asked[1].body["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == f"```python\n{wrong}```"
    for finding in first["findings"]:
        assert finding in messages[3]["content"]
    assert second["findings"] == [] and [m["role"] for m in second["sent"]] == ["assistant", "user"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("num_stages = 2", "num_stages = 3"), "stage 3"),
        (GOOD[: GOOD.index("### stage 2")].replace("num_stages = 2", "num_stages = 1"), "the task has 2 stages"),
        (GOOD.replace("keypoints[1]", "keypoints[5]"), "line 16"),
    ],
    ids=["stage missing", "too few stages", "keypoint out of range"],
)
def test_a_program_that_does_not_fit_the_task_goes_back(tmp_path: Path, text: str, words: str) -> None:
    made, _ = run(tmp_path, [code(text), code(GOOD)])
    assert isinstance(made, Proposal) and made.program == GOOD
    assert words in " ".join(transcript(tmp_path)[0]["findings"])


def test_an_objective_needs_the_constraints_that_it_weighs(tmp_path: Path) -> None:
    made, asked = run(tmp_path, [code(GOOD)] * 2, rounds=2, objective="efficiency")
    assert isinstance(made, ProposalError) and "at least one path constraint" in str(made)
    assert "little time" in asked[0].text
    made, _ = run(tmp_path / "safe", [code(GOOD)], objective="safety")
    assert isinstance(made, Proposal)


def test_a_task_with_obstacles_is_asked_and_checked_with_any_number_of_them(tmp_path: Path) -> None:
    two = "np.linalg.norm(keypoints - np.array([[0, 0, 0], [0, 0, 0]]))"  # makes sense without obstacles only
    wrong = GOOD.replace("np.linalg.norm(end_effector - keypoints[0])", two)
    slip = GOOD.replace("for o in keypoints[2:]", "for o in [keypoints[2]]")
    made, asked = run(tmp_path, [code(slip), code(wrong), code(GOOD)], obstacles=True)
    assert isinstance(made, Proposal) and made.program == GOOD
    assert "keypoints[2:]: obstacles, any number" in asked[0].text
    assert [len(one["findings"]) for one in transcript(tmp_path)] == [1, 1, 0]
    made, asked = run(tmp_path / "none", [code(wrong)])
    assert isinstance(made, Proposal) and "obstacles, any number" not in asked[0].text


def test_rounds_that_are_over_end_in_one_line_and_leave_a_transcript_only(tmp_path: Path) -> None:
    wrong = GOOD.replace("num_stages = 2", "import os\nnum_stages = 2")
    made, asked = run(tmp_path, [code(wrong)] * 9)
    assert isinstance(made, ProposalError) and "no usable costs in 3 rounds" in str(made) and "import" in str(made)
    assert "\n" not in str(made) and len(asked) == 3 and len(transcript(tmp_path)) == 3
    assert nothing_but_a_transcript(tmp_path)


def test_a_refusal_in_prose_is_asked_again_and_then_quoted(tmp_path: Path) -> None:
    made, asked = run(tmp_path, [completion("I'm sorry, I can't\nhelp with \x1b[2Jrobots.")] * 2, rounds=2)
    assert isinstance(made, ProposalError) and "I can't help with \\x1b[2Jrobots." in str(made).replace("\\\\", "\\")
    assert "\x1b" not in str(made) and "\n" not in str(made) and len(asked) == 2


def test_a_refusal_by_the_endpoint_is_final(tmp_path: Path) -> None:
    made, asked = run(tmp_path, [completion(None, refusal="I will not help with weapons.")])
    assert isinstance(made, VlmRefusal) and "I will not help with weapons" in str(made) and len(asked) == 1
    (one,) = transcript(tmp_path)
    assert "I will not help" in one["error"] and nothing_but_a_transcript(tmp_path)


def test_trouble_on_the_way_is_got_over(tmp_path: Path) -> None:
    answers = [failure(429, "slow down", retry_after="1"), failure(500, "oops"), code(GOOD)]
    made, asked = run(tmp_path, answers)
    assert isinstance(made, Proposal) and len(asked) == 3 and len(transcript(tmp_path)) == 1
    made, asked = run(tmp_path / "late", [Scripted(b"", stall=0), *[code(GOOD)] * 3], timeout_s=1.0)
    assert isinstance(made, Proposal) and len(asked) >= 2
    made, asked = run(tmp_path / "b", [Scripted(b'{"choices": ['), Scripted(b'{"choices": []}'), code(GOOD)])
    assert isinstance(made, Proposal) and len(asked) == 3


@pytest.mark.parametrize(
    ("answers", "kind", "words"),
    [
        ([Scripted(b"", stall=0)] * 4, VlmTimeout, "no answer within 0.5 s"),
        ([failure(401, f"bad key {KEY}")], VlmStatusError, "HTTP 401: bad key [key]"),
    ],
    ids=["silence", "wrong key"],
)
def test_trouble_that_stays_is_one_line_and_in_the_transcript(
    tmp_path: Path, answers: list[Scripted], kind: type[Exception], words: str
) -> None:
    made, _ = run(tmp_path, answers, timeout_s=0.5)
    assert isinstance(made, kind) and words in str(made) and "\n" not in str(made)
    assert words in transcript(tmp_path)[0]["error"] and nothing_but_a_transcript(tmp_path)


HOSTILE = {
    "import": "import os\nos.system('touch {mark}')\n" + GOOD,
    "call": GOOD.replace("np.linalg.norm(end_effector - keypoints[0])", "open('{mark}', 'w')"),
    "attributes": GOOD.replace("np.linalg.norm(end_effector - keypoints[0])", "np.save('{mark}', keypoints)"),
    "escape": GOOD.replace(
        "np.linalg.norm(end_effector - keypoints[0])",
        "().__class__.__base__.__subclasses__()[0].__init__.__globals__['open']('{mark}', 'w')",
    ),
    "default": GOOD.replace(
        "stage1_target_constraint1(end_effector, keypoints)",
        "stage1_target_constraint1(end_effector, keypoints=open('{mark}', 'w'))",
    ),
    "decorator": GOOD.replace("def stage2", "@open('{mark}', 'w')\ndef stage2"),
    "bomb": GOOD.replace("np.linalg.norm(end_effector - keypoints[0])", "9 ** 9 ** 9 ** 9"),
    "endless": GOOD.replace('    """Reach the carrot."""\n', "    while True: open('{mark}', 'w')\n"),
    "deep": GOOD.replace("np.linalg.norm(end_effector - keypoints[0])", "(" * 5000 + "1" + ")" * 5000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_program_is_refused_and_never_run(tmp_path: Path, kind: str) -> None:
    mark, folder = tmp_path / "mark", tmp_path / "out"
    made, asked = run(folder, [code(HOSTILE[kind].replace("{mark}", str(mark)))] * 3)
    assert isinstance(made, ProposalError) and "\n" not in str(made) and len(asked) == 3
    assert not mark.exists() and nothing_but_a_transcript(folder)
    assert all(one["findings"] for one in transcript(folder))


def test_stages_and_keypoints_are_asked_for_where_the_task_has_none(tmp_path: Path) -> None:
    made, asked = run(tmp_path, [scene(), code(GOOD)], stages=(), keypoints=(), numbered=5)
    assert isinstance(made, Proposal), made
    assert made.scene.keypoints == ("carrot", "plate", "cup") and made.scene.picked == (4, 0, 2)
    assert made.scene.stages == STAGES and made.scene.ends_at == (0, 1)
    assert "0 to 4" in asked[0].text and "keypoints[2]: cup" in asked[1].text
    assert [one["subject"] for one in transcript(tmp_path)] == ["scene", "costs"]
    assert json.loads((tmp_path / "proposal.json").read_text())["scene"]["picked"] == [4, 0, 2]


def test_a_number_that_the_image_does_not_show_goes_back(tmp_path: Path) -> None:
    outside = [{"name": "carrot", "number": 9}, {"name": "plate", "number": 0}]
    made, asked = run(tmp_path, [scene(keypoints=outside), scene(), code(GOOD)], keypoints=(), numbered=5)
    assert isinstance(made, Proposal) and made.scene.picked == (4, 0, 2)
    assert "number 9 is not in the image, 0 to 4 are" in asked[1].body["messages"][3]["content"]


def test_a_scene_that_stays_wrong_ends_before_any_program_is_asked_for(tmp_path: Path) -> None:
    made, asked = run(tmp_path, [completion("three stages, I would say")] * 3, stages=(), numbered=5)
    assert isinstance(made, ProposalError) and "no usable scene in 3 rounds" in str(made) and len(asked) == 3


def test_the_same_question_is_answered_from_the_cache(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    with ScriptedEndpoint([code("import os\n"), code(GOOD)]) as server:
        for folder in ("a", "b"):
            chat = ChatClient(Endpoint.from_environment(server.environment), lambda line: None, cache)
            request = ProposalRequest("t", "put the carrot on the plate", picture(), "safety", STAGES, KEYPOINTS)
            made = propose_into(tmp_path / folder, request, chat, compile_check, allowed_functions())
            assert made.program == GOOD
        assert len(server.asked) == 2
    assert [one["cached"] for one in transcript(tmp_path / "b")] == [True, True]


def test_a_proposal_is_not_written_over_and_an_earlier_transcript_stays(tmp_path: Path) -> None:
    run(tmp_path, [completion("no")], rounds=1)
    made, _ = run(tmp_path, [code(GOOD)])
    assert isinstance(made, Proposal)
    assert transcript(tmp_path)[0]["answer"] == "no" and len(transcript(tmp_path, "transcript_2.json")) == 1
    made, asked = run(tmp_path, [code(GOOD)])
    assert isinstance(made, ProposalError) and "already" in str(made) and asked == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"instruction": ""}, "instruction"),
        ({"instruction": "two\nlines"}, "instruction"),
        ({"instruction": "x" * 501}, "instruction"),
        ({"numbered": 1}, "shows 1 keypoints, the task has 2"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_anything_is_sent(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    made, asked = run(tmp_path, [code(GOOD)], **change)
    assert isinstance(made, ProposalError) and words in str(made) and asked == []


def test_a_very_long_program_is_not_even_parsed_and_not_sent_back_whole(tmp_path: Path) -> None:
    made, asked = run(tmp_path, [code(GOOD + "# x\n" * 20_000), code(GOOD)])
    assert isinstance(made, Proposal) and made.program == GOOD
    assert len(asked[1].body["messages"][2]["content"]) <= 16 << 10
