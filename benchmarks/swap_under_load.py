"""Adapters change while the policy acts at 10 Hz: does nobody notice?

    python benchmarks/swap_under_load.py
    python benchmarks/swap_under_load.py --device cuda --dtype float32

Through the objects that the policy node uses (``EngineProcess``, ``AdapterSwitch``) one thread acts on 640x480 frames
in real time, while another loads adapters of several kinds and ranks and flips to them by force, every fifth time by a
rollback; between the swaps it tries to load twenty bad ones of ten kinds. No ROS.

- Flip time: in the inference process, from the start of the flip until the engine's next act would use the new adapter,
  which is when the flip returns. The first act that is asked for after that must name the new adapter.
- Gap: between two actions as they come back to the caller, in periods.
- Log-probs: every action's are computed again afterwards, by peft's own model around a freshly loaded checkpoint and
  ``token_logprobs``, with every adapter that took part. The adapter that the action names must give the same numbers,
  and no other may.

Prints one JSON object; exits with 1 where a measure is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _paths
import numpy as np
import peft
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from grape_policy.adapters import lora_targets
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.decision import Decision
from grape_policy.inference_process import EngineProcess
from grape_policy.logprobs import token_logprobs
from grape_policy.parameters import EngineSettings
from grape_policy.swap import AdapterSwitch
from grape_policy.testing import INSTRUCTIONS, write_bad_adapters, write_random_adapter

PERIOD = 0.1
FLIP_MS, GAP_PERIODS = 1.0, 1.5
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.2}
"""Nats. In bfloat16 the two ways round differently, and only the adapters' distance tells that they are not mixed."""
FRAMES = 16
BATCH = 16


@dataclass(frozen=True)
class Action:
    """What was asked, what came back, and when (steady clock, seconds)."""

    frame: int
    instruction: str
    asked: float
    done: float
    decision: Decision


@dataclass
class Actor:
    """Acts at 10 Hz in a thread of its own until it is told to stop."""

    engine: EngineProcess
    actions: list[Action] = field(default_factory=list)
    images: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    problem: BaseException | None = None

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        self._frames = random.integers(0, 256, (FRAMES, 480, 640, 3), dtype=np.uint8)
        self._stop = threading.Event()
        self._acted = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="actor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                self._act(len(self.actions))
                due += PERIOD * max(1, -(-(time.monotonic() - due) // PERIOD))  # a missed tick is skipped
        except BaseException as problem:
            self.problem = problem
        with self._acted:
            self._acted.notify_all()

    def _act(self, step: int) -> None:
        frame, instruction, asked = step % FRAMES, INSTRUCTIONS[step % len(INSTRUCTIONS)], time.monotonic()
        answer = self.engine.decide(self._frames[frame], instruction, 1, step, 1.0).result()
        self.images.setdefault(frame, answer.image)
        with self._acted:
            self.actions.append(Action(frame, instruction, asked, time.monotonic(), answer.decision))
            self._acted.notify_all()

    def wait_for(self, more: int) -> None:
        """Until so many more actions have been done."""
        with self._acted:
            wanted = len(self.actions) + more
            self._acted.wait_for(lambda: len(self.actions) >= wanted or self.problem is not None, 60.0)
            if len(self.actions) < wanted:
                raise RuntimeError(f"the actor has stopped: {self.problem!r}")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60.0)


def write_adapters(folder: Path, vla: Vla) -> dict[str, Path]:
    """Adapters of several ranks and kinds, by name."""
    towers = lora_targets(vla.model, towers=True)
    return {
        "rank 4": write_random_adapter(folder / "r4", vla, 4, seed=1),
        "rank 32, towers": write_random_adapter(folder / "r32", vla, 32, seed=2, targets=towers),
        "rank 8, rsLoRA": write_random_adapter(folder / "r8", vla, 8, seed=3, rslora=True),
    }


def swap(
    switch: AdapterSwitch, engine: EngineProcess, actor: Actor, good: list[Path], bad: list[Path], swaps: int, told: Any
) -> dict[str, Any]:
    """The swaps and refusals; ``told`` is called after each swap."""
    flips, late, rollbacks, refusals, wrong = [], 0, 0, [], []
    for number in range(swaps):
        back = number % 5 == 4
        reply = switch.rollback(force=True) if back else switch.load(good[number % len(good)], force=True)
        flipped = time.monotonic()
        if not reply.accepted or reply.pending:
            raise RuntimeError(f"swap {number} was not made: {reply.reason}")
        rollbacks += back
        flips.append(1e3 * engine.flip_seconds)
        actor.wait_for(2)
        after = next(action for action in actor.actions if action.asked > flipped)
        late += after.decision.adapter_seq != reply.adapter.adapter_seq
        for folder in bad[number * len(bad) // swaps : (number + 1) * len(bad) // swaps]:
            serving = switch.serving
            answer = switch.load(folder, force=True)
            actor.wait_for(1)
            if answer.accepted or not answer.reason or "\n" in answer.reason or switch.serving != serving:
                wrong.append(str(folder.name))
            refusals.append(f"{folder.name}: {answer.reason.replace(str(folder), folder.name)}")
        told()
    return {
        "swaps": swaps,
        "rollbacks": rollbacks,
        "flip_ms": percentiles(flips),
        "late_flips": late,
        "bad_adapters": len(bad),
        "bad_not_refused": wrong,
        "refusals": refusals,
    }


def compare(
    actor: Actor, adapters: dict[str, Path], model: str, device: str, dtype: str, say: Any
) -> dict[str, float | int]:
    """The largest error against the adapter that an action names, and the smallest distance to another one."""
    vla = load_checkpoint(model, device, getattr(torch, dtype))
    named = {json.loads((path / "manifest.json").read_text())["adapter_id"]: path for path in adapters.values()}
    wrapped: Any = None
    for adapter_id, path in named.items():
        if wrapped is None:
            wrapped = peft.PeftModel.from_pretrained(vla.model, str(path), adapter_name=adapter_id)
        else:
            wrapped.load_adapter(str(path), adapter_name=adapter_id)
    wrapped.eval()
    found = {}
    for adapter_id in named:
        say(f"computing the log-probs of {len(actor.actions)} actions with adapter {adapter_id[:12]}")
        wrapped.set_adapter(adapter_id)
        found[adapter_id] = recomputed(wrapped, vla, actor)
    with wrapped.disable_adapter():
        found[""] = recomputed(wrapped, vla, actor)
    worst, nearest = 0.0, float("inf")
    for row, action in enumerate(actor.actions):
        for adapter_id, values in found.items():
            distance = float(np.abs(values[row] - action.decision.logprobs).max())
            if adapter_id == action.decision.adapter_id:
                worst = max(worst, distance)
            else:
                nearest = min(nearest, distance)
    return {"steps": len(actor.actions), "logprob_error": worst, "logprob_distance_to_others": nearest}


@torch.no_grad()
def recomputed(model: Any, vla: Vla, actor: Actor) -> NDArray[np.float32]:
    """Log-probs (N, 7) of all actions' tokens."""
    weight = vla.model.embeddings.weight
    rows = []
    for start in range(0, len(actor.actions), BATCH):
        batch = actor.actions[start : start + BATCH]
        pixels = vla.processor.pixels(np.stack([actor.images[action.frame] for action in batch]))
        prompts = [vla.processor.prompt(action.instruction).to(weight.device) for action in batch]
        tokens = torch.from_numpy(np.stack([action.decision.tokens for action in batch])).long().to(weight.device)
        rows.append(
            token_logprobs(model, pixels.to(weight.device, weight.dtype), prompts, tokens).float().cpu().numpy()
        )
    return np.concatenate(rows)


def percentiles(values: Iterable[float]) -> dict[str, float]:
    held = np.asarray(list(values))
    p50, p99 = np.percentile(held, [50, 99])
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4), "max": round(float(held.max()), 4)}


