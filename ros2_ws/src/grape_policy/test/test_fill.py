import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from grape_policy.checkpoint import CheckpointError, base_hash, load_checkpoint
from grape_policy.config import parse_config
from grape_policy.keys import to_openvla
from grape_policy.mini import MiniSize, mini_config, mini_preprocessor
from grape_policy.model import OpenVla
from grape_policy.testing import write_random_checkpoint
from grape_policy.weights import INDEX

QKV, SCALE = (
    "vision_backbone.featurizer.blocks.0.attn.qkv.weight",
    "vision_backbone.featurizer.blocks.1.ls2.scale_factor",
)
SHARDS = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def split(folder: Path, shards: Iterable[str] = SHARDS, index: bool = True) -> dict[str, str]:
    """Spread the weights over shards; returns the weight map."""
    names, tensors = list(shards), load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: names[i % len(names)] for i, name in enumerate(sorted(tensors))}
    for shard in names:
        held = {name: tensors[name] for name, place in places.items() if place == shard}
        save_file(held, folder / shard)
    if index:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def edit(path: Path, **changes: torch.Tensor | None) -> None:
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def fault(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("index", [False, True])
def test_shards_load_as_one_file_does_and_progress_counts_over_all_of_them(folder: Path, index: bool) -> None:
    whole = load_checkpoint(folder)
    places = split(folder, index=index)
    seen: list[tuple[int, int]] = []
    parts = load_checkpoint(folder, progress=lambda done, total: seen.append((done, total)))
    state = whole.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in parts.model.state_dict().items())
    assert seen == [(number, len(places)) for number in range(1, len(places) + 1)]
    assert parts.base_hash == base_hash(folder) != whole.base_hash


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_point_type_loads_as_torch_casts_it(folder: Path, stored: torch.dtype) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in load_file(path).items()}, path)
    file = load_file(path)
    for dtype in (torch.float32, torch.bfloat16):
        vla = load_checkpoint(folder, dtype=dtype)
        assert all(parameter.dtype == dtype for parameter in vla.model.parameters())
        back = to_openvla(vla.spec, vla.model.state_dict())
        names = [QKV, SCALE, "language_model.lm_head.weight", "vision_backbone.fused_featurizer.pos_embed"]
        assert all(torch.equal(back[name], file[name].to(dtype)) for name in names)


def test_weights_that_are_no_floating_point_numbers_are_refused_by_name(folder: Path) -> None:
    edit(folder / "model.safetensors", **{"projector.fc1.bias": torch.zeros(256, dtype=torch.int8)})
    assert "model.safetensors: projector.fc1.bias is stored as I8; served are F64, F32, F16, BF16" in fault(folder)


def test_timms_own_name_of_the_layer_scale_is_accepted(folder: Path) -> None:
    path, plain = folder / "model.safetensors", load_checkpoint(folder).model.state_dict()
    tensors = load_file(path)
    renamed = {name.replace("scale_factor", "gamma"): tensor for name, tensor in tensors.items()}
    assert len(renamed.keys() - tensors.keys()) == 4
    save_file(renamed, path)
    state = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in state.items())
    edit(path, **{SCALE: tensors[SCALE]})
    assert f"duplicate: {SCALE} in model.safetensors and in model.safetensors" in fault(folder)


def test_what_does_not_fit_is_listed_over_all_shards(folder: Path) -> None:
    places = split(folder, index=False)
    lost, wrong = "projector.fc2.bias", "projector.fc1.weight"
    for name in (QKV, lost):
        edit(folder / places[name], **{name: None})
    edit(folder / places[wrong], **{wrong: torch.zeros(3, 3)})
    edit(folder / SHARDS[2], **{"projector.fc4.weight": torch.zeros(2), "projector.fc5.weight": torch.zeros(2)})
    text = fault(folder)
    assert text.startswith(f"{folder}: weights do not fit config.json: ")
    assert f"missing: {lost}, {QKV};" in text
    assert "unexpected: projector.fc4.weight, projector.fc5.weight;" in text
    assert f"misshapen: {wrong} (3, 3) for (" in text


def test_a_fused_matrix_that_is_not_three_is_misshapen_and_not_missing(folder: Path) -> None:
    edit(folder / "model.safetensors", **{QKV: torch.zeros(97, 32)})
    text = fault(folder)
    assert f"misshapen: {QKV}: 97 rows are not three equal parts" in text and "missing" not in text


