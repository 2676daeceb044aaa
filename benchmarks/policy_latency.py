"""From a camera frame to seven tokens: p50 and p99, beside the plain way on the same weights, and beside the roofline.

    python benchmarks/policy_latency.py --device cpu
    python benchmarks/policy_latency.py --device cuda --random-7b --adapter merged --out benchmarks/results/h200.json

Ours: pre-processing, then one prefill and six decodes by `grape_policy.engine`, log-probs and margins included. The
plain way: the same pre-processing and the model's own modules, then transformers' `generate` with its dynamic cache,
greedy, base weights only, no log-probs. The two alternate within one run, so that their ratio does not depend on the
machine's mood.

Roofline: 6 decodes, each reading the language model once, over the measured copy bandwidth (bytes read and written),
plus the FLOPs of the towers, the projector and the prefill over the measured rate of a large matrix product. It leaves
out everything else, so that 100 % cannot be reached.

Prints one JSON object; exits 1 where a measure is missed: on a CPU twice the plain way, on a GPU with 7B 33 ms at p50,
40 ms at p99, 60 % of the roofline and three times the plain way.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import _paths
import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from grape_policy.adapters import lora_targets
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.codec import ActionCodec, NormStats
from grape_policy.config import ACTION_SIZE, parse_config
from grape_policy.engine import Engine
from grape_policy.model import OpenVla
from grape_policy.processing import Processor

INSTRUCTION = "put the carrot on the plate"
LIMITS = {
    "cpu": {"ratio": 2.0},
    "cuda": {"p50_ms": 33.0, "p99_ms": 40.0, "roofline_percent": 60.0, "ratio": 3.0},
}
PREPROCESSOR = {
    "interpolations": ["bicubic", "bicubic"],
    "means": [[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]],
    "stds": [[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]],
}


def random_7b(device: torch.device, dtype: torch.dtype) -> Vla:
    """OpenVLA 7B's architecture with random weights, made on the device; it has no tokenizer."""
    spec = parse_config({"model_type": "openvla"})
    with torch.device("meta"):
        model = OpenVla(spec)
    model.to_empty(device=device).to(dtype)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.ndim == 1 and name.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
    model.make_buffers(device)
    action = {"q01": [-1.0] * ACTION_SIZE, "q99": [1.0] * ACTION_SIZE}
    stats = NormStats({"random": {"action": action}})
    codec = ActionCodec(spec.vocab_size, spec.action_bins)
    model.eval().requires_grad_(False)
    return Vla(model, spec, Processor(spec, PREPROCESSOR, None), codec, stats, "random", Path())


class Ours:
    """The serving path."""

    def __init__(self, vla: Vla, prompt: Tensor, threads: int, adapter: str) -> None:
        self.engine = Engine(vla, threads=threads, merged=adapter == "merged")
        self.prompt, self.vla, self.slot = prompt, vla, None
        if adapter != "none":
            rng = torch.Generator().manual_seed(1)
            layers = dict(vla.model.named_modules())
            pairs = {}
            for name in lora_targets(vla.model):
                layer = layers[name]
                a = torch.randn((32, layer.in_features), generator=rng) * layer.in_features**-0.5
                pairs[name] = (a, 1e-3 * torch.randn((layer.out_features, 32), generator=rng))
            self.slot = 0
            self.engine.slots.put(0, pairs)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        image = self.vla.processor.model_input(frame)
        numbers = np.zeros((1, ACTION_SIZE))
        tokens, _, _ = self.engine.generator(image[None], [self.prompt], numbers, [0.0], self.slot)
        self.vla.actions(tokens[0])
        return tokens[0]


class Plain:
    """transformers' generate over the same modules."""

    def __init__(self, vla: Vla, prompt: Tensor) -> None:
        self.vla, self.prompt = vla, prompt
        weight = vla.model.embeddings.weight
        self.device, self.dtype = weight.device, weight.dtype

    @torch.inference_mode()
    def __call__(self, frame: np.ndarray) -> np.ndarray:
        model, processor = self.vla.model, self.vla.processor
        pixels = processor.pixels(processor.model_input(frame)[None]).to(self.device, self.dtype)
        embeddings = model.insert_patches(model.patch_embeddings(pixels), self.prompt[None].to(self.device))
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=self.device)
        made = model.language_model.generate(
            inputs_embeds=embeddings,
            attention_mask=mask,
            max_new_tokens=ACTION_SIZE,
            min_new_tokens=ACTION_SIZE,
            do_sample=False,
            pad_token_id=self.vla.spec.pad_token_id,
        )
        tokens = made[0].cpu().numpy()
        self.vla.actions(tokens)
        return tokens


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def best_of(call: Callable[[], object], device: torch.device, trials: int = 7, inner: int = 5) -> float:
    """Seconds of one call, the best of several trials."""

    def several() -> None:
        for _ in range(inner):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    several()
    return min(seconds(several) for _ in range(trials)) / inner


