"""Damaged programs: whatever is done to one, it compiles or is refused in lines; nothing else is raised."""

import random
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from grape_reward.errors import CostError, ProgramError
from grape_reward.program.compiler import compile_program, repaired

GRAMMAR = runpy.run_path(str(Path(__file__).parent / "generated_programs.py"))
PIECES = (
    *(
        "keypoints",
        "end_effector",
        "[",
        "]",
        "(",
        ")",
        "()",
        "[]",
        "[()]",
        ",",
        ":",
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "**",
    ),
    *("@", "<", "==", " and ", " or ", " not ", " if ", " else ", " for ", " in ", "=", "sum(", "max(", "np.array("),
    *("np.sum(", "np.linalg.norm(", "len(", "int(", "round(", "range(", "np.where(", "np.clip(", "np.dot(", "any("),
    *("0", "1", "-1", "0.5", "True", "None", "axis=0", "default=0", "[2:]", "[0]", "[::2]", "o", "x1", "\n", "    "),
)


def damaged(seed: int) -> str:
    generator = random.Random(seed)
    tokens = re.findall(r"\s+|[A-Za-z_][\w.]*|\d[\d.e]*|.", GRAMMAR["Generator"](seed).program())
    for _ in range(generator.randint(1, 3)):
        place, kind = generator.randrange(len(tokens)), generator.random()
        if kind < 0.4:
            tokens[place] = generator.choice(PIECES)
        elif kind < 0.7:
            tokens.insert(place, generator.choice(PIECES))
        else:
            del tokens[place]
    return "".join(tokens)


@pytest.mark.parametrize("batch", range(4))
def test_a_damaged_program_compiles_or_is_refused(batch: int) -> None:
    end_effector, keypoints = np.full((2, 3), 0.1), np.full((2, 5, 3), 0.2)
    refused = 0
    for seed in range(100 * batch, 100 * (batch + 1)):
        text = damaged(seed)
        try:
            program = compile_program(text, "damaged", 5 if seed % 2 else None)
        except ProgramError as error:
            refused += 1
            assert all(line.isprintable() for line in error.lines)
            repaired(text, "damaged")
            continue
        try:
            program.evaluate_all(end_effector, keypoints)
        except CostError as error:
            assert str(error).startswith("damaged: stage")
    assert 50 < refused < 100
