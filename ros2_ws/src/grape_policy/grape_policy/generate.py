"""From images and prompts to seven tokens each: one prefill and six decodes; on a GPU replayed as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grape_policy.config import ACTION_SIZE
from grape_policy.graphs import CudaRecorder, Recorder
from grape_policy.lora import AdapterSlots
from grape_policy.network import Network, attention_mask
from grape_policy.processing import ProcessingError
from grape_policy.sampling import greedy, sample

LENGTH_STEP = 16
"""On a GPU the prompts of a batch are padded to a multiple of this: a graph serves all prompts of its length."""


@dataclass(frozen=True)
class Inputs:
    """A batch: images (B, S, S, 3) uint8, text (B, L) ids padded on the right, lengths (B,) without the padding,
    numbers (B, 7) fp64 in [0, 1), temperature (B,) fp64."""

    images: Tensor
    text: Tensor
    lengths: Tensor
    numbers: Tensor
    temperature: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        return self.images, self.text, self.lengths, self.numbers, self.temperature


@dataclass(frozen=True)
class Generated:
    """tokens (B, 7) int64; logprobs (B, 7) fp32, nats, over the whole vocabulary at temperature 1; margins (B, 7) fp32,
    top-1 minus top-2 logit."""

    tokens: Tensor
    logprobs: Tensor
    margins: Tensor


def act_on(
    network: Network,
    inputs: Inputs,
    cache: Tensor,
    slot: int | None,
    sampled: bool,
    padded: bool,
    bias: Tensor | None = None,
    forced: Tensor | None = None,
) -> Generated:
    """One action for every row of `inputs`. Nothing here waits for the device or depends on values.

    cache: (layers, B, 2 kv heads, at least patches + L + 6, d). sampled: whether any temperature is above 0. padded:
    whether any prompt is shorter than L. bias: (vocabulary,) added to the logits before a token is chosen. forced:
    (B, 7) to take instead of choosing.

    Decoded token k of every row stands in the same column, behind the longest prefix: so columns are known before,
    and only positions and masks differ between rows.
    """
    device = network.device
    last = inputs.lengths + (network.spec.patches - 1)
    embeddings = network.embed(inputs.images, inputs.text, slot)
    count = embeddings.shape[1]
    cos, sin = network.rotary(last[:, None] + torch.arange(1, ACTION_SIZE, device=device))
    mask = None
    if padded:
        columns = torch.arange(count + ACTION_SIZE - 1, device=device)
        hidden_columns = (columns > last[:, None]) & (columns < count)
        mask = attention_mask(hidden_columns, network.dtype, network.layers[0].kv_heads)
    hidden = network.prefill(embeddings, last, cache, slot, padded)
    logits: list[Tensor] = []
    tokens: list[Tensor] = []
    for k in range(ACTION_SIZE):
        if k:
            at = count + k - 1
            turn = (cos[:, :, k - 1 : k], sin[:, :, k - 1 : k])
            seen = None if mask is None else mask[..., : at + 1]
            hidden = network.decode(tokens[-1], turn, at, cache, seen, slot)
        logits.append(network.logits(hidden, slot))
        if forced is not None:
            tokens.append(forced[:, k])
            continue
        choice = logits[-1] if bias is None else logits[-1] + bias
        tokens.append(sample(choice, inputs.temperature, inputs.numbers[:, k]) if sampled else greedy(choice))
    chosen, every = torch.stack(tokens, dim=1), torch.stack(logits, dim=1)
    logprobs = every.gather(-1, chosen[..., None])[..., 0] - every.logsumexp(dim=-1)
    best = every.topk(2, dim=-1).values
    return Generated(chosen, logprobs, best[..., 0] - best[..., 1])


class Generator:
    """Runs `act_on` for batches of host arrays: directly on a CPU, by captured graphs on a GPU.

    Belongs to one thread at a time.
    """

    def __init__(self, network: Network, slots: AdapterSlots, bias: Tensor | None = None) -> None:
        self.network, self.slots, self.bias = network, slots, bias
        self.graphs = GraphPool(self, CudaRecorder(network.device)) if network.device.type == "cuda" else None
        self._cache: Tensor | None = None

    def __call__(
        self,
        images: NDArray[np.uint8],
        prompts: Sequence[Tensor],
        numbers: NDArray[np.float64],
        temperatures: Sequence[float],
        slot: int | None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """Tokens, log-probs and margins, (B, 7) each.

        Raises ProcessingError for a prompt beyond the model's positions.
        """
        inputs, padded = self._inputs(images, prompts, numbers, temperatures)
        sampled = any(temperature > 0.0 for temperature in temperatures)
        with torch.inference_mode():
            if self.graphs is not None:
                result = self.graphs.run(inputs, slot, sampled)
            else:
                result = act_on(self.network, inputs, self._buffer(inputs), slot, sampled, padded, self.bias)
            parts = [part.cpu().numpy() for part in (result.tokens, result.logprobs, result.margins)]
        return parts[0].astype(np.int32), parts[1], parts[2]

    def forced(
        self, images: NDArray[np.uint8], prompts: Sequence[Tensor], tokens: NDArray[np.int32], slot: int | None
    ) -> NDArray[np.float32]:
        """Log-probs (B, 7) of given tokens (B, 7), by the operations that act; never by a graph."""
        count = len(prompts)
        inputs, padded = self._inputs(images, prompts, np.zeros((count, ACTION_SIZE)), [0.0] * count)
        with torch.inference_mode():
            inputs = Inputs(*(part.to(self.network.device) for part in inputs.tensors()))
            given = torch.from_numpy(tokens.astype(np.int64)).to(self.network.device)
            result = act_on(self.network, inputs, self._buffer(inputs), slot, False, padded, forced=given)
            return np.asarray(result.logprobs.cpu().numpy())

    def graph_length(self, length: int, batch: int = 1) -> int:
        """The prompt length of the graph that serves prompts of up to `length` tokens; 0 where there are no graphs.

        One prompt alone is not padded: its graph needs no masks, and a lab has few prompts.
        """
        if self.graphs is None:
            return 0
        return length if batch == 1 else -(-length // LENGTH_STEP) * LENGTH_STEP

    def cache(self, batch: int, columns: int) -> Tensor:
        """Room for keys and values: (layers, B, 2 kv heads, columns, d)."""
        network = self.network
        layer = network.layers[0]
        shape = (len(network.layers), batch, 2 * layer.kv_heads, columns, layer.size)
        return torch.empty(shape, device=network.device, dtype=network.dtype)

    def _buffer(self, inputs: Inputs) -> Tensor:
        batch, length = inputs.text.shape
        columns = length + self.network.spec.patches + ACTION_SIZE - 1
        if self._cache is None or self._cache.shape[1] != batch or self._cache.shape[3] < columns:
            self._cache = self.cache(batch, columns + LENGTH_STEP)
        return self._cache

    def _inputs(
        self,
        images: NDArray[np.uint8],
        prompts: Sequence[Tensor],
        numbers: NDArray[np.float64],
        temperatures: Sequence[float],
    ) -> tuple[Inputs, bool]:
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        if self.graphs is not None:
            longest = self.graph_length(longest, len(lengths))
        limit = self.network.positions - self.network.spec.patches - ACTION_SIZE
        if max(lengths) > limit:
            raise ProcessingError(f"the instruction makes {max(lengths)} tokens, the model has room for {limit}")
        text = torch.full((len(prompts), min(longest, limit)), self.network.spec.pad_token_id)
        for row, prompt in enumerate(prompts):
            text[row, : len(prompt)] = prompt
        inputs = Inputs(
            torch.tensor(images),
            text,
            torch.tensor(lengths),
            torch.from_numpy(numbers),
            torch.tensor(temperatures, dtype=torch.float64),
        )
        return inputs, min(lengths) < text.shape[1]


@dataclass(frozen=True)
class _Captured:
    replay: Callable[[], None]
    inputs: Inputs
    result: Generated


class GraphPool:
    """Recorded actions, one for each slot, set of adapted layers, batch size, prompt length and way to choose.

    A recording reads the slot's buffers, so another adapter that touches the same layers needs no new one. Only one
    runs at a time.
    """

    def __init__(self, generator: Generator, recorder: Recorder) -> None:
        self._generator, self._recorder = generator, recorder
        self._captured: dict[tuple[object, ...], _Captured] = {}

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, inputs: Inputs, slot: int | None, sampled: bool) -> Generated:
        """Replay the recording for these inputs, made at the first time. The result is overwritten by the next run."""
        batch, length = inputs.text.shape
        key = (slot, self._generator.slots.active(slot), batch, length, sampled)
        captured = self._captured.get(key)
        if captured is None:
            captured = self._captured[key] = self._capture(inputs, slot, sampled)
        self._recorder.copy(inputs.tensors(), captured.inputs.tensors())
        captured.replay()
        return captured.result

    def _capture(self, inputs: Inputs, slot: int | None, sampled: bool) -> _Captured:
        generator, (batch, length) = self._generator, inputs.text.shape
        static = Inputs(*(part.to(generator.network.device, copy=True) for part in inputs.tensors()))
        cache = generator.cache(batch, length + generator.network.spec.patches + ACTION_SIZE - 1)

        def whole() -> Generated:
            return act_on(generator.network, static, cache, slot, sampled, batch > 1, generator.bias)

        replay, result = self._recorder.record(whole)
        return _Captured(replay, static, result)
