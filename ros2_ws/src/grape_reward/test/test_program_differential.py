"""The compiler against Python itself: here, and only here, trusted programs are run by Python, as a reference."""

import importlib.util
import math
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest

from grape_reward.errors import CostError, ProgramError
from grape_reward.program.compiler import compile_program, repaired
from grape_reward.program.shipped import shipped_names, shipped_path

HERE = Path(__file__).parent
PAPER = ("task_completion", "safety", "efficiency")
GENERATED, BATCH, INSTANTS = 200, 25, 12


def trajectory(seed: int, instants: int, keypoints: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions about a table: within 60 cm of the base, some of them close together."""
    generator = np.random.default_rng(seed)
    return generator.uniform(-0.6, 0.6, (instants, 3)), generator.uniform(-0.6, 0.6, (instants, keypoints, 3))


def python_costs(text: str, folder: Path, end_effector: np.ndarray, keypoints: np.ndarray) -> dict[str, list[float]]:
    """What Python says, function by function and instant by instant; nan where it raises."""
    path = folder / "reference.py"
    path.write_text("import numpy as np\n" + text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path.unlink()

    def cost(name: str, instant: int) -> float:
        try:
            return float(getattr(module, name)(end_effector[instant].copy(), keypoints[instant].copy()))
        except (ZeroDivisionError, OverflowError, ValueError):
            return math.nan

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = [name for name in vars(module) if name.startswith("stage")]
        return {name: [cost(name, instant) for instant in range(len(end_effector))] for name in names}


def agree(text: str, folder: Path, end_effector: np.ndarray, keypoints: np.ndarray) -> int:
    """How many costs were compared. A cost that Python cannot give must be refused."""
    reference = python_costs(text, folder, end_effector, keypoints)
    try:
        program = compile_program(text, "generated", keypoints.shape[1])
    except ProgramError as error:
        named = {finding.message.partition(" ")[0] for finding in error.findings}
        never = {name for name, values in reference.items() if not any(map(math.isfinite, values))}
        assert named <= never, f"{error} in\n{text}"
        return 0
    assert reference.keys() == {term.name for term in program.terms}
    if not all(math.isfinite(value) for values in reference.values() for value in values):
        with pytest.raises(CostError):
            program.evaluate_all(end_effector, keypoints)
        return 0
    ours = program.evaluate_all(end_effector, keypoints)
    for name, values in reference.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-9, atol=1e-9, err_msg=f"{name} of\n{text}")
    return sum(map(len, reference.values()))


@pytest.mark.parametrize("keypoints", [2, 3, 8])
@pytest.mark.parametrize("name", PAPER)
def test_the_papers_programs_agree_with_python(name: str, keypoints: int, tmp_path: Path) -> None:
    text = (HERE / "paper" / f"{name}.txt").read_text(encoding="utf-8")
    text = repaired(text, name) or text
    assert agree(text, tmp_path, *trajectory(keypoints, 50, keypoints)) == 150


@pytest.mark.parametrize("name", shipped_names())
def test_the_shipped_programs_agree_with_python(name: str, tmp_path: Path) -> None:
    text = shipped_path(name).read_text(encoding="utf-8")
    assert agree(text, tmp_path, *trajectory(1, 20, 4)) >= 20 * 13


@pytest.mark.parametrize("batch", range(GENERATED // BATCH))
def test_generated_programs_agree_with_python(batch: int, tmp_path: Path) -> None:
    grammar = runpy.run_path(str(HERE / "generated_programs.py"))
    compared = [
        agree(grammar["Generator"](seed).program(), tmp_path, *trajectory(seed, INSTANTS, grammar["KEYPOINTS"]))
        for seed in range(batch * BATCH, (batch + 1) * BATCH)
    ]
    assert sum(count > 0 for count in compared) >= BATCH * 0.9, "too many programs that are no number"
