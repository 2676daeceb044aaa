"""``grape serve``: a checkpoint and an adapter behind vla-eval's protocol. vla-eval is an optional dependency."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from grape.benchmark_conventions import Conventions
from grape.console import console, progress
from grape_policy.adapters import current_adapter
from grape_policy.checkpoint import load_checkpoint
from grape_policy.engine import Engine, Request

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"
NEEDED = ("vla_eval", "websockets", "msgpack", "anyio")


class ServeModelError(Exception):
    """A policy that cannot be served as asked; the text names the option."""


@dataclass(frozen=True)
class PolicySettings:
    """What to serve. adapter: a folder, `none` for the base model alone, empty for the registry's current one;
    device: a torch device or `auto` (cuda where there is one); dtype: a name in DTYPES or `auto` (bfloat16 on cuda,
    float32 elsewhere); unnorm_key None: the checkpoint's only one."""

    model: Path
    adapter: str = ""
    registry: Path | None = None
    device: str = AUTO
    dtype: str = AUTO
    unnorm_key: str | None = None
    center_crop: bool = False
    threads: int = 1


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


def load_engine(settings: PolicySettings, batch: int = 1) -> Engine:
    """Load the checkpoint and its adapter, and act once with ``batch`` black images, so that no client waits for it.

    Raises ServeModelError, CheckpointError, ConfigError or AdapterError, each naming what is wrong."""
    device = device_of(settings.device)
    name = ("bfloat16" if device.type == "cuda" else "float32") if settings.dtype == AUTO else settings.dtype
    if name not in DTYPES:
        raise ServeModelError(f"--dtype {name}: expected one of {', '.join([AUTO, *DTYPES])}")
    if settings.adapter == "none":
        folder = None
    elif settings.adapter:
        folder = Path(settings.adapter)
    else:
        folder = current_adapter(settings.registry) if settings.registry is not None else None
    with progress("loading") as tell:
        vla = load_checkpoint(
            settings.model, device, DTYPES[name], settings.center_crop, lambda done, total: tell(done, total, "")
        )
    engine = Engine(vla, threads=settings.threads, unnorm_key=settings.unnorm_key)
    if folder is not None:
        engine.load_adapter(folder)
        engine.flip()
    black = np.zeros((vla.spec.image_size, vla.spec.image_size, 3), np.uint8)
    engine.act_batch([Request(black, "warm up", 0, step, 0.0) for step in range(batch)])
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

    Raises ServeModelError, BindError, and what :func:`load_engine` raises."""
    require_vla_eval()
    import anyio

    from grape.model_server import GrapeModelServer
    from grape.model_wire import OneLine, bind, is_loopback, serve_on

    with bind(host, port) as bound:
        if not is_loopback(bound):
            console.print(f"grape: {host} is not loopback: whoever reaches this port can use the policy", markup=False)
        engine = load_engine(settings, max_batch_size)
        server = GrapeModelServer(engine, conventions, seed, temperature, max_batch_size)
        _log_to_stderr(OneLine())
        address, at = bound.getsockname()[:2]
        url = f"ws://[{address}]:{at}" if ":" in address else f"ws://{address}:{at}"
        adapter = engine.serving.adapter_id[:12] or "none"
        told = f"serving {settings.model.name}, adapter {adapter}, on {url}; Ctrl-C ends"
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
