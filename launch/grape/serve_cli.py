"""``grape serve``: its options."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from grape.paths import default_model, root

MODEL, REGISTRY = str(default_model()), root() / "runs" / "adapters"


class Benchmark(StrEnum):
    libero = "libero"
    simpler = "simpler"


def serve_command(
    model: Annotated[str, typer.Option(help="Folder of the checkpoint, or org/name[@revision] on the hub.")] = MODEL,
    adapter: Annotated[
        str, typer.Option(help="Folder of an adapter, or 'none'; default: the registry's current one.")
    ] = "",
    registry: Annotated[Path, typer.Option(help="Folder of the adapter registry.")] = REGISTRY,
    benchmark: Annotated[Benchmark, typer.Option(help="Whose conventions to speak.")] = Benchmark.libero,
    unnorm_key: Annotated[str, typer.Option(help="Statistics of the actions; default: the only ones.")] = "",
    center_crop: Annotated[
        bool, typer.Option("--center-crop", help="Crop to 0.9 of the area, as in training.")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling; each episode's follows from it.")] = 0,
    max_batch_size: Annotated[int, typer.Option(min=1, max=64, help="Observations of several clients a pass.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of an inference on the CPU.")] = 1,
    adapter_rank: Annotated[int, typer.Option(min=1, max=1024, help="Rank that the adapter may have.")] = 32,
    merged: Annotated[
        bool, typer.Option("--merged", help="Add the adapter to a copy of the weights: more memory.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; there is no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    camera: Annotated[str | None, typer.Option(help="Image to look at, where not the benchmark's.")] = None,
    resize: Annotated[str | None, typer.Option(help="checkpoint or lanczos, where not the benchmark's.")] = None,
    rotation: Annotated[
        str | None, typer.Option(help="Of the actions sent: euler_xyz or axis_angle, where not the benchmark's.")
    ] = None,
    gripper: Annotated[
        str | None, typer.Option(help="Of the actions sent, by vla-eval's names, where not the benchmark's.")
    ] = None,
) -> None:
    """Serve a checkpoint with an adapter to vla-eval's benchmarks (LIBERO, Simpler-Env, ...) until Ctrl-C."""
    from grape.benchmark_conventions import conventions_of
    from grape.serve_model import PolicySettings, serve_policy

    settings = PolicySettings(
        model, adapter, str(registry), device, dtype, unnorm_key, center_crop, threads, adapter_rank, merged
    )
    spoken = conventions_of(benchmark.value, camera=camera, resize=resize, rotation=rotation, gripper=gripper)
    serve_policy(settings, spoken, host, port, seed, temperature, max_batch_size)
