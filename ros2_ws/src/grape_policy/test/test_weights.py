import hashlib
import shlex
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from grape_policy.checkpoint import base_hash, load_checkpoint
from grape_policy.testing import write_random_checkpoint
from grape_policy.weights import INDEX, CheckpointError, Progress, TensorFile, file_hash, read_index, weight_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))


kinds = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
shapes = st.lists(st.integers(0, 5), max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text("abc._", min_size=1, max_size=6), st.tuples(shapes, kinds), max_size=6))
def test_a_file_is_read_as_safetensors_reads_it(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, tuple[list[int], torch.dtype]]
) -> None:
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    save_file({name: torch.randn(shape).to(dtype) for name, (shape, dtype) in wanted.items()}, path)
    file = TensorFile(path)
    read = {name: tensor.clone() for name, tensor in file.tensors()}
    expected = load_file(path)
    assert len(file) == len(expected) and read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == file_hash(path, Progress(0))


def test_the_base_hash_is_the_one_that_adapters_name(folder: Path) -> None:
    """Written out: manifests on disk hold it, so that its value may never change."""
    names = ["config.json", "preprocessor_config.json", "dataset_statistics.json"]
    names += ["tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    lines = [f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n" for name in names]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    seen: list[tuple[int, int]] = []
    assert base_hash(folder, lambda done, total: seen.append((done, total))) == expected
    assert load_checkpoint(folder).base_hash == expected
    size = (folder / "model.safetensors").stat().st_size
    assert seen[-1] == (size, size) and seen == sorted(seen)


@pytest.mark.parametrize("damage", ["cut", "grown", "header"])
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, damage: str) -> None:
    content = (folder / "model.safetensors").read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes({"cut": content[:-1], "grown": content + b"0", "header": b"\xff" * 16}[damage])
    with pytest.raises(CheckpointError, match=rf"^{path}: not readable as safetensors: "):
        TensorFile(path)


@pytest.mark.parametrize("change", [-1000, 1000])
def test_a_file_that_changes_while_it_is_read_is_named(folder: Path, tmp_path: Path, change: int) -> None:
    content = (folder / "model.safetensors").read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    file = TensorFile(path)
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(
        CheckpointError, match=rf"^{path}: not readable as safetensors: it (ended|changed) while it was"
    ):
        for _ in file.tensors():
            pass


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.symlink_to(tmp_path / "gone")
    for read in (lambda: TensorFile(path), lambda: base_hash(tmp_path)):
        with pytest.raises(CheckpointError, match=rf"^{path}: not readable"):
            read()
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors file$"):
        weight_files(tmp_path)


def test_numbered_shards_have_to_be_all_there(tmp_path: Path) -> None:
    names = [f"model-{number:05d}-of-00004.safetensors" for number in range(1, 5)]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in weight_files(tmp_path)] == names
    for name in names[1:3]:
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}: shards are missing: {names[1]}, {names[2]}$"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not readable as JSON"),
        ("{}", "field weight_map is missing"),
        ('{"weight_map": []}', "field weight_map is missing"),
        ('{"weight_map": {"a": 3}}', "weight_map: a is in 3, which is no safetensors file of this folder"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "weight_map: a is in '../b.safetensors', which is no"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "weight_map: a is in 'pytorch_model.bin', which is no"),
    ],
)
def test_a_broken_index_is_named(tmp_path: Path, content: str, reason: str) -> None:
    assert read_index(tmp_path) is None
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match=rf"^{tmp_path / INDEX}: {reason}"):
        read_index(tmp_path)


def test_pickled_weights_are_refused_and_the_stated_command_converts_them(folder: Path, tmp_path: Path) -> None:
    """Two shards, among them tensors that share memory, as training code saves them."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shared = torch.stack([tensors["projector.fc1.bias"], torch.zeros_like(tensors["projector.fc1.bias"])])
    tensors["projector.fc1.bias"] = shared[0]
    for number in (1, 2):
        held = {name: tensors[name] for name in names[number - 1 :: 2]}
        torch.save(held, tmp_path / f"pytorch_model-{number:05d}-of-00002.bin")
    for name in ("config.json", "preprocessor_config.json", "dataset_statistics.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/pytorch_model-00001-of-00002.bin: pickled weights can run code")
    command = shlex.split(text.partition("with: ")[2])
    assert command[:2] == ["python", "-c"]
    done = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in tmp_path.glob("*.bin"):
        path.unlink()
    expected, got = (load_checkpoint(place).model.state_dict() for place in (folder, tmp_path))
    assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("name", ["model.pt", "step-001.pth"])
def test_training_checkpoints_are_refused_with_the_way_to_export_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(
        CheckpointError, match=rf"{name}: pickled weights can run code .* export them .* saves \*\.safetensors$"
    ):
        weight_files(tmp_path)


def test_reading_takes_the_memory_of_two_tensors(tmp_path: Path) -> None:
    """Tensors are views of two buffers in turn: what was not copied holds later numbers."""
    path = tmp_path / "model.safetensors"
    save_file({name: torch.full((4,), float(ord(name))) for name in "abcdef"}, path)
    places = [tensor.data_ptr() for _, tensor in TensorFile(path).tensors()]
    assert places == places[:2] * 3 and places[0] != places[1]


@pytest.mark.parametrize("sizes", [[8], [8, 1], [4, 4], [1, 8, 1], [3, 3, 3]])
def test_reading_takes_no_more_than_the_file(tmp_path: Path, sizes: list[int]) -> None:
    """Even where one tensor is all of a shard. sizes: MiB."""
    path = tmp_path / "model.safetensors"
    save_file({f"t{number}": torch.ones(size << 18) for number, size in enumerate(sizes)}, path)
    file = TensorFile(path)
    tracemalloc.start()
    try:
        assert sum(float(tensor.sum()) for _, tensor in file.tensors()) == sum(sizes) << 18
        assert tracemalloc.get_traced_memory()[1] <= 1.1 * path.stat().st_size
    finally:
        tracemalloc.stop()
