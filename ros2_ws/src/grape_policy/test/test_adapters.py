import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from grape_policy.adapters import (
    CONFIG,
    LORA_TARGETS,
    MANIFEST,
    WEIGHTS,
    AdapterError,
    AdapterManifest,
    adapter_hash,
    current_adapter,
    lora_targets,
    read_adapter,
    read_manifest,
)
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.engine import Engine
from grape_policy.logprobs import token_logprobs
from grape_policy.testing import INSTRUCTIONS, write_random_checkpoint

TEXT = INSTRUCTIONS[1]
RNG = np.random.default_rng(3)
IMAGE = RNG.integers(0, 256, (56, 56, 3), dtype=np.uint8)
TOKENS = torch.from_numpy(RNG.integers(512, 768, (1, 7)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def logprobs(model: torch.nn.Module, vla: Vla) -> torch.Tensor:
    with torch.no_grad():
        return token_logprobs(model, vla.processor.pixels(IMAGE[None]), [vla.processor.prompt(TEXT)], TOKENS)


def through_slot(engine: Engine) -> torch.Tensor:
    return torch.from_numpy(engine.score(IMAGE, TEXT, TOKENS[0].numpy()))[None]


def train(base: Path, folder: Path, targets: object = None, **settings: object) -> torch.Tensor:
    """An adapter with random weights as peft saves it; returns the log-probs that peft computes with it."""
    vla = load_checkpoint(base)
    torch.manual_seed(len(folder.name))
    chosen = {"r": 4, "lora_alpha": 16, "init_lora_weights": False, **settings}
    targets = targets if targets is not None else lora_targets(vla.model, towers=True)
    model = peft.get_peft_model(vla.model, peft.LoraConfig(target_modules=targets, **chosen)).eval()
    model.save_pretrained(folder)
    seal(folder, vla.base_hash)
    return logprobs(model, vla)


def seal(folder: Path, base_hash: str) -> None:
    AdapterManifest(adapter_hash(folder), base_hash, episodes=("a", "b"), pairs=1).write(folder)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "one"
    train(base, folder)
    return folder


def learn(base: Path, folder: Path, targets: list[str] | None = None, **settings: object) -> torch.Tensor:
    """An adapter that peft has trained a few steps to make some tokens likelier; returns peft's log-probs with it."""
    vla = load_checkpoint(base)
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=targets or lora_targets(vla.model, towers=True), **settings)
    model = peft.get_peft_model(vla.model, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(8):
        loss = -token_logprobs(model, vla.processor.pixels(IMAGE[None]), [vla.processor.prompt(TEXT)], TOKENS).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    seal(folder, vla.base_hash)
    return logprobs(model, vla)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("rank", [4, 32])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_slot_computes_what_peft_computes(base: Path, tmp_path: Path, rank: int, rslora: bool, merged: bool) -> None:
    expected = learn(base, tmp_path / f"r{rank}", r=rank, lora_alpha=2 * rank, use_rslora=rslora)
    vla = load_checkpoint(base)
    before = logprobs(vla.model, vla)
    engine = Engine(vla, merged=merged)
    info = engine.load_adapter(tmp_path / f"r{rank}")
    torch.testing.assert_close(logprobs(vla.model, vla), before, atol=0, rtol=0)
    engine.flip()
    decision = engine.act(IMAGE, TEXT, 0, 0, 0.0)
    assert (info.rank, decision.adapter_id, decision.adapter_seq) == (rank, info.adapter_id, 1)
    got = through_slot(engine)
    torch.testing.assert_close(logprobs(vla.model, vla), before, atol=0, rtol=0)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert (got - before).abs().max() > 0.1


def test_the_short_names_work_with_peft_too(base: Path, tmp_path: Path) -> None:
    expected = learn(base, tmp_path / "short", list(LORA_TARGETS))
    vla = load_checkpoint(base)
    engine = Engine(vla)
    engine.load_adapter(tmp_path / "short")
    engine.flip()
    torch.testing.assert_close(through_slot(engine), expected, atol=1e-5, rtol=0)


def test_pairs_on_the_patch_projections_are_served_as_peft_computes_them(base: Path, tmp_path: Path) -> None:
    """A convolution; peft adapts it where "proj" is a target, as in adapters of others for all linear layers."""
    targets = [
        "vision_backbone.featurizer.embeddings.patch_embeddings.projection",
        "vision_backbone.fused_featurizer.embeddings.patch_embedding",
        "language_model.lm_head",
    ]
    expected = learn(base, tmp_path / "patches", targets, r=4, lora_alpha=8)
    engine = Engine(load_checkpoint(base))
    before = through_slot(engine)
    engine.load_adapter(tmp_path / "patches")
    engine.flip()
    torch.testing.assert_close(through_slot(engine), expected, atol=1e-5, rtol=0)
    assert (through_slot(engine) - before).abs().max() > 0.1


def test_targets_leave_out_the_output_layer_and_the_towers_unless_asked(base: Path) -> None:
    model = load_checkpoint(base).model
    plain, towers = lora_targets(model), lora_targets(model, towers=True)
    assert len(plain) == 2 * 7 + 3
    assert set(plain) < set(towers)
    assert not any(name.endswith("lm_head") for name in towers)
    assert set(lora_targets(model, head=True)) - set(plain) == {"language_model.lm_head"}


def test_a_fused_qkv_of_timm_equals_its_arithmetic(base: Path, tmp_path: Path) -> None:
    """W x + s B (A x) on timm's fused matrix is the base model with W + s B A written into its file."""
    name = "vision_backbone.featurizer.blocks.0.attn.qkv"
    a, b = torch.randn(3, 32), torch.randn(96, 3)
    folder = tmp_path / "fused"
    folder.mkdir()
    prefix = f"base_model.model.{name}"
    save_file({f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6}))
    vla = load_checkpoint(base)
    seal(folder, vla.base_hash)
    engine = Engine(vla)
    engine.load_adapter(folder)
    engine.flip()
    got = through_slot(engine)

    merged = load_checkpoint(base)
    delta = 2.0 * b @ a
    attention = merged.model.vision_backbone.featurizer.encoder.layer[0].attention
    with torch.no_grad():
        for i, part in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
            part.weight += delta[32 * i : 32 * (i + 1)]
    torch.testing.assert_close(got, logprobs(merged.model, merged), atol=1e-4, rtol=0)


def break_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def break_base(folder: Path) -> None:
    dataclasses.replace(read_manifest(folder), base_hash="0" * 64).write(folder)


def break_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def break_truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500])
    reseal(folder)


