"""Trajectories out of bags, read when they are first asked for, and a cache of bounded size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from grape_episode.episode import Episode, EpisodeError
from grape_episode.reader import read_episode
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
    (T, S, S, 3) uint8 inputs."""

    episode_id: str
    path: str
    tokens: Tensor
    prompts: tuple[Tensor, ...]
    images: Callable[[], Tensor]

    def __len__(self) -> int:
        return len(self.tokens)


class Library:
    """Trajectories by episode id; tokens and prompts stay in memory, images in ``cache``.

    ``prompt`` maps an instruction to ids (L,); ``image_size`` and ``base_hash`` are the model's."""

    def __init__(
        self,
        paths: dict[str, str],
        prompt: Callable[[str], Tensor],
        image_size: int,
        base_hash: str,
        cache: ByteCache,
    ) -> None:
        self._paths, self._prompt = paths, prompt
        self._image_size, self._base_hash = image_size, base_hash
        self.cache = cache
        self._known: dict[str, Trajectory] = {}
        self._prompts: dict[str, Tensor] = {}

    def __getitem__(self, episode_id: str) -> Trajectory:
        """Raises TrainingError naming the bag: unreadable, of another model, or not what the pairs file says."""
        if episode_id not in self._known:
            episode = self._read(episode_id)
            self._known[episode_id] = self._trajectory(episode)
        return self._known[episode_id]

    def get(self, episode_ids: Iterable[str]) -> list[Trajectory]:
        return [self[episode_id] for episode_id in episode_ids]

    def _read(self, episode_id: str) -> Episode:
        path = self._paths[episode_id]
        try:
            episode = read_episode(Path(path))
        except EpisodeError as error:
            raise TrainingError(str(error)) from None
        if episode.identity.episode_id != episode_id:
            raise TrainingError(f"{path}: holds episode {episode.identity.episode_id}, expected {episode_id}")
        if not episode.complete:
            reason = episode.problems[0] if episode.problems else "it has no outcome or more than one adapter"
            raise TrainingError(f"{path}: not fit to train on: {reason}")
        if not episode.steps:
            raise TrainingError(f"{path}: no steps")
        if episode.identity.base_hash != self._base_hash:
            raise TrainingError(
                f"{path}: recorded with base model {episode.identity.base_hash[:12] or 'unknown'}, "
                f"training {self._base_hash[:12]}"
            )
        return episode

    def _trajectory(self, episode: Episode) -> Trajectory:
        episode_id = episode.identity.episode_id
        path = self._paths[episode_id]
        first: list[Episode] = [episode]

        def images() -> Tensor:
            # the bag read for the tokens serves for the first request of the images as well
            held = first.pop() if first else self._read(episode_id)
            try:
                array = held.images
            except EpisodeError as error:
                raise TrainingError(str(error)) from None
            wanted = (self._image_size, self._image_size, 3)
            if array.shape[1:] != wanted:
                raise TrainingError(f"{path}: model inputs are {array.shape[1:]}, the model takes {wanted}")
            return torch.from_numpy(array)

        try:
            prompts = tuple(self._prompt_of(step.instruction) for step in episode.steps)
        except ProcessingError as error:
            raise TrainingError(f"{path}: {error}") from None
        tokens = torch.from_numpy(episode.tokens).long()
        return Trajectory(episode_id, path, tokens, prompts, images)

    def _prompt_of(self, instruction: str) -> Tensor:
        if instruction not in self._prompts:
            self._prompts[instruction] = self._prompt(instruction)
        return self._prompts[instruction]