def test_names_of_this_packages_modules_are_no_names_of_a_file(folder: Path) -> None:
    name = "vision_backbone.featurizer.encoder.layer.0.attention.q_proj.weight"
    edit(folder / "model.safetensors", **{name: torch.zeros(32, 32)})
    assert f"unexpected: {name}" in fault(folder)


def test_a_missing_output_layer_is_an_error_though_its_model_could_be_tied(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for tied in (False, True):
        config["text_config"]["tie_word_embeddings"] = tied
        (folder / "config.json").write_text(json.dumps(config))
        if not tied:
            edit(folder / "model.safetensors", **{"language_model.lm_head.weight": None})
        assert "missing: language_model.lm_head.weight" in fault(folder)


def test_the_same_tensor_in_two_shards_is_a_duplicate(folder: Path) -> None:
    places = split(folder, index=False)
    other = next(shard for shard in SHARDS if shard != places[QKV])
    edit(folder / other, **{QKV: torch.zeros(96, 32)})
    first, second = sorted((places[QKV], other))
    assert fault(folder).endswith(f"duplicate: {QKV} in {first} and in {second}")


def test_the_index_is_obeyed(folder: Path) -> None:
    """A file that it does not name is not read; a tensor and a shard that it names have to be there."""
    places = split(folder)
    (folder / "consolidated.safetensors").write_bytes(b"not read")
    named = base_hash(folder)
    assert load_checkpoint(folder).base_hash == named
    edit(folder / places[QKV], **{QKV: None})
    text = fault(folder)
    assert f"named in {INDEX} but absent: {QKV} in {places[QKV]}" in text and "missing" not in text
    (folder / SHARDS[1]).unlink()
    assert fault(folder) == f"{folder / INDEX}: shards are missing: {SHARDS[1]}"


MEASURE = """
import json, sys
from pathlib import Path
import torch
from grape_policy.checkpoint import load_checkpoint

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

tiny, folder, dtype = Path(sys.argv[1]), Path(sys.argv[2]), getattr(torch, sys.argv[3])
load_checkpoint(tiny, dtype=dtype)
Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
before = status("VmRSS")
vla = load_checkpoint(folder, dtype=dtype)
peak = status("VmHWM") - before
weights = sum(tensor.nbytes for tensor in vla.model.state_dict().values())
for path in folder.glob("*.safetensors"):
    path.write_bytes(b"")  # whoever computed with a mapping of it would die of SIGBUS here
total = sum(float(tensor.double().sum()) for tensor in vla.model.state_dict().values())
print(json.dumps({"peak": peak, "weights": weights, "sum": total}))
"""


def write_shards(folder: Path) -> float:
    """A checkpoint of some 100 MB in four shards of random bf16 numbers; returns their sum."""
    size = MiniSize(image_size=56, llama_width=512, llama_depth=12, llama_heads=4, llama_mlp=2048)
    config = mini_config(size, "random", {"random": {"action": {"q01": [-1.0] * 7, "q99": [1.0] * 7}}})
    spec = parse_config(config)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in OpenVla(spec).state_dict().items()}
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    tensors["vision_backbone.featurizer.embeddings.mask_token"].zero_()
    tensors["vision_backbone.featurizer.embeddings.position_embeddings"][:, 0] = 0.0
    file = to_openvla(spec, tensors)
    names = sorted(file)
    for number in range(4):
        held = {name: file[name] for name in names[number::4]}
        save_file(held, folder / f"model-{number + 1:05d}-of-00004.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(mini_preprocessor(size.image_size)))
    return sum(float(tensor.double().sum()) for tensor in tensors.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_takes_what_goes_to_the_device_and_little_more(original: Path, tmp_path: Path, dtype: str) -> None:
    """The bound is 1.2 times the largest shard; a mapped file, a second copy or a whole shard in memory would break
    it. The weights do not depend on the files afterwards."""
    expected = write_shards(tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert sum(sizes) > 100e6
    command = [sys.executable, "-c", MEASURE, str(original), str(tmp_path), dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "clear_refs" in done.stderr:
        pytest.skip("this system does not let a process reset its peak memory")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["weights"] <= found["peak"] + 4e6
    assert found["peak"] - found["weights"] <= 1.2 * max(sizes)
    assert found["sum"] == pytest.approx(expected, rel=1e-9)
    print(f"beside the weights {(found['peak'] - found['weights']) / max(sizes):.2f} of the largest shard")
