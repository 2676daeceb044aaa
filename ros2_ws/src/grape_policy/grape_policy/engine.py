"""Inference: one prefill and six decodes on a preallocated cache, and adapters that change between two of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grape_policy.adapters import AdapterError, read_adapter
from grape_policy.checkpoint import Vla
from grape_policy.config import ACTION_SIZE
from grape_policy.lora import SLOTS, AdapterSlots, Pairs
from grape_policy.model import run_llama
from grape_policy.processing import ProcessingError

PROBE_INSTRUCTION = "check the adapter"


@dataclass(frozen=True)
class Decision:
    """One action. tokens (7,) int32; logprobs (7,) float32, nats, whole vocabulary at temperature 1; margins (7,)
    float32, top-1 minus top-2 logit; action (7,) float64 in metres, radians and gripper opening (0 closed, 1 open)."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    margins: NDArray[np.float32]
    action: NDArray[np.float64]
    adapter_id: str
    adapter_seq: int


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter as the engine sees it; `adapter_id` is empty and `rank` 0 for the base model alone."""

    adapter_id: str
    adapter_seq: int
    base_hash: str
    path: str
    rank: int
    slot: int | None = None


class KvCache:
    """Keys and values of all layers, preallocated; `start` is the position of the next write."""

    def __init__(self, layers: int, heads: int, length: int, size: int, device: torch.device, dtype: torch.dtype):
        shape = (layers, 1, heads, length, size)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.start = 0

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Put (1, heads, N, size) at `start`; returns all up to there."""
        end = self.start + keys.shape[2]
        self.keys[layer, :, :, self.start : end] = keys
        self.values[layer, :, :, self.start : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def uniforms(seed: int, step: int, count: int = ACTION_SIZE) -> NDArray[np.float64]:
    """The random numbers of one step of one episode, in [0, 1): the same for the same (seed, step) everywhere."""
    key = np.array([seed, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def sample(logits: NDArray[np.float64], temperature: float, uniform: float) -> int:
    """The token at `uniform` of the cumulative distribution of logits (V,) / temperature; the best one at 0."""
    if temperature <= 0.0:
        return int(np.argmax(logits))
    weights = np.exp((logits - logits.max()) / temperature)
    cumulative = np.cumsum(weights)
    return int(min(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), len(logits) - 1))


class Engine:
    """Acts with a checkpoint and its adapters.

    One thread acts; another may load adapters meanwhile. A flip takes effect at the next `act`: no action is computed
    from a mixture, and every decision names its adapter.
    """

    def __init__(self, vla: Vla, threads: int = 1, unnorm_key: str | None = None, max_rank: int = 64) -> None:
        """threads: torch threads of an inference, set on purpose since small models collapse under contention.

        Raises ConfigError when `unnorm_key` is no key of the checkpoint's statistics.
        """
        self.vla, self.threads, self.unnorm_key = vla, threads, unnorm_key
        vla.stats.of(unnorm_key)
        self.slots = AdapterSlots(vla.model, max_rank)
        self._busy = threading.Lock()  # held by every forward pass of `act`, and while a slot changes its content
        self._loading = threading.Lock()
        self._serving = AdapterInfo("", 0, vla.base_hash, "", 0)
        self._previous: AdapterInfo | None = None
        self._staged: AdapterInfo | None = None
        self._prompts: dict[str, Tensor] = {}
        self._cache: KvCache | None = None

    # acting

    def act(self, image: NDArray[np.uint8], instruction: str, seed: int, step: int, temperature: float) -> Decision:
        """Seven tokens for an image (S, S, 3) uint8 of the model's input size; temperature 0 is greedy.

        Raises ProcessingError for an image of another size or type, or an empty instruction.
        """
        side = self.vla.spec.image_size
        if image.shape != (side, side, 3) or image.dtype != np.uint8:
            raise ProcessingError(f"image must be ({side}, {side}, 3) uint8, got {image.shape} {image.dtype}")
        if not np.isfinite(temperature) or temperature < 0.0:
            raise ProcessingError(f"temperature {temperature} must be 0 or above")
        prompt = self._prompt(instruction)
        with self._busy:
            serving = self._serving
            tokens, logprobs, margins = self._generate(
                image, prompt, serving.slot, temperature, uniforms(seed, step), self._cache_of(len(prompt))
            )
        action = self.vla.stats.unnormalise(self.vla.codec.decode(tokens), self.unnorm_key)
        return Decision(tokens, logprobs, margins, action, serving.adapter_id, serving.adapter_seq)

    def _prompt(self, instruction: str) -> Tensor:
        if instruction not in self._prompts:
            if len(self._prompts) >= 256:
                self._prompts.clear()
            self._prompts[instruction] = self.vla.processor.prompt(instruction)
        return self._prompts[instruction]

    def _cache_of(self, prompt_length: int) -> KvCache:
        needed = prompt_length + self.vla.spec.patches + ACTION_SIZE
        if self._cache is None or self._cache.keys.shape[3] < needed:
            self._cache = self._new_cache(needed + 64)
        return self._cache

    def _new_cache(self, length: int) -> KvCache:
        config = self.vla.model.language_model.config
        weight = self.vla.model.embeddings.weight
        size = self.vla.model.language_model.model.layers[0].self_attn.head_dim
        heads = config.num_key_value_heads or config.num_attention_heads
        return KvCache(config.num_hidden_layers, heads, length, size, weight.device, weight.dtype)

    @torch.inference_mode()
    def _generate(
        self,
        image: NDArray[np.uint8],
        prompt: Tensor,
        slot: int | None,
        temperature: float,
        numbers: NDArray[np.float64],
        cache: KvCache,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)  # OpenMP keeps the number per thread
        with self.slots.using(slot):
            return self._decode(image, prompt, temperature, numbers, cache)

    def _decode(
        self,
        image: NDArray[np.uint8],
        prompt: Tensor,
        temperature: float,
        numbers: NDArray[np.float64],
        cache: KvCache,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        model, device = self.vla.model, self.vla.model.embeddings.weight.device
        pixels = self.vla.processor.pixels(image[None]).to(device, model.embeddings.weight.dtype)
        llama = model.language_model.model
        cache.start = 0
        embeddings = model.insert_patches(model.patch_embeddings(pixels), prompt.to(device)[None])
        tokens = np.zeros(ACTION_SIZE, np.int32)
        logprobs, margins = np.zeros(ACTION_SIZE, np.float32), np.zeros(ACTION_SIZE, np.float32)
        for k in range(ACTION_SIZE):
            hidden = run_llama(llama, embeddings, cache.start, cache)
            cache.start += embeddings.shape[1]
            logits = model.language_model.lm_head(hidden[:, -1])[0].float()
            best = logits.topk(2).values
            tokens[k] = sample(logits.double().cpu().numpy(), temperature, numbers[k])
            logprobs[k] = float(logits.log_softmax(-1)[int(tokens[k])])
            margins[k] = float(best[0] - best[1])
            embeddings = model.embeddings(torch.tensor([[int(tokens[k])]], device=device))
        return tokens, logprobs, margins

    # adapters

    @property
    def serving(self) -> AdapterInfo:
        """What answers the next `act`."""
        return self._serving

    @property
    def previous(self) -> AdapterInfo | None:
        """What a rollback returns to; None when nothing served before, or its slot has been loaded anew."""
        return self._previous

    def load_adapter(self, folder: Path | None) -> AdapterInfo:
        """Read, check and put an adapter into the slot that does not serve; None stages the base model alone.

        Call `flip` to serve it. Raises AdapterError with the reason, everything as it was.
        """
        with self._loading:
            if folder is None:
                self._staged = AdapterInfo("", self._serving.adapter_seq, self.vla.base_hash, "", 0)
                return self._staged
            adapter = read_adapter(Path(folder), self.vla.base_hash)
            pairs = self.slots.fit(adapter)
            slot = next(number for number in range(SLOTS) if number != self._serving.slot)
            former = self.slots.pairs(slot)
            self._put(slot, pairs)
            try:
                self._probe(slot, adapter.path)
            except AdapterError:
                self._put(slot, former)
                raise
            if self._previous is not None and self._previous.slot == slot:
                self._previous = None
            manifest = adapter.manifest
            self._staged = AdapterInfo(
                manifest.adapter_id,
                self._serving.adapter_seq,
                manifest.base_hash,
                str(adapter.path),
                adapter.rank,
                slot,
            )
            return self._staged

    def _put(self, slot: int, pairs: Pairs) -> None:
        with self._busy:
            self.slots.put(slot, pairs)

    def _probe(self, slot: int, path: Path) -> None:
        """Act once with a slot, beside the serving one, and refuse log-probs that are not finite."""
        side = self.vla.spec.image_size
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        has_tokenizer = self.vla.processor.tokenizer is not None
        prompt = self.vla.processor.prompt(PROBE_INSTRUCTION) if has_tokenizer else torch.tensor([1])
        cache = self._new_cache(len(prompt) + self.vla.spec.patches + ACTION_SIZE)
        _, logprobs, margins = self._generate(image, prompt, slot, 0.0, np.zeros(ACTION_SIZE), cache)
        if not (np.all(np.isfinite(logprobs)) and np.all(np.isfinite(margins))):
            raise AdapterError(f"{path}: log-probs on the test frame are not finite")

    def flip(self) -> AdapterInfo:
        """Serve what was staged, from the next `act` on. Raises AdapterError when nothing was."""
        with self._loading:
            if self._staged is None:
                raise AdapterError("no adapter has been loaded since the last flip")
            return self._serve(self._staged)

    def rollback(self) -> AdapterInfo:
        """Serve what served before the last flip. Raises AdapterError when that is no longer there."""
        with self._loading:
            if self._previous is None:
                raise AdapterError("nothing served before: there is nothing to roll back to")
            return self._serve(self._previous)

    def _serve(self, info: AdapterInfo) -> AdapterInfo:
        seq = self._serving.adapter_seq + 1
        self._previous, self._staged = self._serving, None
        self._serving = AdapterInfo(info.adapter_id, seq, info.base_hash, info.path, info.rank, info.slot)
        return self._serving
