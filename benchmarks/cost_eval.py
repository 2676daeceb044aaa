"""Cost programs over whole trajectories, compiled, beside calling the same functions as Python, step by step.

    python benchmarks/cost_eval.py

T = 1000 instants, K = 8 keypoints, the shipped programs. The two ways alternate within one run, best of several rounds
each, so that their ratio does not depend on the machine's mood; their costs are compared as well. Only here and in
the tests are these programs, which are the project's own, run by Python, as the reference.

Prints one JSON object; exits 1 where the compiled programs are not at least 50 times as fast, or not equal to 1e-9.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import _paths  # noqa: F401
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from grape_reward.program.compiler import load_program
from grape_reward.program.shipped import shipped_names, shipped_path

INSTANTS, KEYPOINTS = 1000, 8
FACTOR, TOLERANCE = 50.0, 1e-9

Array = NDArray[np.float64]
Costs = dict[str, Array]


def python_functions(path: Path) -> dict[str, Callable[[Array, Array], float]]:
    """The functions of a program as Python functions."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"{path.stem}.py"
        copy.write_text("import numpy as np\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, copy)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if name.startswith("stage")}


def timed(run: Callable[[], Costs]) -> tuple[float, Costs]:
    start = time.perf_counter()
    costs = run()
    return time.perf_counter() - start, costs


def measure(name: str, rounds: int) -> dict[str, float]:
    """Best seconds of both ways over all functions of one program, and their largest difference."""
    generator = np.random.default_rng(0)
    end_effector = generator.uniform(-0.6, 0.6, (INSTANTS, 3))
    keypoints = generator.uniform(-0.6, 0.6, (INSTANTS, KEYPOINTS, 3))
    program, functions = load_program(shipped_path(name), KEYPOINTS), python_functions(shipped_path(name))

    def stepwise() -> Costs:
        return {
            name: np.array([float(function(end_effector[t], keypoints[t])) for t in range(INSTANTS)])
            for name, function in functions.items()
        }

    start = time.perf_counter()
    program.evaluate_all(end_effector[:1], keypoints[:1])
    typing = time.perf_counter() - start
    compiled, plain, difference = [], [], 0.0
    for _ in range(rounds):
        seconds, ours = timed(lambda: program.evaluate_all(end_effector, keypoints))
        compiled.append(seconds)
        seconds, reference = timed(stepwise)
        plain.append(seconds)
        difference = max(float(np.abs(ours[key] - reference[key]).max()) for key in reference)
    return {
        "compiled_ms": 1e3 * min(compiled),
        "python_ms": 1e3 * min(plain),
        "factor": min(plain) / min(compiled),
        "typing_ms": 1e3 * typing,
        "difference": difference,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds a program; the best one counts")
    rounds = parser.parse_args().rounds
    programs = {
        name: measure(name, rounds) for name in track(shipped_names(), "measuring", console=Console(stderr=True))
    }
    factor = min(figures["factor"] for figures in programs.values())
    good = factor >= FACTOR and all(figures["difference"] <= TOLERANCE for figures in programs.values())
    print(json.dumps({"T": INSTANTS, "K": KEYPOINTS, "factor": factor, "ok": good, "programs": programs}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
