"""Recording a function of tensors once and replaying it: CUDA graphs, and what stands for them in tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Recorder(Protocol):
    """Records a function without arguments that reads and writes tensors that stay where they are."""

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """What runs the function again, writing into the same result; and that result."""

    def copy(self, sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
        """Put the host's tensors into the recorded function's inputs, before the next replay."""


class CudaRecorder:
    """CUDA graphs on a stream of their own. All share one memory pool, so only one may run at a time, and its result
    must be used before the next runs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Capture; other threads may use the device meanwhile. The function must not wait for the device."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(2):  # libraries choose their kernels and allocate their workspaces before the capture
                function()
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = function()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()
                self._stream.synchronize()

        return replay, result

    def copy(self, sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
        with torch.cuda.stream(self._stream):
            for source, target in zip(sources, targets, strict=True):
                target.copy_(source.pin_memory(), non_blocking=True)