def break_swap_files(folder: Path) -> None:
    change(folder, lambda tensors: tensors[next(iter(tensors))].add_(1.0), sealed=False)


def break_nan(folder: Path) -> None:
    change(folder, lambda tensors: tensors[next(iter(tensors))].fill_(float("nan")))


def break_overflow(folder: Path) -> None:
    change(folder, lambda tensors: [t.fill_(1e30) for n, t in tensors.items() if "q_proj" in n or "down_proj" in n])


def break_shape(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({n: t[:, :-1] for n, t in tensors.items() if "fc1.lora_A" in n}))


def break_half(folder: Path) -> None:
    change(folder, lambda tensors: tensors.pop(next(n for n in tensors if "lora_B" in n)))


def break_name(folder: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if "layers.1" in n]:
            tensors[name.replace("layers.1", "layers.40")] = tensors.pop(name)

    change(folder, rename)


def break_dora(folder: Path) -> None:
    configure(folder, use_dora=True)


def break_saved_modules(folder: Path) -> None:
    configure(folder, modules_to_save=["lm_head"])


def break_rank(folder: Path) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in list(tensors.items()):
            tensors[name] = tensor.repeat(20, 1) if "lora_A" in name else tensor.repeat(1, 20)

    change(folder, widen)
    configure(folder, r=80)


def break_config(folder: Path) -> None:
    (folder / CONFIG).write_text("{")
    reseal(folder)


def reseal(folder: Path) -> None:
    try:
        adapter_id = adapter_hash(folder)
    except AdapterError:
        return
    dataclasses.replace(read_manifest(folder), adapter_id=adapter_id).write(folder)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object], sealed: bool = True) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    if sealed:
        reseal(folder)


def configure(folder: Path, **values: object) -> None:
    (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **values}))
    reseal(folder)


