"""Who has approved which cost program: an append-only file beside the task, and the decision it stands for.

``approvals.yaml`` is a list; the last entry of a program decides. The programs that ship with this package are
approved by such a file in each task's folder; its entries say that they ship, not that somebody read."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from grape_reward.errors import RewardError
from grape_reward.files import read_bounded, write_whole
from grape_reward.printable import one_line
from grape_reward.yaml_file import UniqueLoader

APPROVALS = "approvals.yaml"
_MAX_BYTES = 4 << 20
_HEADER = "# Approvals of cost programs, oldest first. Append only: the last entry of a program decides.\n"


class ApprovalError(RewardError):
    """An approvals file that cannot be used, or an entry that cannot be made; the text begins with the file."""


class NotApprovedError(RewardError):
    """A cost program that nobody has approved, or whose approval was revoked."""


class Approval(BaseModel):
    """One entry. ``program``: the program's canonical hash, sha256 hex. ``when``: ISO 8601, UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["approve", "revoke"]
    program: str
    who: str = Field(min_length=1, max_length=200)
    when: str
    note: str = Field(max_length=2000)

    @field_validator("program")
    @classmethod
    def _hash(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise ValueError("not a sha256 in 64 small hexadecimal digits")
        return value

    @field_validator("when")
    @classmethod
    def _time(cls, value: str) -> str:
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value):
            raise ValueError("not like 2026-01-31T12:00:00Z")
        datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ")
        return value

    @field_validator("who")
    @classmethod
    def _somebody(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("names nobody")
        return value


_ENTRIES = TypeAdapter(list[Approval])


class _Loader(UniqueLoader):
    """Times stay text, as they were written."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Clearance:
    """Whether a program may score, and on whose word. ``approval`` None: nobody's, scored on ``--unapproved``."""

    program: str
    approval: Approval | None

    @property
    def approved(self) -> bool:
        return self.approval is not None

    def __str__(self) -> str:
        if self.approval is None:
            return f"cost program {self.program[:12]} is NOT approved"
        return f"cost program {self.program[:12]} approved by {one_line(self.approval.who)} on {self.approval.when}"


def read_approvals(folder: Path) -> tuple[Approval, ...]:
    """The entries of ``folder/approvals.yaml``, oldest first; none where there is no file.

    Raises ApprovalError naming file, entry and field of what is not as it should be."""
    return _parse(folder / APPROVALS, _bytes(folder / APPROVALS))


def approved(folder: Path, program_hash: str) -> Approval | None:
    """The approval in force of the program of this canonical hash, or None: none was given, or it was revoked.

    Raises ApprovalError for a file that cannot be read: a damaged file approves nothing."""
    return _in_force(read_approvals(folder), program_hash)


def clear_to_score(folders: Sequence[Path], program_hash: str, unapproved: bool = False, name: str = "") -> Clearance:
    """The one decision whether a program may score. ``folders``: where its approval may lie (its task's folder).
    ``unapproved``: a person's word to score it all the same; the clearance, and with it the score, then says so.

    Raises NotApprovedError naming the program and the command that approves it; ApprovalError."""
    for folder in folders:
        approval = approved(folder, program_hash)
        if approval is not None:
            return Clearance(program_hash, approval)
    if unapproved:
        return Clearance(program_hash, None)
    who = f"{name}: " if name else ""
    raise NotApprovedError(
        f"{who}cost program {program_hash[:12]} is not approved in {', '.join(map(str, folders)) or 'any folder'}: "
        "read it, then `grape costs approve FILE --note ...`, or score with --unapproved"
    )


def approve(folder: Path, program_hash: str, who: str, note: str, when: datetime | None = None) -> Approval:
    """Append an approval to ``folder/approvals.yaml``. Raises ApprovalError."""
    return _append(folder, "approve", program_hash, who, note, when)


def revoke(folder: Path, program_hash: str, who: str, note: str, when: datetime | None = None) -> Approval:
    """Append the withdrawal of an approval. Raises ApprovalError where none is in force."""
    return _append(folder, "revoke", program_hash, who, note, when)


def _in_force(entries: Sequence[Approval], program_hash: str) -> Approval | None:
    last = next((entry for entry in reversed(entries) if entry.program == program_hash), None)
    return last if last is not None and last.action == "approve" else None


def _append(
    folder: Path, action: Literal["approve", "revoke"], program: str, who: str, note: str, when: datetime | None
) -> Approval:
    path = folder / APPROVALS
    moment = (when or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        entry = Approval(action=action, program=program, who=who, when=moment, note=note)
    except ValidationError as error:
        raise ApprovalError(f"{path}: {_first(error)}") from None
    if not folder.is_dir():
        raise ApprovalError(f"{folder}: no such folder")
    with _locked(folder):
        old = _bytes(path)
        entries = _parse(path, old)
        if action == "revoke" and _in_force(entries, program) is None:
            raise ApprovalError(f"{path}: no approval of {program[:12]} is in force")
        text = yaml.safe_dump([entry.model_dump()], sort_keys=False, allow_unicode=True, width=1000)
        # What people wrote into the file stays as they wrote it: the entry goes behind it, byte for byte.
        new = (old if entries or old.strip() else _HEADER.encode()).rstrip(b"\n") + b"\n" + text.encode()
        if _parse(path, new) != (*entries, entry):
            raise ApprovalError(f"{path}: not a list at the left margin, an entry cannot be appended")
        try:
            write_whole(path, new)
        except OSError as error:
            raise ApprovalError(f"{path}: {error.strerror or error}") from None
    return entry


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two people who approve at the same time both get their entry. The folder is locked: the file is replaced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _bytes(path: Path) -> bytes:
    return read_bounded(path, _MAX_BYTES, ApprovalError, empty=(FileNotFoundError,))


def _parse(path: Path, data: bytes) -> tuple[Approval, ...]:
    try:
        listed: Any = yaml.load(data.decode("utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise ApprovalError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: `!!int abc`
        raise ApprovalError(f"{path}: {one_line(str(error))}") from None
    try:
        return tuple(_ENTRIES.validate_python(listed or []))
    except ValidationError as error:
        raise ApprovalError(f"{path}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    told = error.errors()[0]
    where = [f"entry {part + 1}" if isinstance(part, int) else str(part) for part in told["loc"]]
    return f"{', '.join(where)}: {one_line(told['msg'])}" if where else one_line(told["msg"])
