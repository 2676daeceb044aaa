"""`grape costs propose`, `approve` and `revoke`: a program from a vision-language model, and a person's word on it."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from grape.console import CommandError, console, errors
from grape.costs_cli import Keypoints, refuse
from grape.paths import root

CACHE = root() / "runs" / "vlm_cache"
Who = Annotated[str, typer.Option("--who", help="Who says so. Default: the user's name on this machine.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="The task's folder, which holds approvals.yaml. Default: the program's.")
]


def register(app: typer.Typer) -> None:
    """Put the commands into the sub-command ``costs``."""
    app.command("propose")(propose)
    app.command("approve")(approve)
    app.command("revoke")(revoke)


def propose(
    image: Annotated[Path, typer.Option(help="PNG or JPEG of the scene; with --keypoints the numbered overlay.")],
    out: Annotated[Path, typer.Option(help="New folder for program, proposal and transcript.")],
    task: Annotated[str, typer.Option(help="A shipped task, or the folder of one: gives all but the image.")] = "",
    instruction: Annotated[str, typer.Option(help="What the robot should do, for a task that is not known.")] = "",
    objective: Annotated[str, typer.Option(help="Alignment objective, in a word.")] = "task_completion",
    keypoints: Annotated[
        int | None, typer.Option(min=1, max=64, help="The image shows so many keypoints, numbered from 0.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Answers to a question until one is usable.")] = 3,
    cache: Annotated[Path, typer.Option(help="Folder of earlier answers.")] = CACHE,
    fresh: Annotated[bool, typer.Option(help="Ask even what was answered earlier.")] = False,
) -> None:
    """Let a vision-language model write a cost program; kept once it compiles, used once a person approves it.

    The endpoint: GRAPE_VLM_BASE_URL, GRAPE_VLM_MODEL and GRAPE_VLM_API_KEY. The image is sent there."""
    from grape_reward.cache import Cache
    from grape_reward.proposal_check import allowed_functions, compile_check
    from grape_reward.propose import PROGRAM, ProposalRequest, propose_into
    from grape_reward.task_file import load_task
    from grape_reward.tasks import task_named
    from grape_reward.vlm import ChatClient
    from grape_reward.vlm_messages import Endpoint, read_image

    if not task and not instruction:
        raise CommandError("--task NAME or --instruction TEXT is needed")
    known = None if instruction else load_task(Path(task)) if Path(task).exists() else task_named(task)
    request = ProposalRequest(
        task=known.name if known else task,
        instruction=known.instruction if known else instruction,
        image=read_image(image),
        objective=objective,
        stages=known.stages if known else (),
        keypoints=known.keypoints if known else (),
        numbered=keypoints,
        up=known.up if known else "z",
        obstacles=known.obstacles if known else False,
    )
    chat = ChatClient(Endpoint.from_environment(), _say, Cache(cache), fresh)
    made = propose_into(out, request, chat, compile_check, allowed_functions(), rounds)
    names = ", ".join(f"{index} {name}" for index, name in enumerate(made.scene.keypoints))
    console.print(f"stages: {'; '.join(made.scene.stages)}\nkeypoints: {names}", markup=False)
    console.print(f"{out / PROGRAM}: compiles, hash {made.program_hash}", markup=False, soft_wrap=True)
    console.print(
        f"It scores nothing yet. Read it, then: grape costs approve {out / PROGRAM} --note ...",
        markup=False,
        soft_wrap=True,
    )


def approve(
    file: Annotated[Path, typer.Argument(help="The cost program.")],
    note: Annotated[str, typer.Option(help="What was looked at, for whoever asks later.")],
    who: Who = "",
    folder: Folder = None,
    keypoints: Keypoints = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Approve a cost program, after showing it: its hash goes into approvals.yaml beside it, with name and time."""
    from grape_reward import approvals
    from grape_reward.printable import shown

    text, program_hash = _read(file, keypoints)
    where = folder or file.parent
    if not note.strip():
        raise CommandError("--note: say what was looked at")
    print("".join(f"{number:4d}  {line}\n" for number, line in enumerate(shown(text).split("\n"), 1)))
    print(f"{file}: hash {program_hash} (comments and layout do not enter)")
    standing = approvals.approved(where, program_hash)
    if standing is not None:
        print(approvals.Clearance(program_hash, standing))
    if not yes and not _confirmed(f"Approve it in {where / approvals.APPROVALS}?"):
        raise CommandError(f"{file}: not approved")
    entry = approvals.approve(where, program_hash, who or getpass.getuser(), note)
    print(approvals.Clearance(program_hash, entry))


def revoke(
    program: Annotated[str, typer.Argument(help="The cost program, or its hash together with --folder.")],
    note: Annotated[str, typer.Option(help="Why, for whoever asks later.")],
    who: Who = "",
    folder: Folder = None,
) -> None:
    """Withdraw the approval of a cost program; the entry that approved it stays in approvals.yaml."""
    from grape_reward import approvals

    file = Path(program)
    if file.exists() or folder is None:
        program_hash, where = _read(file, None)[1], folder or file.parent
    else:
        named = {entry.program for entry in approvals.read_approvals(folder) if entry.program.startswith(program)}
        if len(named) != 1 or len(program) < 8:
            raise CommandError(f"{folder / approvals.APPROVALS}: {len(named)} programs begin with {program!r}")
        program_hash, where = named.pop(), folder
    entry = approvals.revoke(where, program_hash, who or getpass.getuser(), note)
    print(f"cost program {program_hash[:12]}: approval revoked by {entry.who} on {entry.when}")


def _read(file: Path, keypoints: int | None) -> tuple[str, str]:
    from grape_reward.errors import ProgramError
    from grape_reward.proposal_check import read_program

    try:
        return read_program(file, keypoints)
    except ProgramError as error:
        refuse(error)


def _say(line: str) -> None:
    errors.print(line, markup=False, soft_wrap=True)


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False
