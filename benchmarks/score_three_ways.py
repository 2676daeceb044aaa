"""The same score three ways: live = replayed through the reward node = offline, bit for bit, over ROS topics.

    python benchmarks/score_three_ways.py [--episodes 20] [--keep FOLDER]

Records episodes of the small model in the simulator in lock-step, every task and variant in turn, some towards each
objective, and compares the hashes of the three scores. Exit 1 unless all are equal."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import _paths  # noqa: F401
from rich.console import Console
from rich.progress import Progress

from grape.paths import default_model
from grape.three_ways import score_three_ways
from grape_reward.result import Score
from grape_sim.tasks import SEEN, SIM_TASKS
from grape_trainer.rig import Job

OBJECTIVES = ("task_completion", "safety", "efficiency")
FIRST_STATE = 310_000


def jobs(count: int) -> list[Job]:
    """Tasks, variants and objectives in turn, an initial state each; sampled, so that some fail."""
    tasks = list(SIM_TASKS)
    return [
        Job(
            tasks[n % len(tasks)],
            FIRST_STATE + n,
            n,
            variant=SEEN[n % len(SEEN)],
            objective=OBJECTIVES[n // 2 % len(OBJECTIVES)],
        )
        for n in range(count)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="new folder for bags and logs; default: a temporary one")
    arguments = parser.parse_args()
    if arguments.episodes < 1:
        parser.error("--episodes: at least 1")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, Progress(console=Console(stderr=True)) as progress:
        row = progress.add_task("recording and replaying", total=2 * arguments.episodes)

        def told(said: str) -> None:
            progress.update(row, advance=1, description=said)

        folder = arguments.keep or Path(temporary)
        found = score_three_ways(default_model(), jobs(arguments.episodes), folder, told)
    scores = [Score.from_json(one.live) for one in found]
    equal = sum(one.equal for one in found)
    result = {
        "benchmark": "score_three_ways",
        "episodes": len(found),
        "equal": equal,
        "different": {one.episode_id: one.differences for one in found if not one.equal},
        "successes": sum(score.success == 1 for score in scores),
        "distinct_hashes": len({one.hashes[0] for one in found}),
        "seconds": round(time.monotonic() - began, 1),
        "passed": equal == len(found) == arguments.episodes,
    }
    print(json.dumps(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