def run(model: str, device: str, dtype: str, swaps: int, folder: Path, console: Console) -> dict[str, Any]:
    """Everything; see the module's docstring."""
    adapters = write_adapters(folder, load_checkpoint(model))
    bad = [path for paths in write_bad_adapters(folder, adapters["rank 4"]).values() for path in paths]
    settings = EngineSettings(model, device, dtype, adapter_rank=32)
    with Progress(console=console) as progress, EngineProcess(settings, say=progress.print) as engine:
        switch, actor = AdapterSwitch(engine), Actor(engine)
        switch.begin_episode()
        actor.wait_for(3)
        task = progress.add_task("swaps", total=swaps)
        try:
            report = swap(switch, engine, actor, list(adapters.values()), bad, swaps, lambda: progress.advance(task))
        finally:
            actor.stop()
    gaps = np.diff([action.done for action in actor.actions]) / PERIOD
    report |= {"gap_periods": percentiles(gaps), **compare(actor, adapters, model, device, dtype, console.print)}
    names = {action.decision.adapter_id for action in actor.actions}
    tolerance = TOLERANCE[dtype]
    missed = {
        f"flip p99 above {FLIP_MS} ms": report["flip_ms"]["p99"] > FLIP_MS,
        f"a gap above {GAP_PERIODS} periods": report["gap_periods"]["max"] > GAP_PERIODS,
        "an action after a flip by the former adapter": report["late_flips"] > 0,
        f"log-probs off by more than {tolerance}": not report["logprob_error"] <= tolerance,
        "log-probs that fit another adapter": not report["logprob_distance_to_others"] > tolerance,
        "a bad adapter that was not refused": bool(report["bad_not_refused"]),
        "an adapter that never acted": len(names - {""}) < len(adapters),
    }
    return {
        "model": model,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "dtype": dtype,
        **report,
        "missed": [name for name, is_so in missed.items() if is_so],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(_paths.ROOT / "models/grape-mini"), help="folder or hub id")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=sorted(TOLERANCE))
    parser.add_argument("--swaps", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(
            arguments.model,
            arguments.device,
            arguments.dtype,
            arguments.swaps,
            Path(folder),
            Console(stderr=True),
        )
    print(json.dumps(report))
    return 1 if report["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
