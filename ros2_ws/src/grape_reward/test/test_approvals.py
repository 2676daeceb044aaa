"""Approvals: an append-only file that people may read and write, and the one decision it stands for."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml

from grape_reward.approvals import (
    APPROVALS,
    Approval,
    ApprovalError,
    NotApprovedError,
    approve,
    approved,
    clear_to_score,
    read_approvals,
    revoke,
)
from grape_reward.program.shipped import shipped_names, shipped_path, shipped_program

A, B, DIGITS = "a" * 64, "b" * 64, "1" * 64
NOON = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def test_what_is_approved_is_found_and_nothing_else(tmp_path: Path) -> None:
    assert approved(tmp_path, A) is None
    entry = approve(tmp_path, A, "ana", "read line by line", NOON)
    assert entry == Approval(action="approve", program=A, who="ana", when="2026-01-31T12:00:00Z", note=entry.note)
    assert approved(tmp_path, A) == entry and approved(tmp_path, B) is None


def test_the_last_entry_of_a_program_decides_and_none_is_lost(tmp_path: Path) -> None:
    first = approve(tmp_path, A, "ana", "fine")
    approve(tmp_path, B, "ben", "fine too")
    revoke(tmp_path, A, "ben", "stage 2 is wrong")
    assert approved(tmp_path, A) is None and approved(tmp_path, B) is not None
    again = approve(tmp_path, A, "ana", "no, it is right")
    assert approved(tmp_path, A) == again
    entries = read_approvals(tmp_path)
    assert [(e.action, e.program[0], e.who) for e in entries] == [
        ("approve", "a", "ana"),
        ("approve", "b", "ben"),
        ("revoke", "a", "ben"),
        ("approve", "a", "ana"),
    ]
    assert entries[0] == first


def test_what_people_wrote_into_the_file_stays_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / APPROVALS
    entry = f"{{action: approve, program: {A}, who: ana, when: 2026-01-31T12:00:00Z, note: ''}}"
    old = f"# our lab's rules: two readers\n- {entry}"
    path.write_text(old)
    approve(tmp_path, B, "ben", "fine")
    assert path.read_text().startswith(old + "\n")
    assert [entry.program for entry in read_approvals(tmp_path)] == [A, B]


def test_a_list_that_cannot_be_appended_to_is_said_so_and_kept(tmp_path: Path) -> None:
    path = tmp_path / APPROVALS
    old = f"[{{action: approve, program: {A}, who: ana, when: 2026-01-31T12:00:00Z, note: ''}}]\n"
    path.write_text(old)
    with pytest.raises(ApprovalError, match=APPROVALS):
        approve(tmp_path, B, "ben", "fine")
    assert path.read_text() == old and approved(tmp_path, A) is not None


def test_times_are_utc_and_awkward_texts_come_back(tmp_path: Path) -> None:
    west = NOON.astimezone(timezone(timedelta(hours=-8)))
    notes = ["", "yes", "2026-01-31", "- a: b # c", "two\nlines", "ünïcode 桌", "'\"", "\x1b[2J", "null"]
    for note in notes:
        assert approve(tmp_path, DIGITS, "ana: b", note, west).when == "2026-01-31T12:00:00Z"
    assert [entry.note for entry in read_approvals(tmp_path)] == notes
    assert "\x1b" not in (tmp_path / APPROVALS).read_text()


def test_people_who_approve_at_the_same_time_all_get_their_entries(tmp_path: Path) -> None:
    # Each call opens the folder anew, so that its lock keeps threads apart as it does processes.
    together = threading.Barrier(3)

    def often(who: str) -> None:
        together.wait(30)
        for _ in range(10):
            approve(tmp_path, A, who, "")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(often, ("ana", "ben", "cleo")))
    assert sorted(entry.who for entry in read_approvals(tmp_path)) == ["ana"] * 10 + ["ben"] * 10 + ["cleo"] * 10
    assert [path.name for path in tmp_path.iterdir()] == [APPROVALS]


def test_revoking_what_is_not_approved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApprovalError, match="no approval of aaaaaaaaaaaa"):
        revoke(tmp_path, A, "ana", "")
    assert not (tmp_path / APPROVALS).exists()


@pytest.mark.parametrize(
    ("who", "program", "words"),
    [("", A, "who"), ("  ", A, "who"), ("ana", "abc", "program"), ("ana", A.upper(), "program")],
)
def test_an_entry_that_names_nobody_or_nothing_is_not_made(tmp_path: Path, who: str, program: str, words: str) -> None:
    with pytest.raises(ApprovalError, match=words):
        approve(tmp_path, program, who, "")
    assert not (tmp_path / APPROVALS).exists()


GOOD = {"action": "approve", "program": A, "who": "ana", "when": "2026-01-31T12:00:00Z", "note": ""}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (yaml.safe_dump([GOOD, {**GOOD, "action": "allow"}]), "entry 2, action"),
        (yaml.safe_dump([{**GOOD, "program": "a" * 63}]), "entry 1, program"),
        (yaml.safe_dump([{**GOOD, "when": "yesterday"}]), "entry 1, when"),
        (yaml.safe_dump([{**GOOD, "when": "2026-02-31T12:00:00Z"}]), "entry 1, when"),
        (yaml.safe_dump([{**GOOD, "extra": 1}]), "entry 1, extra"),
        (yaml.safe_dump([{k: v for k, v in GOOD.items() if k != "who"}]), "entry 1, who"),
        (yaml.safe_dump(GOOD), "list"),
        (yaml.safe_dump([GOOD])[:-20] + '"', "quoted scalar"),
        (yaml.safe_dump([GOOD]) + "  action: revoke\n", "action is given twice"),
        ("- !!python/object/apply:os.system [ls]", "python/object"),
        ("- !!int abc", "abc"),
        ("[" * 2000, "approvals.yaml"),
    ],
    ids=["action", "hash", "when", "date", "extra", "who", "no list", "cut off", "twice", "object", "tag", "nested"],
)
def test_a_damaged_file_names_its_field_and_approves_nothing(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / APPROVALS).write_text(text)
    for ask in (lambda: approved(tmp_path, A), lambda: clear_to_score([tmp_path], A, unapproved=True)):
        with pytest.raises(ApprovalError, match=words) as caught:
            ask()
        assert str(tmp_path / APPROVALS) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ApprovalError):
        approve(tmp_path, B, "ben", "")
    assert (tmp_path / APPROVALS).read_text() == text


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / APPROVALS).write_bytes(b"\xff\xfe")
    with pytest.raises(ApprovalError, match="UTF-8"):
        approved(tmp_path, A)


def test_the_decision_names_who_approved_or_says_that_nobody_did(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with pytest.raises(
        NotApprovedError, match=r"carrot: cost program aaaaaaaaaaaa is not approved.*--unapproved"
    ) as no:
        clear_to_score([one, two], A, name="carrot")
    assert str(one) in str(no.value)
    forced = clear_to_score([one, two], A, unapproved=True)
    assert not forced.approved and "NOT approved" in str(forced)
    entry = approve(two, A, "ana", "fine", NOON)
    for unapproved in (False, True):
        cleared = clear_to_score([one, two], A, unapproved)
        assert cleared.approved and cleared.approval == entry
        assert str(cleared) == "cost program aaaaaaaaaaaa approved by ana on 2026-01-31T12:00:00Z"
    revoke(two, A, "ana", "")
    with pytest.raises(NotApprovedError):
        clear_to_score([one, two], A)


def test_every_shipped_program_is_approved_as_it_is_now() -> None:
    """Who changes a shipped program approves it anew: `grape costs approve FILE --note ...`."""
    assert shipped_names()
    for name in shipped_names():
        approval = approved(shipped_path(name).parent, shipped_program(name).hash)
        assert approval is not None, name
