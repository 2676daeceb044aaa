"""Which build of PyTorch to install.

The same pin gives a CPU build from one index and a CUDA build with several gigabytes of libraries from another.
pip is asked first what it would take; on a machine without a GPU a CUDA build is refused in favour of PyTorch's
own index of CPU builds."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class TorchError(Exception):
    """No build of PyTorch that suits this machine can be had; the text says what was tried."""


def wants_cuda(report: dict) -> bool:
    """Whether the torch of a pip installation report is a CUDA build: its name, or what it requires."""
    metadata = report["install"][0]["metadata"]
    local = metadata["version"].partition("+")[2]
    if local:
        return local.startswith("cu")
    required = metadata.get("requires_dist") or []
    return any(line.startswith(("nvidia-", "cuda-")) and "extra ==" not in line for line in required)


def offered(pip: Sequence[str], requirement: str, index: str | None) -> dict:
    """pip's report on the torch it would install from ``index`` (None: as pip is configured); nothing is installed.

    Raises TorchError with pip's last line when there is none."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "report.json"
        command = [*pip, "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--retries", "1"]
        command += ["--report", str(target), *index_options(index), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise TorchError(f"{requirement} from {index or 'the configured index'}: {last}")
        return json.loads(target.read_text())


def index_options(index: str | None) -> list[str]:
    """pip's options for taking a package from ``index`` first."""
    return ["--index-url", index] if index else []


def choose(pip: Sequence[str], requirement: str, gpu: bool, override: str | None) -> tuple[str | None, bool]:
    """(index to install ``requirement`` from, None as pip is configured; whether that is a CUDA build).

    ``override`` (GRAPE_TORCH_INDEX) is tried before anything else, then what pip is configured with, then
    the CPU index. Without a GPU a CUDA build is never chosen: TorchError names what was tried instead."""
    if override:
        cuda = wants_cuda(offered(pip, requirement, override))
        if cuda and not gpu:
            raise TorchError(f"GRAPE_TORCH_INDEX={override} offers a CUDA build of {requirement}, and there is no GPU")
        return override, cuda
    cuda = wants_cuda(offered(pip, requirement, None))
    if gpu or not cuda:
        return None, cuda
    try:
        still_cuda = wants_cuda(offered(pip, requirement, CPU_INDEX))
    except TorchError as error:
        raise TorchError(
            f"only a CUDA build of {requirement} can be reached and there is no GPU ({error}); "
            "set GRAPE_TORCH_INDEX to an index with CPU builds"
        ) from None
    if still_cuda:
        raise TorchError(f"{CPU_INDEX} gave a CUDA build of {requirement}: set GRAPE_TORCH_INDEX")
    return CPU_INDEX, False
