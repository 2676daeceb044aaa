"""Peak memory of a TPO gradient by trajectory length: whole trajectories in chunks, beside one graph over all steps.

    python benchmarks/tpo_memory.py [--device cuda --dtype bfloat16]

The gradient of one pair of T-step trajectories under grape-mini with LoRA (rank 32), by the trainer's own learner, for
T = 8, 32, 128, 512, each in a process of its own: peak anonymous memory of the process, sampled every two
milliseconds, on a GPU the peak that torch allocated. Images come from a mapped file. What the trainer keeps of images
and tower features comes on top, at most its setting cache_mb.

Prints one JSON object; exits 1 where a peak of the chunked way differs from that at T = 8 by more than 5 %, or the
plain way does not grow. A plain run that would not fit in what is free is left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import _paths
from rich.console import Console
from rich.progress import track

LENGTHS = (8, 32, 128, 512)
TOLERANCE = 0.05
SAMPLE_SECONDS = 0.002


class PeakMemory:
    """Within it, the largest anonymous memory of this process, bytes; on a GPU what torch allocated at most."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self._stop = threading.Event()
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda:
            import torch

            self.bytes = torch.cuda.max_memory_allocated()
        else:
            self._stop.set()
            self._thread.join()

    def _sample(self) -> None:
        while not self._stop.is_set():
            self.bytes = max(self.bytes, anonymous())
            time.sleep(SAMPLE_SECONDS)


def anonymous() -> int:
    """Anonymous resident memory of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status: no RssAnon")


def measure(model: Path, way: str, steps: int, chunk: int, device: str, dtype: str, images: Path) -> dict[str, Any]:
    """One gradient of one pair: peak and what was there before, MB, its norm, seconds."""
    import numpy as np
    import torch

    from grape_policy.checkpoint import load_checkpoint
    from grape_trainer import tpo
    from grape_trainer.learner import Learner
    from grape_trainer.settings import settings
    from grape_trainer.trajectories import ByteCache, Trajectory

    torch.set_num_threads(1)
    vla = load_checkpoint(model, device, getattr(torch, dtype))
    learner = Learner(vla, settings(chunk=chunk), ByteCache(0))
    side, high = vla.spec.image_size, vla.spec.vocab_size
    prompt = vla.processor.prompt("put the carrot on the plate")
    mapped = np.memmap(images, np.uint8, "c", shape=(max(LENGTHS), side, side, 3))[:steps]
    drawn = torch.Generator().manual_seed(0)
    pair = {
        name: Trajectory(
            name,
            "",
            torch.randint(high - vla.spec.action_bins, high, (steps, 7), generator=drawn),
            (prompt,) * steps,
            lambda: torch.from_numpy(mapped),
        )
        for name in ("chosen", "rejected")
    }
    sides = [("chosen", "rejected")]
    loss = tpo.Loss(beta=0.1)
    # buffers of the libraries are there before it counts
    tpo.episode_gradient(learner.log_probs, pair["chosen"], learner.parameters, chunk)
    before = anonymous()
    begun = time.monotonic()
    with PeakMemory(device) as peak:
        with learner.reference():
            reference = {name: tpo.token_log_probs(learner.log_probs, t, chunk) for name, t in pair.items()}
        if way == "plain":
            whole = {name: learner.log_probs(t, 0, steps).double().sum() for name, t in pair.items()}
            gap = whole["chosen"] - whole["rejected"] - reference["chosen"].sum() + reference["rejected"].sum()
            grads = torch.autograd.grad(-torch.nn.functional.logsigmoid(loss.beta * gap), learner.parameters)
        else:
            current = {name: tpo.token_log_probs(learner.log_probs, t, chunk) for name, t in pair.items()}
            _, weights = tpo.compare(sides, current, reference, loss)
            grads = tuple(tpo.gradient(learner.log_probs, pair.values(), weights, learner.parameters, chunk))
        if device.startswith("cuda"):
            torch.cuda.synchronize()
    return {
        "way": way,
        "T": steps,
        "peak_mb": peak.bytes / 2**20,
        "before_mb": before / 2**20,
        "gradient_norm": tpo.norm(grads),
        "seconds": time.monotonic() - begun,
    }


def run(options: argparse.Namespace, way: str, steps: int, images: Path) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", way, str(steps), str(images), "--model", str(options.model)]
    command += ["--chunk", str(options.chunk), "--device", options.device, "--dtype", options.dtype]
    # one arena, and freed memory goes back at once: the peak is then that of what is used
    settled = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env={**os.environ, **settled}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def free_mb() -> float:
    """What this machine could give, MB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=_paths.ROOT / "models/grape-mini")
    parser.add_argument("--chunk", type=int, default=8, help="steps in one graph")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, steps, images = options.one[0], int(options.one[1]), Path(options.one[2])
        print(json.dumps(measure(options.model, way, steps, options.chunk, options.device, options.dtype, images)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        side = json.loads((options.model / "preprocessor_config.json").read_text())["input_sizes"][0][1]
        import numpy as np

        np.random.default_rng(0).integers(0, 256, (max(LENGTHS), side, side, 3), np.uint8).tofile(images)
        rows: list[dict[str, Any]] = []
        skipped: list[str] = []
        for way, steps in track([(w, t) for w in ("chunked", "plain") for t in LENGTHS], console=Console(stderr=True)):
            known = [row for row in rows if row["way"] == "plain"]
            if options.device == "cpu" and len(known) >= 2:
                slope = (known[-1]["peak_mb"] - known[-2]["peak_mb"]) / (known[-1]["T"] - known[-2]["T"])
                wanted = known[-1]["peak_mb"] + slope * (steps - known[-1]["T"])
                if wanted > 0.6 * free_mb():
                    skipped.append(f"plain T={steps}: would take {wanted:.0f} MB of {free_mb():.0f} free")
                    continue
            rows.append(run(options, way, steps, images))
    chunked = [row for row in rows if row["way"] == "chunked"]
    plain = [row for row in rows if row["way"] == "plain"]
    first = chunked[0]["peak_mb"]
    worst = max(abs(row["peak_mb"] / first - 1) for row in chunked)
    growth = plain[-1]["peak_mb"] / plain[0]["peak_mb"]
    same = all(
        abs(a["gradient_norm"] / b["gradient_norm"] - 1) < 1e-3
        for a in chunked
        for b in plain
        if a["T"] == b["T"] and options.dtype == "float32"
    )
    good = worst <= TOLERANCE and growth > 1.5 and same
    told: dict[str, Any] = {
        "device": options.device,
        "dtype": options.dtype,
        "chunk": options.chunk,
        "worst_difference": worst,
    }
    print(
        json.dumps(
            {**told, "plain_growth": growth, "same_gradient": same, "skipped": skipped, "rows": rows, "ok": good}
        )
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
