"""Inference: one prefill and six decodes on a preallocated cache, and adapters that change between two of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grape_policy.adapters import AdapterError, read_adapter
from grape_policy.checkpoint import Vla
from grape_policy.config import ACTION_SIZE
from grape_policy.decision import AdapterInfo, Decision
from grape_policy.generate import Generator
from grape_policy.groups import SLOTS
from grape_policy.lora import AdapterSlots, Pairs
from grape_policy.network import Network
from grape_policy.processing import ProcessingError
from grape_policy.sampling import only_action_tokens, uniforms

__all__ = ("AdapterInfo", "Decision", "Engine", "Request")

PROBE_INSTRUCTION = "check the adapter"


@dataclass(frozen=True)
class Request:
    """What to act on. image (S, S, 3) uint8 of the model's input size; (seed, step) choose the random numbers;
    temperature 0 is greedy."""

    image: NDArray[np.uint8]
    instruction: str
    seed: int
    step: int
    temperature: float = 0.0


class Engine:
    """Acts with a checkpoint and its adapters.

    One thread acts; another may load adapters meanwhile. A flip takes effect at the next `act`: no action is computed
    from a mixture, and every decision names its adapter.
    """

    def __init__(
        self,
        vla: Vla,
        threads: int = 1,
        unnorm_key: str | None = None,
        max_rank: int = 32,
        merged: bool = False,
        action_tokens_only: bool = False,
    ) -> None:
        """threads: torch threads of an inference, set on purpose since small models collapse under contention.
        max_rank: of the adapter slots. merged: slots are whole matrices, see `AdapterSlots`. action_tokens_only: choose
        among the action tokens alone (log-probs stay those of the whole vocabulary).

        Raises ConfigError when `unnorm_key` is no key of the checkpoint's statistics.
        """
        self.vla, self.threads, self.unnorm_key = vla, threads, unnorm_key
        vla.stats.of(unnorm_key)
        network = Network(vla.model, vla.processor.mean, vla.processor.std)
        self.slots = AdapterSlots(vla.model, network.groups, max_rank, merged)
        spec = vla.spec
        sizes = (spec.vocab_size, spec.action_bins, spec.padded_vocab_size)
        self.generator = Generator(
            network, self.slots, only_action_tokens(*sizes, network.device) if action_tokens_only else None
        )
        self._busy = threading.Lock()  # held by every forward pass
        self._loading = threading.Lock()
        self._serving = AdapterInfo("", 0, vla.base_hash, "", 0)
        self._previous: AdapterInfo | None = None
        self._staged: AdapterInfo | None = None
        self._held: list[Pairs] = [{}] * SLOTS  # what each slot was filled with
        self._prompts: dict[str, Tensor] = {}

    # acting

    def act(self, image: NDArray[np.uint8], instruction: str, seed: int, step: int, temperature: float) -> Decision:
        """Seven tokens for an image (S, S, 3) uint8 of the model's input size; temperature 0 is greedy.

        Raises ProcessingError for an image of another size or type, or an empty instruction.
        """
        return self.act_batch([Request(image, instruction, seed, step, temperature)])[0]

    def act_batch(self, requests: Sequence[Request]) -> list[Decision]:
        """As `act`, for several observations at once, of any instructions, all by the same adapter.

        A request's numbers may differ in the last bits with what else is in its batch.
        """
        if not requests:
            return []
        side = self.vla.spec.image_size
        for request in requests:
            image = request.image
            if image.shape != (side, side, 3) or image.dtype != np.uint8:
                raise ProcessingError(f"image must be ({side}, {side}, 3) uint8, got {image.shape} {image.dtype}")
            if not np.isfinite(request.temperature) or request.temperature < 0.0:
                raise ProcessingError(f"temperature {request.temperature} must be 0 or above")
        prompts = [self._prompt(request.instruction) for request in requests]
        images = np.stack([request.image for request in requests])
        numbers = np.stack([uniforms(request.seed, request.step) for request in requests])
        temperatures = [request.temperature for request in requests]
        with self._forward():
            serving = self._serving
            tokens, logprobs, margins = self.generator(images, prompts, numbers, temperatures, serving.slot)
        actions = self.vla.actions(tokens, self.unnorm_key)
        return [
            Decision(*parts, serving.adapter_id, serving.adapter_seq)
            for parts in zip(tokens, logprobs, margins, actions, strict=True)
        ]

    def score(self, image: NDArray[np.uint8], instruction: str, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Log-probs (7,) in nats of given tokens (7,) under what serves: what `act` says of the tokens it chooses."""
        prompts = [self._prompt(instruction)]
        with self._forward():
            return self.generator.forced(image[None], prompts, tokens[None], self._serving.slot)[0]

    def _prompt(self, instruction: str) -> Tensor:
        if instruction not in self._prompts:
            if len(self._prompts) >= 256:
                self._prompts.clear()
            self._prompts[instruction] = self.vla.processor.prompt(instruction)
        return self._prompts[instruction]

    @contextmanager
    def _forward(self) -> Iterator[None]:
        """Within, this thread alone runs the model, with the engine's number of torch threads."""
        with self._busy:
            if torch.get_num_threads() != self.threads:
                torch.set_num_threads(self.threads)  # OpenMP keeps the number per thread
            yield

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
            adapter = read_adapter(Path(folder), self.vla.base_hash, self.vla.spec)
            pairs = self.slots.fit(adapter)
            slot = next(number for number in range(SLOTS) if number != self._serving.slot)
            former = self._held[slot]
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
            pass  # an action that began before the last flip may still read this slot; none that begins now does
        self.slots.put(slot, pairs)
        self._held[slot] = pairs

    def _probe(self, slot: int, path: Path) -> None:
        """Act once with a slot, beside the serving one, and refuse log-probs that are not finite.

        On a GPU this also captures the graph that serving will replay."""
        side = self.vla.spec.image_size
        image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        has_tokenizer = self.vla.processor.tokenizer is not None
        prompt = self.vla.processor.prompt(PROBE_INSTRUCTION) if has_tokenizer else torch.tensor([1])
        prompts = {self.generator.graph_length(len(known)): known for known in [prompt, *self._prompts.values()]}
        for known in prompts.values():
            for temperature in (0.0, 1.0):
                with self._forward():
                    result = self.generator(image, [known], np.full((1, ACTION_SIZE), 0.5), [temperature], slot)
                if not all(np.all(np.isfinite(part)) for part in result[1:]):
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
