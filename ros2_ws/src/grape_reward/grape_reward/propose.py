"""A cost program proposed by a vision-language model: asked for, taken out of the answer, checked, sent back with what
the compiler refuses, kept once it compiles. It scores nothing before a person has approved it (``approvals``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from grape_reward import prompts
from grape_reward.errors import ProgramError, RewardError
from grape_reward.extract import ExtractError, program_text
from grape_reward.files import write_whole
from grape_reward.printable import one_line
from grape_reward.scene import Scene, SceneError, read_scene
from grape_reward.transcript import Transcript
from grape_reward.vlm import Answer
from grape_reward.vlm_messages import Endpoint, Image, Message, VlmError

PROGRAM, PROPOSAL, TRANSCRIPT = "program.txt", "proposal.json", "transcript.json"
NEEDS = {"safety": "collision", "efficiency": "path"}
"""An objective scales the constraints of its kind: without any, it would ask for nothing."""
_TRIED_OBSTACLES = 3
_MAX_PROGRAM, _MAX_ECHO = 64 << 10, 16 << 10
_T = TypeVar("_T")


class ProposalError(RewardError):
    """No usable proposal: the rounds are over, or the folder holds one already."""


class FindingsError(RewardError):
    """An answer that cannot be used. ``findings``: one sentence for each thing that is wrong with it."""

    def __init__(self, findings: Sequence[str]) -> None:
        super().__init__("; ".join(findings))
        self.findings = tuple(findings)


@dataclass(frozen=True)
class Checked:
    """What the proposer needs to know of a program that compiles: its canonical ``hash``, and for each stage the kinds
    of its constraints."""

    hash: str
    kinds: tuple[frozenset[str], ...]


Check = Callable[[str, int], Checked]
"""(text, number of keypoints) -> Checked. Raises ProgramError for what does not compile."""


class Chat(Protocol):
    """Whoever answers: ``vlm.ChatClient``."""

    @property
    def endpoint(self) -> Endpoint: ...

    def ask(self, messages: Sequence[Message]) -> Answer: ...


@dataclass(frozen=True)
class ProposalRequest:
    """What a program is wanted for. ``stages`` and ``keypoints``: names that the task gives, empty for the model to
    choose. ``numbered``: how many numbered keypoints ``image`` shows; None for a plain image. ``up``: x, y or z.
    ``obstacles``: the task may have any number of further keypoints behind those that are named."""

    task: str
    instruction: str
    image: Image
    objective: str = "task_completion"
    stages: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()
    numbered: int | None = None
    up: str = "z"
    obstacles: bool = False

    def __post_init__(self) -> None:
        if not self.instruction.strip() or self.instruction != one_line(self.instruction, 500):
            raise ProposalError(f"instruction {one_line(self.instruction, 60)!r}: not one line of 1 to 500 characters")
        if self.numbered is not None and self.numbered < max(1, len(self.keypoints)):
            raise ProposalError(f"the image shows {self.numbered} keypoints, the task has {len(self.keypoints)}")

    @property
    def settled(self) -> bool:
        """Whether stages and keypoints are known, so that only the program is asked for."""
        return bool(self.stages and self.keypoints) and self.numbered is None

    def about(self) -> dict[str, object]:
        """For transcripts and the proposal's file: everything but the image's pixels."""
        told = {**asdict(self), "image": {"sha256": self.image.sha256}}
        told["image"] |= {"width": self.image.width, "height": self.image.height}
        return told


@dataclass(frozen=True)
class Proposal:
    """``program``: text that compiles to a program of canonical hash ``program_hash``. ``model``: who wrote it, in the
    endpoint's own words."""

    request: ProposalRequest
    scene: Scene
    program: str
    program_hash: str
    endpoint: str
    model: str

    def to_json(self) -> str:
        told = {
            "program_hash": self.program_hash,
            "endpoint": self.endpoint,
            "model": self.model,
            "scene": asdict(self.scene),
            "request": self.request.about(),
        }
        return json.dumps(told, indent=1) + "\n"


