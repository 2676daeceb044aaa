"""Trajectories out of bags, read when they are first asked for, and a cache of bounded size."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from grape_episode.episode import Episode, EpisodeError
from grape_episode.reader import bag_file, read_episode
from grape_policy.processing import ProcessingError
from grape_trainer.errors import TrainingError


class ByteCache:
    """Tensors by key, the least recently used ones dropped above ``limit`` bytes; one that is larger alone is
    not kept at all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor under ``key``, made when it is not there."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        made = make()
        size = made.numel() * made.element_size()
        if size <= self.limit:
            self._held[key] = made
            self.bytes += size
            while self.bytes > self.limit:
                _, old = self._held.popitem(last=False)
                self.bytes -= old.numel() * old.element_size()
        return made

    def fits(self, size: int) -> bool:
        """Could a tensor of ``size`` bytes be kept?"""
        return size <= self.limit

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What the model saw and sampled. ``tokens`` (T, 7) int64; ``prompts`` T id vectors; ``images`` reads the
    (T, S, S, 3) uint8 inputs. ``recorded`` (T, 7) log-probs of the tokens, nats, under the adapter ``adapter_id``, as
    they were sampled; None where the tokens come from a person's actions. ``digest`` names bag and tokens."""

    episode_id: str
    path: str
    tokens: Tensor
    prompts: tuple[Tensor, ...]
    images: Callable[[], Tensor]
    recorded: Tensor | None = None
    adapter_id: str = ""
    digest: str = ""

    def __len__(self) -> int:
        return len(self.tokens)


class Shelf(Protocol):
    """Trajectories by episode id. Raises TrainingError naming the bag, where one cannot be trained on."""

    def __getitem__(self, episode_id: str, /) -> Trajectory: ...


class Library:
    """Rollouts of the model by episode id; tokens and prompts stay in memory, images on the disk.

    ``prompt`` maps an instruction to ids (L,); ``image_size`` and ``base_hash`` are the model's."""

    def __init__(
        self, paths: Mapping[str, str], prompt: Callable[[str], Tensor], image_size: int, base_hash: str
    ) -> None:
        self._paths, self._prompts = paths, Prompts(prompt)
        self._image_size, self._base_hash = image_size, base_hash
        self._known: dict[str, Trajectory] = {}

    def __getitem__(self, episode_id: str) -> Trajectory:
        """Raises TrainingError naming the bag: unreadable, of another model, or not what the pairs file says."""
        if episode_id not in self._known:
            self._known[episode_id] = self._trajectory(episode_id)
        return self._known[episode_id]

    def get(self, episode_ids: Iterable[str]) -> list[Trajectory]:
        return [self[episode_id] for episode_id in episode_ids]

    def _trajectory(self, episode_id: str) -> Trajectory:
        path = self._paths[episode_id]
        episode = read_bag(path, images=False)
        if episode.identity.episode_id != episode_id:
            raise TrainingError(f"{path}: holds episode {episode.identity.episode_id}, expected {episode_id}")
        check_complete(episode, path)
        if episode.identity.base_hash != self._base_hash:
            raise TrainingError(
                f"{path}: recorded with base model {episode.identity.base_hash[:12] or 'unknown'}, "
                f"training {self._base_hash[:12]}"
            )
        tokens = torch.from_numpy(episode.tokens).long()
        return Trajectory(
            episode_id,
            path,
            tokens,
            self._prompts.of(episode, path),
            lambda: model_inputs(read_bag(path), path, self._image_size),
            torch.from_numpy(episode.logprobs),
            episode.identity.adapter_id,
            digest(path, tokens),
        )


class Prompts:
    """Prompt ids of instructions, each made once."""

    def __init__(self, prompt: Callable[[str], Tensor]) -> None:
        self._prompt = prompt
        self._known: dict[str, Tensor] = {}

    def of(self, episode: Episode, path: str) -> tuple[Tensor, ...]:
        """One id vector a step. Raises TrainingError naming the bag."""
        return tuple(self.ids(step.instruction, path) for step in episode.steps)

    def ids(self, instruction: str, path: str) -> Tensor:
        """Raises TrainingError naming the bag whose instruction this is."""
        if instruction not in self._known:
            try:
                self._known[instruction] = self._prompt(instruction)
            except ProcessingError as error:
                raise TrainingError(f"{path}: {error}") from None
        return self._known[instruction]


def read_bag(path: str, images: bool = True) -> Episode:
    """The episode in a bag. Raises TrainingError naming the file."""
    try:
        return read_episode(Path(path), images=images)
    except EpisodeError as error:
        raise TrainingError(str(error)) from None


def check_complete(episode: Episode, path: str) -> None:
    """Raises TrainingError naming the bag and what is missing in it."""
    if not episode.steps:
        raise TrainingError(f"{path}: no steps")
    if not episode.complete:
        reason = episode.problems[0] if episode.problems else "it has no outcome or more than one adapter"
        raise TrainingError(f"{path}: not fit to train on: {reason}")


def model_inputs(episode: Episode, path: str, image_size: int) -> Tensor:
    """(T, S, S, 3) uint8. Raises TrainingError naming the bag, where one is missing or of another size."""
    try:
        array = episode.images
    except EpisodeError as error:
        raise TrainingError(str(error)) from None
    wanted = (image_size, image_size, 3)
    if array.shape[1:] != wanted:
        raise TrainingError(f"{path}: model inputs are {array.shape[1:]}, the model takes {wanted}")
    return torch.from_numpy(array)


def digest(path: str, tokens: Tensor) -> str:
    """sha256 hex of a bag's file and the tokens taken from it. Raises TrainingError naming the bag."""
    try:
        with open(bag_file(Path(path)), "rb") as stream:
            made = hashlib.file_digest(stream, "sha256")
    except (OSError, EpisodeError) as error:
        raise TrainingError(str(error)) from None
    made.update(tokens.numpy().tobytes())
    return made.hexdigest()
