"""Every hostile program is refused by the compiler, for its own reason, at a place, within 1 s and 200 MB."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from grape_reward.program.compiler import compile_program

CASES = runpy.run_path(str(Path(__file__).parent / "hostile_programs.py"))
HOSTILE: dict[str, tuple[bytes, str]] = CASES["HOSTILE"]
SECONDS, MEGABYTES = 1.0, 200.0

# In a process of its own: its peak memory is that of no other test, and a crash of the parser ends only it.
# Seconds are the process's own, so that a busy machine does not count.
COMPILE_ALL = """
import json, re, resource, sys, time
from pathlib import Path
from grape_reward.errors import ProgramError
from grape_reward.program.compiler import load_program
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    start, lines = time.process_time(), []
    try:
        load_program(path)
    except ProgramError as error:
        lines = list(error.lines)
    seconds = time.process_time() - start
    # ru_maxrss would count what the starting process held before this program took its place
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    print(json.dumps([path.name, seconds, peak, lines]), flush=True)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float, list[str]]]:
    """By name: seconds, the process's peak memory so far in MB, findings."""
    folder = tmp_path_factory.mktemp("hostile")
    names = {f"{number:03d}.txt": name for number, name in enumerate(HOSTILE)}
    for file, name in names.items():
        (folder / file).write_bytes(HOSTILE[name][0])
    command = [sys.executable, "-c", COMPILE_ALL, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {names[file]: (seconds, peak, lines) for file, seconds, peak, lines in rows}


def test_the_control_is_harmless_and_there_are_enough_cases() -> None:
    assert len(compile_program(CASES["CONTROL"], "control").terms) == 1
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_refused_for_its_reason(name: str, refusals: dict) -> None:
    seconds, peak, lines = refusals[name]
    assert lines, "accepted"
    assert any(HOSTILE[name][1] in line for line in lines), lines
    assert seconds < SECONDS
    assert peak < MEGABYTES
    for line in lines:
        place = line.split(".txt:")[1].split(":")
        assert int(place[0]) >= 1 and int(place[1]) >= 1
        assert "\n" not in line and line.isprintable() and len(line) < 2_000