def propose(
    request: ProposalRequest, chat: Chat, check: Check, functions: Sequence[str], rounds: int, transcript: Transcript
) -> Proposal:
    """Ask for stages and keypoints where the task does not give them, then for the cost program, ``rounds`` answers
    each at most. ``functions``: names that a program may call, for the prompt. ``transcript`` is added to as it goes.

    Raises ProposalError when no round brought a usable answer; VlmError from the chat."""
    system = Message("system", prompts.SYSTEM)
    if request.settled:
        scene = Scene(request.stages, request.keypoints)
    else:
        given = (request.stages, request.keypoints, request.numbered)
        asked = prompts.scene_prompt(request.instruction, request.objective, *given)
        messages = [system, Message("user", asked, (request.image,))]
        scene, _ = _ask_until(
            chat, transcript, "scene", messages, rounds, lambda text: read_scene(text, *given), "one JSON object"
        )
    asked = prompts.cost_prompt(
        request.instruction,
        request.objective,
        scene.stages,
        scene.keypoints,
        functions,
        request.up,
        request.obstacles,
    )
    messages = [system, Message("user", asked, (request.image,))]
    (text, program_hash), model = _ask_until(
        chat,
        transcript,
        "costs",
        messages,
        rounds,
        lambda answer: _checked(answer, scene, request, check),
        "the whole program in one Python code block",
    )
    return Proposal(request, scene, text, program_hash, chat.endpoint.host, model)


def propose_into(
    folder: Path, request: ProposalRequest, chat: Chat, check: Check, functions: Sequence[str], rounds: int = 3
) -> Proposal:
    """``propose``, and write program, proposal and transcript into ``folder``; the transcript also when it fails.

    Raises what ``propose`` raises, and ProposalError naming a folder that holds a proposal already."""
    if rounds < 1:
        raise ProposalError(f"rounds is {rounds}, expected 1 or more")
    if (folder / PROGRAM).exists():
        raise ProposalError(f"{folder / PROGRAM}: there is a proposal already, choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProposalError(f"{folder}: {error.strerror or error}") from None
    transcript = Transcript(chat.endpoint.host, {**request.about(), "rounds": rounds})
    try:
        proposal = propose(request, chat, check, functions, rounds, transcript)
    finally:
        transcript.write(_free(folder / TRANSCRIPT))
    write_whole(folder / PROPOSAL, proposal.to_json())
    write_whole(folder / PROGRAM, proposal.program)
    return proposal


def _ask_until(
    chat: Chat,
    transcript: Transcript,
    subject: str,
    messages: list[Message],
    rounds: int,
    read: Callable[[str], _T],
    wanted: str,
) -> tuple[_T, str]:
    new: Sequence[Message] = messages
    for number in range(1, rounds + 1):
        one = transcript.open(subject, number, new)
        try:
            answer = chat.ask(messages)
        except VlmError as error:
            one.error = str(error)
            raise
        one.question, one.model, one.cached, one.answer = answer.question, answer.model, answer.cached, answer.text
        try:
            return read(answer.text), answer.model
        except RewardError as error:
            # The model's own words come back in some findings: what a terminal would obey must not.
            told = error.findings if isinstance(error, (FindingsError, SceneError)) else (str(error),)
            one.findings = [one_line(finding, 500) for finding in told]
        if number == rounds:
            said = "" if "```" in answer.text else f" It said: {one_line(answer.text, 120)!r}"
            raise ProposalError(
                f"{chat.endpoint.host}: no usable {subject} in {rounds} rounds; last: {one.findings[0]}{said}"
            )
        new = [
            Message("assistant", answer.text[:_MAX_ECHO]),
            Message("user", prompts.repair_prompt(one.findings, wanted)),
        ]
        messages = [*messages, *new]
    raise ProposalError(f"rounds is {rounds}, expected 1 or more")


def _checked(answer: str, scene: Scene, request: ProposalRequest, check: Check) -> tuple[str, str]:
    text = program_text(answer)
    if len(text) > _MAX_PROGRAM:
        raise ExtractError(f"the program is {len(text)} characters long, {_MAX_PROGRAM} are allowed")
    try:
        program = check(text, len(scene.keypoints))
        if request.obstacles:
            check(text, len(scene.keypoints) + _TRIED_OBSTACLES)
    except ProgramError as error:
        raise FindingsError(_quoted(error, text)) from None
    findings = []
    if len(program.kinds) != len(scene.stages):
        findings.append(f"num_stages is {len(program.kinds)}, the task has {len(scene.stages)} stages")
    needed = NEEDS.get(request.objective)
    if needed is not None and not any(needed in kinds for kinds in program.kinds):
        findings.append(f"the objective {request.objective} needs at least one {needed} constraint")
    if findings:
        raise FindingsError(findings)
    return text, program.hash


def _quoted(error: ProgramError, text: str) -> list[str]:
    """The compiler's refusals, each with the line it speaks of: a model counts lines badly."""
    lines = text.splitlines()
    findings = []
    for found in error.findings:
        line = lines[found.line - 1].strip() if 0 < found.line <= len(lines) else ""
        findings.append(f"line {found.line}, column {found.column}: {found.message} (the line reads: {line[:100]})")
    return findings


def _free(path: Path) -> Path:
    """``path``, or the first of ``NAME_2``, ``NAME_3``, ... that is free: an earlier attempt's transcript stays."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free
