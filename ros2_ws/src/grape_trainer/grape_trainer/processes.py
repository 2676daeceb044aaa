"""Several training processes: each takes a share of the episodes, and explicit sums bring the shares together.

There is nothing here that happens by itself within a backward pass: a batch has one sum of log-probs and one of
gradients, whatever the numbers of steps, so that unequal shares cannot make one process wait for another for ever."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from grape_trainer.errors import TrainingError

T = TypeVar("T")

MEETING = "GRAPE_MEETING"
"""Environment variable: the file by which the processes of one machine find each other."""


class GoneError(TrainingError):
    """Another process of the run has ended; what it said is the reason."""


class Team:
    """The processes of one run; ``rank`` 0 of ``size`` writes the files."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self._device = device or torch.device("cpu")

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """The items of this process; all processes must give the same ones in the same order."""
        return list(items[self.rank :: self.size])

    def balanced(self, steps: Mapping[str, int], names: Sequence[str]) -> list[str]:
        """The episodes of this process, so that all have nearly the same number of steps: the longest first, each to
        the process that has the least."""
        loads = [0] * self.size
        mine = []
        for name in sorted(names, key=lambda name: (-steps[name], name)):
            owner = loads.index(min(loads))
            loads[owner] += steps[name]
            if owner == self.rank:
                mine.append(name)
        return sorted(mine)

    def gather(self, value: Any) -> list[Any]:
        """Every process's JSON value, by rank."""
        if self.size == 1:
            return [value]
        content = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=self._device)
        lengths = [torch.zeros(1, dtype=torch.int64, device=self._device) for _ in range(self.size)]
        with _others_there():
            dist.all_gather(lengths, torch.tensor([len(content)], device=self._device))
            longest = max(int(length) for length in lengths)
            parts = [torch.zeros(longest, dtype=torch.uint8, device=self._device) for _ in range(self.size)]
            dist.all_gather(parts, torch.nn.functional.pad(content, (0, longest - len(content))))
        return [json.loads(bytes(part[: int(length)].tolist())) for part, length in zip(parts, lengths, strict=True)]

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over the processes, float64, in one operation."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.double().flatten() for tensor in tensors]).to(self._device)
        with _others_there():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape).to(tensor.device) for part, tensor in zip(parts, tensors, strict=True)]

    def log_probs(
        self, mine: Mapping[str, Tensor], steps: Mapping[str, int], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """The (T, 7) log-probs of all ``names``, each of which one process has: sums with zeros, so bit by bit its."""
        if self.size == 1:
            return {name: mine[name].cpu() for name in names}
        own = [mine[name].cpu() if name in mine else torch.zeros(steps[name], 7, dtype=torch.float64) for name in names]
        return dict(zip(names, self.sum(own), strict=True))

    def agree(self, value: bool) -> bool:
        """What the first process says."""
        return bool(self.gather(value)[0])

    def barrier(self) -> None:
        """Wait for the others."""
        self.gather(None)


@contextlib.contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise GoneError(f"another process of the run has gone; start again to go on ({said})") from None


def join_team(device: str = "cpu") -> tuple[Team, str]:
    """The team that this process was started in, by ``accelerate launch``, torchrun or ``--processes``, and the device
    of this process: of several GPUs each takes its own. Alone, a team of one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized():
        return Team(), device
    from accelerate import PartialState

    meeting = os.environ.get(MEETING)
    if meeting and not dist.is_initialized():
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        backend = "gloo" if torch.device(device).type == "cpu" else "nccl"
        dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=size)
    state = PartialState(cpu=torch.device(device).type == "cpu")
    if torch.device(device).type == "cuda":
        device = f"cuda:{state.local_process_index}"
    return Team(state.process_index, state.num_processes, torch.device(device)), device


@contextlib.contextmanager
def members(size: int, config: Path) -> Iterator[None]:
    """Within it this process is the first of ``size`` on this machine; the others train on the same configuration and
    end with it. They meet by a file and talk over the loopback device."""
    if size <= 1:
        yield
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        world = {MEETING: f"{folder}/meeting", "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
        world.setdefault("GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
        for rank in range(1, size):
            environment = {**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "grape_trainer.train", str(config), "--with-parent"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
            ending.push(_ending(process))
        before = {name: os.environ.get(name) for name in (*world, "RANK", "LOCAL_RANK")}
        os.environ.update({**world, "RANK": "0", "LOCAL_RANK": "0"})
        try:
            yield
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _ending(process: subprocess.Popen[bytes], patience: float = 10.0) -> Callable[..., None]:
    """Waits for a process that should end by itself; where this one failed, it would wait for the other for ever."""

    def end(kind: object, *_: object) -> None:
        try:
            process.wait(0.0 if kind else patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return end
