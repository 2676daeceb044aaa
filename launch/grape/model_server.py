"""The engine as a model server of vla-eval: its benchmarks' observations in, its benchmarks' actions out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from anyio.to_thread import run_sync
from vla_eval.model_servers.base import SessionContext
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.specs import IMAGE_RGB, LANGUAGE, DimSpec

from grape.benchmark_conventions import (
    Conventions,
    ObservationError,
    camera_image,
    client_action,
    episode_seed,
    instruction_of,
    resized,
    spoken_rotation,
)
from grape_policy.checkpoint import Vla
from grape_policy.config import ACTION_SIZE
from grape_policy.engine import AdapterInfo, Decision, Request

log = logging.getLogger(__name__)
REQUEST = "request"
SAID = 80
"""Characters of a client's text that are shown."""


class Actor(Protocol):
    """The part of engine.Engine that is used here."""

    vla: Vla
    unnorm_key: str | None

    @property
    def serving(self) -> AdapterInfo: ...
    def act_batch(self, requests: Sequence[Request]) -> list[Decision]: ...


class GrapeModelServer(PredictModelServer):
    """A checkpoint, with the adapter that the engine serves, for the clients of one benchmark.

    Each connection has episodes; an episode's steps are sampled with a seed that follows from its identity, so that a
    rerun is the same. Observations of several connections are batched up to ``max_batch_size``.
    """

    def __init__(
        self,
        engine: Actor,
        conventions: Conventions,
        seed: int = 0,
        temperature: float = 0.0,
        max_batch_size: int = 1,
    ) -> None:
        """temperature 0 is greedy. The engine has been loaded and warmed up: clients are served at once."""
        super().__init__(max_batch_size=max_batch_size)
        self.engine, self.conventions = engine, conventions
        self.seed, self.temperature = seed, temperature
        self.rotation = spoken_rotation(engine.vla.spec, conventions)
        self._seeds: WeakKeyDictionary[SessionContext, int] = WeakKeyDictionary()  # a context is one episode's

    # what the client is told at its first message

    def get_observation_params(self) -> dict[str, Any]:
        return dict(self.conventions.client_params)

    def get_observation_spec(self) -> dict[str, DimSpec]:
        return {self.conventions.camera: IMAGE_RGB, "language": LANGUAGE}

    def get_action_spec(self) -> dict[str, DimSpec]:
        """What the actions are; the description says who made them, and the client keeps it with its results."""
        conventions, serving = self.conventions, self.engine.serving
        served = f"base {serving.base_hash[:12]}, adapter {serving.adapter_id[:12] or 'none'}"
        served += f", unnorm_key {self.engine.unnorm_key or self.engine.vla.stats.keys()[0]}"
        gripper = (0.0, 1.0) if conventions.gripper.endswith("01") else (-1.0, 1.0)
        return {
            "position": DimSpec("position", 3, "delta_xyz", (-1.0, 1.0), description=served),
            "rotation": DimSpec("rotation", 3, conventions.rotation, (-3.15, 3.15)),
            "gripper": DimSpec("gripper", 1, conventions.gripper, gripper),
        }

    # episodes

    async def on_episode_start(self, config: dict[str, Any], ctx: SessionContext) -> None:
        """Note the seed of the episode that ``config["task"]`` names. Raises ObservationError where it names none."""
        task = config.get("task")
        if not isinstance(task, dict):
            raise ObservationError("episode_start: field task: expected a map that names the episode")
        self._seeds[ctx] = episode_seed(self.seed, task)
        name, number = str(task.get("name", "")), task.get("episode_idx", "")
        log.info("episode %r of %r, seed %d", number, name[:SAID], self._seeds[ctx])
        await super().on_episode_start(config, ctx)

    async def on_episode_end(self, result: dict[str, Any], ctx: SessionContext) -> None:
        self._seeds.pop(ctx, None)
        log.info("episode ended: %s steps, %s", result.get("steps", ctx.step), str(result.get("metrics", ""))[:SAID])
        await super().on_episode_end(result, ctx)

    # steps

    async def on_observation(self, obs: dict[str, Any], ctx: SessionContext) -> None:
        """Answer an observation. Raises ObservationError or ProcessingError, which the client is told.

        It becomes a request here, before it is queued: in a batch, one client's mistake would end the others' steps."""
        seed = self._seeds.get(ctx)
        if seed is None:
            raise ObservationError("observation: no episode has been started on this connection")
        request = await run_sync(self.request, obs, seed, ctx.step)
        await super().on_observation({REQUEST: request}, ctx)

    def request(self, obs: dict[str, Any], seed: int, step: int) -> Request:
        """What the engine is asked for an observation: its image at the model's size, its instruction.

        Raises ObservationError naming the field, ProcessingError for an instruction without a prompt."""
        vla = self.engine.vla
        side = vla.spec.image_size
        image = camera_image(obs, self.conventions.camera)
        instruction = instruction_of(obs)
        length = len(vla.processor.prompt(instruction)) + vla.spec.patches + ACTION_SIZE
        longest = int(vla.spec.text["max_position_embeddings"])
        if length > longest:
            raise ObservationError(f"observation: task_description: {length} tokens, the model takes {longest}")
        seen = vla.processor.model_input(resized(image, side, self.conventions.resize))
        return Request(seen, instruction, seed, step, self.temperature)

    def predict(self, obs: dict[str, Any], ctx: SessionContext) -> dict[str, Any]:
        return self.predict_batch([obs], [ctx])[0]

    def predict_batch(self, obs_batch: list[dict[str, Any]], ctx_batch: list[SessionContext]) -> list[dict[str, Any]]:
        """The requests of several sessions in one pass of the engine. Called by one thread at a time."""
        return [self.answer(decision) for decision in self.engine.act_batch([obs[REQUEST] for obs in obs_batch])]

    def answer(self, decision: Decision) -> dict[str, Any]:
        """The message for a decision: ``actions`` (7,) float32, and, for whoever records it, what it came from."""
        return {
            "actions": client_action(decision.action, self.rotation, self.conventions),
            "tokens": np.asarray(decision.tokens).tolist(),
            "logprobs": np.asarray(decision.logprobs, np.float64).tolist(),
            "adapter_id": decision.adapter_id,
        }
