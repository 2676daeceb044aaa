"""A training of fault_matrix.py, as the alignment's loop starts one: ``python starved_training.py MODEL FOLDER``.

Prints the training's process id once it has made its first update, then, when it has failed, what the loop is told.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import _paths  # noqa: F401  makes the packages importable

from grape_policy.checkpoint import load_checkpoint
from grape_trainer.errors import TrainingError
from grape_trainer.run_training import in_own_process
from grape_trainer.testing import quick_config, write_rollouts


def child() -> int:
    """The process that this one started last."""
    own = os.getpid()
    return int(Path(f"/proc/{own}/task/{own}/children").read_text().split()[-1])


def main() -> int:
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    pairs = write_rollouts(load_checkpoint(model), folder / "rollouts", states=4)
    config = quick_config(model, pairs, folder / "out", max_updates=100_000, epochs=10_000)
    told = []

    def tell(done: int, total: int, loss: float, drift: float) -> None:
        if not told:
            told.append(done)
            print(child(), flush=True)

    try:
        in_own_process(config, tell, lambda: False)
    except TrainingError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
