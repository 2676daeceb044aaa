import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from grape_episode.testing import wait_for
from grape_policy.checkpoint import load_checkpoint
from grape_policy.engine import Engine
from grape_policy.logprobs import blurred_targets
from grape_policy.mini import MiniSize
from grape_policy.mini_demos import DemosError, action_statistics, load_demos
from grape_policy.mini_heads import use_plain_attention
from grape_policy.mini_run import Trainer
from grape_policy.testing import INSTRUCTIONS, TINY, write_random_checkpoint
from grape_policy.train_mini import TrainSettings, main, train

FRAMES = 60


def write_demos(folder: Path, size: int = 56) -> Path:
    """A bright square on grey; the action points from the middle to it."""
    folder.mkdir()
    for shard in range(2):
        rng = np.random.default_rng(shard)
        keypoints = rng.uniform(-0.2, 0.2, (FRAMES, 3, 3)).astype(np.float32)
        images = np.full((FRAMES, size, size, 3), 90, np.uint8)
        corners = ((keypoints[:, 0, :2] + 0.2) * 100).astype(int)
        for image, (x, y) in zip(images, corners, strict=True):
            image[y : y + 12, x : x + 12] = (250, 30, 30)
        actions = np.zeros((FRAMES, 7), np.float32)
        actions[:, :3], actions[:, 6] = 0.1 * keypoints[:, 0], rng.integers(0, 2, FRAMES)
        np.savez(
            folder / f"demos_{shard}.npz",
            images=images,
            actions=actions,
            keypoints=keypoints,
            instruction=rng.integers(0, 4, FRAMES),
            task=rng.integers(0, 4, FRAMES),
            episode=np.repeat(np.arange(FRAMES // 10) + 100 * shard, 10),
            instructions=np.array(INSTRUCTIONS),
        )
    return folder


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demos(tmp_path_factory.mktemp("data") / "demos")


def settings(demos: Path, root: Path, **changes: object) -> TrainSettings:
    values = {"steps": 12, "batch": 8, "warmup": 2, "processes": 1, "size": TINY, "snapshot_every": 0}
    return TrainSettings(demos=demos, out=root / "out", run=root / "run", **{**values, **changes})


def test_two_processes_make_the_same_model_as_one(demos: Path, tmp_path: Path) -> None:
    """Gradients averaged over halves of a batch are those of the batch; augmentation is off, it differs by process."""
    for count in (1, 2):
        train(settings(demos, tmp_path / str(count), steps=3, processes=count, brightness=0.0, precision="fp32"))
    one, two = (load_file(tmp_path / str(n) / "run" / "state.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    moments = [name for name in one if name.endswith("exp_avg")]
    far = max(float((one[n] - two[n]).norm() / (one[n].norm() + 1e-6)) for n in moments)
    assert far < 1e-3
    assert float(torch.stack([one[n].norm() for n in moments]).max()) > 1e-3


def test_a_resumed_run_ends_where_an_unbroken_one_does(demos: Path, tmp_path: Path) -> None:
    whole = Trainer(settings(demos, tmp_path / "whole"), load_demos(demos))
    for _ in range(6):
        whole.train_step()
    parts = settings(demos, tmp_path / "parts")
    parts.run.mkdir(parents=True)
    first = Trainer(parts, load_demos(demos))
    for _ in range(4):
        first.train_step()
    first.save_state()
    second = Trainer(parts, load_demos(demos))
    assert second.resume() == 4
    for _ in range(2):
        second.train_step()
    for (name, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_run_can_stop_before_the_end_of_its_schedule(demos: Path, tmp_path: Path) -> None:
    train(settings(demos, tmp_path, steps=100, stop=3))
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert (line["step"], line["lr"]) == (3, 1e-3)
    load_checkpoint(tmp_path / "out")


def test_it_learns_and_what_it_writes_is_served(demos: Path, tmp_path: Path) -> None:
    chosen = settings(demos, tmp_path, steps=60, lr=3e-3, blur=0.0)
    chosen.run.mkdir()
    trainer = Trainer(chosen, load_demos(demos))
    first = trainer.validate()
    for _ in range(60):
        trainer.train_step()
    last = trainer.validate()
    assert last["loss"] < first["loss"] - 1.0
    trainer.export(chosen.out)
    vla = load_checkpoint(chosen.out)
    decision = Engine(vla).act(load_demos(demos).images[0].copy(), INSTRUCTIONS[0], 0, 0, 0.0)
    assert np.isfinite(decision.action).all()
    assert vla.stats.keys() == ["grape-mini"]
    assert sum(path.stat().st_size for path in chosen.out.iterdir()) < 20e6


def test_sigterm_leaves_a_checkpoint_and_a_state(demos: Path, tmp_path: Path) -> None:
    arguments = ["--demos", demos, "--out", tmp_path / "out", "--run", tmp_path / "run", "--steps", 100000]
    small = "from dataclasses import replace; from grape_policy import train_mini as t; "
    small += "from grape_policy.testing import TINY; "
    small += "s = t.train; t.train = lambda x: s(replace(x, size=TINY)); import sys; sys.exit(t.main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        f"if __name__ == '__main__':\n    {small}",
        *map(str, arguments),
        "--batch",
        "8",
        "--processes",
        "1",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_for(metrics.exists, "the first metrics", 60.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30.0) == 0
    finally:
        process.kill()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"train", "validate"}
    assert lines[-1]["step"] < 100000
    assert (tmp_path / "run" / "state.safetensors").exists()
    load_checkpoint(tmp_path / "out")


def test_bad_demonstrations_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--demos", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"train_mini: {tmp_path}: no *.npz shards\n"
    folder = write_demos(tmp_path / "demos")
    with np.load(folder / "demos_1.npz") as shard:
        np.savez(folder / "demos_1.npz", **{name: shard[name] for name in shard.files if name != "keypoints"})
    with pytest.raises(DemosError, match=r"demos_1\.npz: missing \['keypoints'\]"):
        load_demos(folder)


def test_every_shard_may_have_sentences_of_its_own(tmp_path: Path) -> None:
    folder = write_demos(tmp_path / "demos")
    with np.load(folder / "demos_1.npz") as shard:
        columns = {name: shard[name] for name in shard.files}
    told = [*INSTRUCTIONS[:3], "a sentence of the second shard alone"]
    np.savez(folder / "demos_1.npz", **{**columns, "instructions": np.array(told)})
    loaded = load_demos(folder)
    assert set(loaded.instructions) == {*INSTRUCTIONS, told[3]}
    for place, index in enumerate(columns["instruction"]):
        assert loaded.instructions[loaded.instruction[FRAMES + place]] == told[index]
    np.savez(folder / "demos_1.npz", **{**columns, "instruction": columns["instruction"] + 3})
    with pytest.raises(DemosError, match=r"demos_1\.npz: instruction points beyond the 4 instructions"):
        load_demos(folder)


def test_held_out_episodes_are_whole(demos: Path) -> None:
    loaded = load_demos(demos)
    training, held = loaded.split(every=3)
    assert not set(loaded.episode[training]) & set(loaded.episode[held])
    assert len(training) + len(held) == len(loaded)
    assert np.array_equal(loaded.images[:FRAMES], np.load(demos / "demos_0.npz")["images"])


def test_a_dimension_that_hardly_moves_does_not_fill_the_bins() -> None:
    actions = np.random.default_rng(0).uniform(-0.04, 0.04, (500, 7)).astype(np.float32)
    actions[:, 3] *= 1e-3
    entry = action_statistics(actions, 5)["action"]
    assert (entry["q01"][3], entry["q99"][3]) == (-0.1, 0.1)
    assert entry["q99"][0] == pytest.approx(np.quantile(actions[:, 0], 0.99))


def test_blurred_targets_are_distributions_around_the_token() -> None:
    targets = blurred_targets(256, 3.0)
    assert torch.allclose(targets.sum(-1), torch.ones(256))
    assert torch.equal(targets.argmax(-1), torch.arange(256))
    spread = (targets[128] * (torch.arange(256) - 128.0) ** 2).sum()
    assert float(spread) == pytest.approx(9.0, rel=1e-3)
    assert torch.equal(blurred_targets(5, 0.0), torch.eye(5))


def test_plain_attention_computes_the_same(tmp_path: Path) -> None:
    model = load_checkpoint(write_random_checkpoint(tmp_path, size=MiniSize(**{**vars(TINY), "llama_depth": 3}))).model
    pixels, prompts = torch.randn(2, 6, 56, 56), [torch.arange(1, 9), torch.arange(1, 6)]
    tokens = torch.randint(512, 768, (2, 7))
    fused = model(pixels, prompts, tokens)
    use_plain_attention(model)
    torch.testing.assert_close(model(pixels, prompts, tokens), fused, atol=1e-4, rtol=0)