REFUSALS = {
    break_manifest: "manifest.json: no such file",
    break_base: "trained on base model 000000000000",
    break_pickle: "adapter_model.bin: pickled",
    break_truncate: "not readable as safetensors",
    break_swap_files: "the files are",
    break_nan: "is not finite",
    break_overflow: "log-probs on the test frame are not finite",
    break_shape: "do not fit",
    break_half: "lora_B is missing",
    break_name: "no linear layer language_model.model.layers.40",
    break_dora: "use_dora is not supported",
    break_saved_modules: "modules_to_save is not supported",
    break_rank: "rank 80 is above the slot's 32",
    break_config: "adapter_config.json: not readable as JSON",
}


def test_every_bad_adapter_is_refused_with_its_reason_and_the_serving_one_goes_on(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    engine = Engine(load_checkpoint(base))
    engine.load_adapter(adapter)
    engine.flip()
    serving, expected = engine.serving, engine.act(IMAGE, TEXT, 0, 0, 1.0)
    for damage, reason in REFUSALS.items():
        folder = Path(shutil.copytree(adapter, tmp_path / damage.__name__))
        damage(folder)
        with pytest.raises(AdapterError, match=reason.replace(".", r"\.")) as caught:
            engine.load_adapter(folder)
        assert str(folder) in str(caught.value), damage.__name__
    with pytest.raises(AdapterError, match="no such adapter folder"):
        engine.load_adapter(tmp_path / "nowhere")
    after = engine.act(IMAGE, TEXT, 0, 0, 1.0)
    assert engine.serving == serving and engine.previous.adapter_id == ""
    assert after.tokens.tolist() == expected.tokens.tolist()
    assert np.array_equal(after.logprobs, expected.logprobs)
    with pytest.raises(AdapterError, match="no adapter has been loaded"):
        engine.flip()


def test_flips_and_rollbacks_count_and_change_what_is_computed(base: Path, adapter: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "second adapter", r=8)
    engine = Engine(load_checkpoint(base))
    with pytest.raises(AdapterError, match="nothing to roll back to"):
        engine.rollback()
    seen = [engine.act(IMAGE, TEXT, 0, 0, 0.0)]
    for folder in (adapter, tmp_path / "second adapter"):
        engine.load_adapter(folder)
        assert np.array_equal(engine.act(IMAGE, TEXT, 0, 0, 0.0).logprobs, seen[-1].logprobs)
        engine.flip()
        seen.append(engine.act(IMAGE, TEXT, 0, 0, 0.0))
    assert [d.adapter_seq for d in seen] == [0, 1, 2]
    assert len({d.adapter_id for d in seen}) == 3
    assert len({tuple(d.logprobs) for d in seen}) == 3
    engine.rollback()
    again = engine.act(IMAGE, TEXT, 0, 0, 0.0)
    assert (again.adapter_id, again.adapter_seq) == (seen[1].adapter_id, 3)
    assert np.array_equal(again.logprobs, seen[1].logprobs)
    engine.load_adapter(None)
    engine.flip()
    assert np.array_equal(engine.act(IMAGE, TEXT, 0, 0, 0.0).logprobs, seen[0].logprobs)


def test_the_id_is_that_of_content_not_of_the_order_or_place(adapter: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    config = json.loads((copy / CONFIG).read_text())
    config["target_modules"] = config["target_modules"][::-1]
    config["base_model_name_or_path"] = "/elsewhere"
    (copy / CONFIG).write_text(json.dumps(config, indent=3))
    assert adapter_hash(copy) == adapter_hash(adapter)
    (copy / CONFIG).write_text(json.dumps({**config, "lora_alpha": 17}))
    assert adapter_hash(copy) != adapter_hash(adapter)


def test_the_manifest_comes_back(adapter: Path, base: Path) -> None:
    weights = read_adapter(adapter, load_checkpoint(base).base_hash)
    assert weights.manifest.episodes == ("a", "b") and weights.manifest.pairs == 1
    assert weights.manifest == read_manifest(adapter)


def test_the_registrys_pointer(tmp_path: Path) -> None:
    assert current_adapter(tmp_path) is None
    (tmp_path / "current").write_text("\n")
    assert current_adapter(tmp_path) is None
    (tmp_path / "abc").mkdir()
    (tmp_path / "current").write_text("abc\n")
    assert current_adapter(tmp_path) == tmp_path / "abc"
    for name in ("gone", "../abc"):
        (tmp_path / "current").write_text(name)
        with pytest.raises(AdapterError, match="names adapter"):
            current_adapter(tmp_path)
