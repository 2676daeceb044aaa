"""``grape serve``: a checkpoint and an adapter behind vla-eval's protocol. vla-eval is an optional dependency."""

from __future__ import annotations

import importlib.util
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from grape.benchmark_conventions import Conventions
from grape.console import console, progress
from grape_policy.engine import Engine, Request
from grape_policy.loading import load_engine
from grape_policy.parameters import DTYPES, MERGED, UNMERGED, EngineSettings

AUTO = "auto"
NEEDED = ("vla_eval", "websockets", "msgpack", "anyio")


class ServeModelError(Exception):
    """A policy that cannot be served as asked; the text names the option."""


@dataclass(frozen=True)
class PolicySettings:
    """What to serve. model: folder of a checkpoint, or `org/name[@revision]` of the hub; adapter: a folder, `none` for
    the base model alone, empty for the registry's current one; device: a torch device or `auto` (cuda where there is
    one); dtype: float32, bfloat16, float16 or `auto` (bfloat16 on cuda, float32 elsewhere); unnorm_key empty: the
    checkpoint's only one; the others as in EngineSettings."""

    model: str
    adapter: str = ""
    registry: str = ""
    device: str = AUTO
    dtype: str = AUTO
    unnorm_key: str = ""
    center_crop: bool = False
    threads: int = 1
    adapter_rank: int = 32
    merged: bool = False

    def resolved(self) -> EngineSettings:
        """With a device and a dtype in the place of `auto`, and no registry where the adapter is named.

        Raises ServeModelError naming a device that is none or is not there, or an unknown dtype."""
        device = device_of(self.device)
        dtype = ("bfloat16" if device.type == "cuda" else "float32") if self.dtype == AUTO else self.dtype
        if dtype not in DTYPES:
            raise ServeModelError(f"--dtype {dtype}: expected one of {', '.join([AUTO, *DTYPES])}")
        return EngineSettings(
            model=self.model,
            device=str(device),
            dtype=dtype,
            threads=self.threads,
            unnorm_key=self.unnorm_key,
            center_crop=self.center_crop,
            adapter_rank=self.adapter_rank,
            adapter_mode=MERGED if self.merged else UNMERGED,
            registry="" if self.adapter else self.registry,
            warmup=0,
        )


def device_of(name: str) -> torch.device:
    """Raises ServeModelError for a device that is none or is not there."""
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device: torch.device | None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ServeModelError(f"--device {name}: expected {AUTO}, cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ServeModelError(f"--device {name}: there is no such CUDA device")
    return device


def prepare_engine(settings: PolicySettings, batch: int = 1) -> Engine:
    """Load the checkpoint and its adapter, and act once on one and once on ``batch`` black images, so that no client
    waits for what is prepared at the first one.

    Raises ServeModelError, LoadError or AdapterError, each naming what is wrong."""
    with progress("loading") as tell:
        engine = load_engine(settings.resolved(), lambda done, total: tell(done, total, ""))
    if settings.adapter not in ("", "none"):
        engine.load_adapter(Path(settings.adapter))
        engine.flip()
    side = engine.vla.spec.image_size
    black = np.zeros((side, side, 3), np.uint8)
    for size in sorted({1, batch}):
        engine.act_batch([Request(black, "warm up", 0, step, 0.0) for step in range(size)])
    return engine


def require_vla_eval() -> None:
    """Raises ServeModelError that says what to install."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ServeModelError(
            f"grape serve needs vla-eval ({', '.join(missing)} cannot be imported): install the dependency group "
            "`benchmark` with `make setup-benchmark`"
        )


def serve_policy(
    settings: PolicySettings,
    conventions: Conventions,
    host: str,
    port: int,
    seed: int = 0,
    temperature: float = 0.0,
    max_batch_size: int = 1,
) -> None:
    """Serve until Ctrl-C. The address is taken before the model is loaded, so that a taken one is told at once.

    Raises ServeModelError, BindError, and what :func:`prepare_engine` raises."""
    require_vla_eval()
    if not 0.0 <= temperature < math.inf:
        raise ServeModelError(f"--temperature {temperature}: expected a finite number from 0 up")
    import anyio

    from grape.model_server import GrapeModelServer
    from grape.model_wire import OneLine, bind, is_loopback, serve_on

    with bind(host, port) as bound:
        if not is_loopback(bound):
            console.print(f"grape: {host} is not loopback: whoever reaches this port can use the policy", markup=False)
        engine = prepare_engine(settings, max_batch_size)
        server = GrapeModelServer(engine, conventions, seed, temperature, max_batch_size)
        _log_to_stderr(OneLine())
        address, at = bound.getsockname()[:2]
        url = f"ws://[{address}]:{at}" if ":" in address else f"ws://{address}:{at}"
        adapter = engine.serving.adapter_id[:12] or "none"
        told = f"serving {Path(settings.model).name}, adapter {adapter}, on {url}; Ctrl-C ends"
        try:
            anyio.run(serve_on, server, bound, lambda: console.print(told, markup=False))
        except KeyboardInterrupt:
            console.print("ended")


def _log_to_stderr(one_line: logging.Filter) -> None:
    handler = logging.StreamHandler()
    handler.addFilter(one_line)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name, level in (("grape", logging.INFO), ("vla_eval", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
