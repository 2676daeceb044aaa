from __future__ import annotations

import subprocess
import sys

import pytest

from grape_episode.testing import NodeProcess, Timeout, free_domain, wait_for


def test_waiting_gives_the_value_or_says_what_for():
    values = iter([0, None, 7])
    assert wait_for(lambda: next(values), "seven") == 7
    with pytest.raises(Timeout, match=r"0\.05 s in vain for rain"):
        wait_for(lambda: False, "rain", deadline=0.05)


def test_domains_are_not_shared_between_processes():
    code = "from grape_episode.testing import free_domain; print(free_domain())"
    mine = {free_domain(), free_domain()}
    other = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout)
    assert len(mine) == 2
    assert other not in mine and 1 <= other <= 99


def test_a_process_is_stopped_at_the_end_and_its_output_kept(tmp_path):
    module = tmp_path / "sleeper.py"
    module.write_text("import os, time\nprint(os.environ['ROS_DOMAIN_ID'], flush=True)\ntime.sleep(60)\n")
    with NodeProcess("sleeper", 42, tmp_path / "log", environment={"PYTHONPATH": str(tmp_path)}) as process:
        wait_for(lambda: process.output, "its line")
        assert process.running()
    assert not process.running()
    assert process.output.startswith("42\n")
    killed = NodeProcess("sleeper", 42, tmp_path / "log2", environment={"PYTHONPATH": str(tmp_path)})
    killed.kill()
    assert killed.wait() == -9
    killed.stop()
