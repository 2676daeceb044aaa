"""Processes with worlds do not outlive the process that started them."""

import signal
import subprocess
import sys

import psutil

from grape_episode.testing import wait_for

# A pool as `WorldWorkers` makes it; its worker says who it is and then works for ever.
POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from grape import workers

def work():
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, workers._prepare, ("model", "task_completion", "")) as pool:
        for future in [pool.submit(work), pool.submit(work)]:
            future.result()
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(psutil.pid_exists(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the workers to end", 10.0)
