import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from grape_policy.checkpoint import CheckpointError, load_checkpoint
from grape_policy.hub import PATTERNS, resolve_checkpoint
from grape_policy.testing import write_random_checkpoint

NAME, COMMIT, OTHER = "lab/openvla-tiny", "a" * 40, "b" * 40
RESPONSE: Any = SimpleNamespace(headers={}, request=None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, offline."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def put(cache: Path, model: Path, commit: str = COMMIT, revision: str = "main") -> Path:
    """A downloaded checkpoint as huggingface_hub keeps it: blobs, and a snapshot of links to them."""
    root = cache / f"models--{NAME.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for folder in (root / "blobs", snapshot, (root / "refs" / revision).parent):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(commit)
    for number, path in enumerate(sorted(model.iterdir())):
        blob = root / "blobs" / f"{commit[0]}{number}"
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint(tmp_path) == tmp_path
    assert resolve_checkpoint("lab/model") == Path("lab/model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_checkpoint("~/lab/model") == tmp_path / "lab" / "model"


@pytest.mark.parametrize("name", ["/nowhere/model", "model", "./lab/model", "lab/model/x", "lab/typo", "a b/c"])
def test_what_can_only_be_a_folder_is_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match=f"^{name}: no such model folder$"):
        resolve_checkpoint(name)


def test_no_name_is_not_the_working_directory() -> None:
    with pytest.raises(CheckpointError, match=r"^no model is named$"):
        resolve_checkpoint("")


def test_a_cached_name_loads_offline_as_its_folder_does(cache: Path, tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path / "model")
    snapshot = put(cache, model)
    assert resolve_checkpoint(NAME) == resolve_checkpoint(f"{NAME}@main") == resolve_checkpoint(Path(NAME)) == snapshot
    vla = load_checkpoint(NAME)
    assert vla.folder == snapshot
    assert vla.base_hash == load_checkpoint(model).base_hash


def test_a_revision_is_a_branch_a_tag_or_a_commit(cache: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    first = put(cache, model)
    second = put(cache, model, OTHER, "refs/pr/1")
    assert resolve_checkpoint(NAME) == first
    assert resolve_checkpoint(f"{NAME}@refs/pr/1") == resolve_checkpoint(f"{NAME}@{OTHER}") == second


def test_offline_and_not_cached_says_so_and_how_to_fetch_it_elsewhere(cache: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(f"{NAME}@v2")
    assert str(caught.value) == (
        f"{NAME}@v2: no such model folder, and as a name of the hub: it is not in the cache {cache} and HF_HUB_OFFLINE "
        "is set; on a machine that reaches the hub run `hf download lab/openvla-tiny --revision v2 --include "
        "'*.safetensors' --include '*.json' --include 'tokenizer.model' --local-dir FOLDER`, copy the folder here and "
        "name it"
    )


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    """The real client, in a process of its own as it reads its settings on import, against a closed port."""
    code = "import sys; from grape_policy.hub import *; resolve_checkpoint(sys.argv[1])"
    settings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code, NAME]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()} | settings
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    last = done.stderr.splitlines()[-1]
    assert f"it is not in the cache {tmp_path / 'hub'} and http://127.0.0.1:9 cannot be reached; on a machine" in last


def test_only_what_a_checkpoint_consists_of_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def download(repository: str, **values: object) -> str:
        asked.update(repository=repository, **values)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_checkpoint(f"{NAME}@v1.0") == tmp_path
    assert asked == {"repository": NAME, "revision": "v1.0", "allow_patterns": list(PATTERNS)}
    files = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model"]
    refused = ["pytorch_model.bin", "model.pt", "modeling_prismatic.py", "tokenizer.py", "README.md", "x.pkl"]
    taken = huggingface_hub.utils.filter_repo_objects([*files, *refused], allow_patterns=list(PATTERNS))
    assert sorted(taken) == files


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (
            HfHubHTTPError("401 Client Error.\nlog in", response=RESPONSE),
            "the hub refuses it: HfHubHTTPError: 401 Client Er",
        ),
        (RuntimeError("the line broke\nhere"), "the download failed: RuntimeError: the line broke; on a machine"),
        (OSError(28, "No space left on device"), r"the download failed: OSError: \[Errno 28\] No space left"),
    ],
)
def test_what_the_hub_says_becomes_one_line(
    problem: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> str:
        raise problem

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=reason) as caught:
        resolve_checkpoint(NAME)
    assert "\n" not in str(caught.value)
