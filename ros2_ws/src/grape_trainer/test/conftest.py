"""A tiny random checkpoint, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.testing import write_random_checkpoint


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_vla(tiny_model: Path) -> Vla:
    return load_checkpoint(tiny_model)
