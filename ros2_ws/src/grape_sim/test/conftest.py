"""One world for all tests of this package: making one costs more than resetting it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grape_sim.world import World


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with World() as stage:
        yield stage
