from pathlib import Path

import numpy as np
import pytest

from grape_policy.checkpoint import load_checkpoint
from grape_policy.errors import LoadError
from grape_policy.loading import load_engine
from grape_policy.parameters import EngineSettings
from grape_policy.testing import INSTRUCTIONS, write_random_adapter, write_random_checkpoint

MODES = ("unmerged", "merged")
IMAGE = np.random.default_rng(2).integers(0, 256, (56, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def registry(tmp_path: Path, model: Path) -> Path:
    """Its current adapter is `one`, of rank 8."""
    folder = tmp_path / "registry"
    folder.mkdir()
    write_random_adapter(folder / "one", load_checkpoint(model), 8, seed=1)
    (folder / "current").write_text("one\n")
    return folder


def test_the_registrys_current_adapter_serves_from_the_first_act(model: Path, registry: Path) -> None:
    bare = load_engine(EngineSettings(str(model), warmup=0))
    assert bare.serving.adapter_id == "" and bare.serving.adapter_seq == 0
    engines = [load_engine(EngineSettings(str(model), registry=str(registry), adapter_mode=mode)) for mode in MODES]
    unmerged, merged = (engine.act(IMAGE, INSTRUCTIONS[0], 0, 0, 0.0) for engine in engines)
    assert unmerged.adapter_id == merged.adapter_id != "" and unmerged.adapter_seq == 1
    np.testing.assert_allclose(unmerged.logprobs, merged.logprobs, atol=1e-4)
    assert np.abs(unmerged.logprobs - bare.act(IMAGE, INSTRUCTIONS[0], 0, 0, 0.0).logprobs).max() > 0.01


def test_a_current_adapter_that_is_refused_is_an_error(model: Path, registry: Path) -> None:
    with pytest.raises(LoadError, match="rank 8 is above the slot's 4"):
        load_engine(EngineSettings(str(model), registry=str(registry), adapter_rank=4))
    (registry / "current").write_text("gone\n")
    with pytest.raises(LoadError, match="gone"):
        load_engine(EngineSettings(str(model), registry=str(registry)))


def test_the_settings_reach_the_engine(model: Path) -> None:
    seen: list[tuple[int, int]] = []
    engine = load_engine(
        EngineSettings(str(model), center_crop=True, action_tokens_only=True, unnorm_key="random"),
        lambda done, total: seen.append((done, total)),
    )
    assert engine.vla.processor.center_crop and engine.unnorm_key == "random" and engine.threads == 1
    assert seen and seen[-1][0] == seen[-1][1]
    spec = engine.vla.spec
    for step in range(20):
        tokens = engine.act(IMAGE, INSTRUCTIONS[0], 0, step, 5.0).tokens
        assert (tokens >= spec.vocab_size - spec.action_bins).all() and (tokens < spec.vocab_size).all()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"device": "tpu"}, "parameter device: 'tpu'"),
        ({"dtype": "int8"}, "parameter dtype: 'int8'"),
        ({"unnorm_key": "bridge_orig"}, "bridge_orig.*random"),
    ],
)
def test_what_cannot_be_served_is_named(model: Path, settings: dict[str, str], named: str) -> None:
    with pytest.raises(LoadError, match=named):
        load_engine(EngineSettings(str(model), **settings))
