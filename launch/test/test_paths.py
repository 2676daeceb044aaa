"""Where a model named on the command line lies."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from grape.paths import PathError, default_model, known_model


def test_a_folder_is_itself_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert known_model(Path("model")) == tmp_path / "model"
    assert known_model(default_model()) == default_model().absolute()


def test_a_name_of_the_hub_is_its_copy_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "c" * 40
    snapshot = tmp_path / "models--lab--vla" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--lab--vla" / "refs").mkdir()
    (tmp_path / "models--lab--vla" / "refs" / "main").write_text(commit)
    assert known_model(Path("lab/vla")) == snapshot
    with pytest.raises(PathError, match="lab/other: no such model folder, and as a name of the hub"):
        known_model(Path("lab/other"))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(PathError, match=r"no model here \(no config\.json\)"):
        known_model(tmp_path)