def machine(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes a second of a copy (read and written), and FLOPs a second of a matrix product, both on this device."""
    size = 1 << (31 if device.type == "cuda" else 27)
    source = torch.ones(size // dtype.itemsize, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copy = 2 * size / best_of(lambda: target.copy_(source), device, inner=2)
    side = 8192 if device.type == "cuda" else 1024
    left = torch.randn((side, side), device=device, dtype=dtype)
    rate = 2 * side**3 / best_of(lambda: left @ left, device, inner=2)
    return copy, rate


def roofline(vla: Vla, prompt_length: int, copy: float, rate: float) -> float:
    """Seconds that the weights' way through memory and the prefill's arithmetic take at least."""
    model = vla.model
    layers = [p for p in model.language_model.model.layers.parameters() if p.ndim == 2]
    language = sum(p.numel() for p in layers)
    head = model.language_model.lm_head.weight.numel()
    decode_bytes = (language + head) * model.embeddings.weight.element_size()
    positions = vla.spec.patches + prompt_length
    vision = model.vision_backbone
    towers = (vision.featurizer.encoder.layer[:-1], vision.fused_featurizer.encoder.layers[:-1])
    prefixes = (1 + vla.spec.towers[0].registers, 0)
    flops = 2.0 * language * positions + 2.0 * head
    for blocks, prefix in zip(towers, prefixes, strict=True):
        flops += 2.0 * (vla.spec.patches + prefix) * sum(p.numel() for p in blocks.parameters() if p.ndim == 2)
    flops += 2.0 * vla.spec.patches * sum(p.numel() for p in model.projector.parameters() if p.ndim == 2)
    return (ACTION_SIZE - 1) * decode_bytes / copy + flops / rate


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    torch.set_num_threads(arguments.threads)
    if arguments.random_7b:
        vla = random_7b(device, dtype)
        prompt = torch.from_numpy(np.random.default_rng(0).integers(3, 30000, 22))
    else:
        vla = load_checkpoint(arguments.model, device, dtype)
        prompt = vla.processor.prompt(INSTRUCTION)
    ours, plain = Ours(vla, prompt, arguments.threads, arguments.adapter), Plain(vla, prompt)
    side = vla.spec.image_size
    frame_size = arguments.frame or ("640x480" if arguments.random_7b else f"{side}x{side}")
    width, height = map(int, frame_size.split("x"))
    frames = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), dtype=np.uint8)
    for frame in frames[:4]:
        ours(frame)
        plain(frame)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    differing = 0
    for number in track(range(arguments.trials), "acting", disable=not sys.stderr.isatty()):
        frame = frames[number % len(frames)]
        times["ours"].append(seconds(lambda frame=frame: ours(frame)))  # type: ignore[misc]
        times["plain"].append(seconds(lambda frame=frame: plain(frame)))  # type: ignore[misc]
        if ours.slot is None:
            differing += int(np.sum(ours(frame) != plain(frame)))
    copy, rate = machine(device, dtype)
    floor = roofline(vla, len(prompt), copy, rate)
    p50, p99 = (1e3 * float(np.percentile(times["ours"], q)) for q in (50, 99))
    plain50, plain99 = (1e3 * float(np.percentile(times["plain"], q)) for q in (50, 99))
    return {
        "benchmark": "policy_latency",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "model": "random 7B" if arguments.random_7b else str(arguments.model.name),
        "dtype": str(dtype).removeprefix("torch."),
        "adapter": arguments.adapter,
        "threads": arguments.threads,
        "frame": frame_size,
        "trials": arguments.trials,
        "p50_ms": round(p50, 3),
        "p99_ms": round(p99, 3),
        "plain_p50_ms": round(plain50, 3),
        "plain_p99_ms": round(plain99, 3),
        "ratio": round(plain50 / p50, 3),
        "differing_tokens": differing if ours.slot is None else None,
        "copy_gb_per_s": round(copy / 1e9, 1),
        "matrix_gflop_per_s": round(rate / 1e9, 1),
        "roofline_ms": round(1e3 * floor, 3),
        "roofline_percent": round(1e5 * floor / p50, 1),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--random-7b", action="store_true", help="OpenVLA 7B with random weights in place of --model")
    parser.add_argument("--model", type=Path, default=_paths.ROOT / "models" / "grape-mini")
    parser.add_argument("--dtype", help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--adapter", choices=("none", "unmerged", "merged"), help="default: merged on a GPU, else none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--frame",
        help="width x height of the camera's frame; default: 640x480, for grape-mini what its simulator sends",
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args(argv)
    kind = "cuda" if arguments.device.startswith("cuda") else "cpu"
    arguments.adapter = arguments.adapter or ("merged" if kind == "cuda" else "none")
    if kind == "cuda" and not torch.cuda.is_available():
        print("policy_latency: --device cuda: there is no CUDA device", file=sys.stderr)
        return 2
    result = measure(arguments)
    missed = []
    for name, bound in LIMITS[kind].items():
        value = float(result[name])  # type: ignore[arg-type]
        if (value > bound) if name.endswith("_ms") else (value < bound):
            missed.append(f"{name} {value:g}, asked {bound:g}")
    result |= {"missed": missed, "passed": not missed}
    text = json.dumps(result)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
