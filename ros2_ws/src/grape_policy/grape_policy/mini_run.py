"""One training run of the small VLA: batches, losses, optimiser, state on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from grape_policy.checkpoint import save_checkpoint
from grape_policy.codec import ActionCodec, NormStats
from grape_policy.config import parse_config
from grape_policy.logprobs import blurred_targets
from grape_policy.mini import initialise, mini_config, mini_preprocessor, mini_tokenizer
from grape_policy.mini_demos import Demos, DemosError, action_statistics
from grape_policy.mini_heads import AuxiliaryHead, use_plain_attention
from grape_policy.model import OpenVla
from grape_policy.processing import Processor

if TYPE_CHECKING:
    from grape_policy.train_mini import TrainSettings

VALIDATION_FRAMES = 512
CLIP_NORM = 1.0
HUBER = 0.1


class Trainer:
    """Holds model, optimiser and data of one process. All processes make the same steps."""

    def __init__(self, settings: TrainSettings, demos: Demos, rank: int = 0, processes: int = 1) -> None:
        self.settings, self.demos, self.rank, self.processes = settings, demos, rank, processes
        size = settings.size
        if demos.images.shape[1:3] != (size.image_size, size.image_size):
            raise DemosError(
                f"{settings.demos}: images of {demos.images.shape[1:3]}, the model takes {size.image_size}"
            )
        episodes = len(np.unique(demos.episode))
        self.statistics = {settings.name: action_statistics(demos.actions, episodes)}
        self.config = mini_config(size, settings.name, self.statistics)
        self.spec = parse_config(self.config)
        self.tokenizer = mini_tokenizer(demos.instructions, size.vocab_size)
        self.preprocessor = mini_preprocessor(size.image_size)
        self.processor = Processor(self.spec, self.preprocessor, self.tokenizer)
        self.prompts = [self.processor.prompt(text) for text in demos.instructions]
        normalised = NormStats(self.statistics).normalise(demos.actions)
        self.codec = ActionCodec(self.spec.vocab_size, self.spec.action_bins)
        self.tokens = torch.from_numpy(self.codec.encode(normalised))
        self.normalised = torch.from_numpy(normalised).float()
        points = torch.from_numpy(demos.keypoints)
        self.points = (points - points.mean((0, 1))) / points.std((0, 1)).clamp_min(1e-3)
        self.training, self.held = demos.split()
        self.frames = len(self.training)

        self.model = OpenVla(self.spec)
        initialise(self.model, settings.seed)
        use_plain_attention(self.model)
        torch.manual_seed(settings.seed)
        self.head = AuxiliaryHead(self.spec.hidden_size, int(demos.task.max()) + 1, points.shape[1])
        for parameter in self.model.vision_backbone.unused_parameters():
            parameter.requires_grad_(False)
        self.trained = [p for m in (self.model, self.head) for p in m.parameters() if p.requires_grad]
        self.parameters = sum(p.numel() for p in self.model.parameters())
        matrices = [p for p in self.trained if p.ndim > 1]
        vectors = [p for p in self.trained if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95), fused=True)
        self.step = 0
        self.last_line = ""
        self._sums: dict[str, float] = {}
        self._counted = 0
        self._order: tuple[int, NDArray[np.int64]] = (-1, self.training)

    # batches

    def batch_indices(self, step: int) -> NDArray[np.int64]:
        """This process's share of the frames of `step`; every frame once an epoch, in an order keyed by the seed."""
        batch = min(self.settings.batch, self.frames)
        epoch, place = divmod(step, self.frames // batch)
        if self._order[0] != epoch:
            order = np.random.default_rng([self.settings.seed, epoch]).permutation(self.training)
            self._order = (epoch, order)
        return self._order[1][place * batch : (place + 1) * batch][self.rank :: self.processes]

    def _pixels(self, index: NDArray[np.int64], augment: bool) -> Tensor:
        images = self.demos.images[np.sort(index)][np.argsort(np.argsort(index))]
        pixels = self.processor.pixels(images)
        if augment and self.settings.brightness > 0.0:
            generator = torch.Generator().manual_seed(hash((self.settings.seed, self.step, self.rank)) % 2**63)
            gain, shift = self.settings.brightness * torch.randn(2, len(index), 1, 1, 1, generator=generator)
            pixels = pixels * (1.0 + gain) + shift / self.processor.std
        return pixels

    # one step

    def learning_rate(self) -> float:
        """Linear rise, plateau, linear fall to a fiftieth."""
        settings, step = self.settings, self.step
        rise = min((step + 1) / max(settings.warmup, 1), 1.0)
        fall = min(max(settings.steps - step, 0) / max(settings.decay * settings.steps, 1.0), 1.0)
        return settings.lr * rise * max(fall, 0.02)

    def _losses(self, index: NDArray[np.int64], augment: bool, blur: float) -> tuple[dict[str, Tensor], Tensor]:
        """Losses by name, and logits (B, 7, V) in fp32."""
        instruction = torch.from_numpy(self.demos.instruction[index])
        tokens = self.tokens[index]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.precision == "bf16"):
            patches = self.model.patch_embeddings(self._pixels(index, augment))
            hidden = self.model.hidden_after(patches, [self.prompts[int(i)] for i in instruction], tokens)
            logits = self.model.language_model.lm_head(hidden).float()
            seen, read, action = (
                x.float() for x in self.head(patches, hidden[:, 0], torch.from_numpy(self.demos.task[index]))
            )
        huber = nn.functional.smooth_l1_loss
        logprobs = logits.log_softmax(dim=-1)
        first = self.spec.vocab_size - self.spec.action_bins
        targets = blurred_targets(self.spec.action_bins, blur)[tokens - first]
        losses = {"action": -(targets * logprobs[..., first : self.spec.vocab_size]).sum(-1).mean()}
        losses["seen"] = huber(seen, self.points[index], beta=HUBER)
        losses["read"] = huber(read, self.points[index], beta=HUBER)
        losses["regressed"] = huber(action, self.normalised[index], beta=HUBER)
        return losses, logits

    def train_step(self, stop: bool = False) -> bool:
        """One optimiser step over all processes; returns whether any of them was asked to stop."""
        settings = self.settings
        share = self.step / max((1.0 - settings.decay) * settings.steps, 1.0)
        losses, _ = self._losses(self.batch_indices(self.step), True, settings.blur * max(1.0 - share, 0.0))
        auxiliary = losses["seen"] + losses["read"] + losses["regressed"]
        (losses["action"] + settings.auxiliary * auxiliary).backward()
        stopped = self._average(stop)
        nn.utils.clip_grad_norm_(self.trained, CLIP_NORM)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        for name, loss in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + loss.item()
        self._counted += 1
        return stopped

    def _average(self, stop: bool) -> bool:
        """Replace the gradients by their mean over the processes; the wish to stop travels along."""
        if self.processes == 1:
            return stop
        grads = [p.grad for p in self.trained if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in grads), torch.tensor([float(stop)])])
        dist.all_reduce(flat)
        parts = (flat[:-1] / self.processes).split([g.numel() for g in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
        return bool(flat[-1] > 0)

    def averages(self) -> dict[str, float]:
        """Mean losses since the last call."""
        means = {name: value / max(self._counted, 1) for name, value in self._sums.items()}
        self.last_line = " ".join(f"{name} {value:.3f}" for name, value in means.items())
        self._sums, self._counted = {}, 0
        return means

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Teacher-forced loss, token accuracy and mean absolute error per dimension on held-out episodes."""
        held = self.held if len(self.held) else self.training
        index = np.sort(np.random.default_rng(0).permutation(held)[:VALIDATION_FRAMES])
        parts = [self._losses(chunk, False, 0.0) for chunk in np.array_split(index, -(-len(index) // 32))]
        logits = torch.cat([logits for _, logits in parts])
        best = logits.argmax(-1)
        decoded = torch.from_numpy(self.codec.decode(best.numpy()))
        names = parts[0][0]
        return {
            **{
                name if name != "action" else "loss": float(np.mean([p[name].item() for p, _ in parts]))
                for name in names
            },
            "accuracy": (best == self.tokens[index]).float().mean(0).tolist(),
            "absolute_error": (decoded - self.normalised[index]).abs().mean(0).tolist(),
        }

    # on disk

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Append one line to RUN/metrics.jsonl."""
        with (self.settings.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": self.step, **values}) + "\n")

    @property
    def _state_path(self) -> Path:
        return self.settings.run / "state.safetensors"

    def save_state(self) -> None:
        """Write weights and optimiser moments, atomically."""
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"head.{n}": t for n, t in self.head.state_dict().items()}
        for i, parameter in enumerate(self.trained):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{i}.{name}"] = value
        partial = self._state_path.with_suffix(".partial")
        save_file({n: t.contiguous() for n, t in tensors.items()}, partial, metadata={"step": str(self.step)})
        partial.replace(self._state_path)

    def resume(self) -> int:
        """Go on from RUN/state.safetensors where there is one; returns the step."""
        if not self._state_path.exists():
            return 0
        with safe_open(self._state_path, "pt") as file:
            self.step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        for part, module in (("model.", self.model), ("head.", self.head)):
            module.load_state_dict({n[len(part) :]: t for n, t in tensors.items() if n.startswith(part)})
        for i, parameter in enumerate(self.trained):
            names = ("step", "exp_avg", "exp_avg_sq")
            if f"optimiser.{i}.step" in tensors:
                self.optimiser.state[parameter] = {name: tensors[f"optimiser.{i}.{name}"] for name in names}
        return self.step

    def export(self, folder: Path) -> None:
        """Write a checkpoint in OpenVLA's format, weights rounded to bf16."""
        save_checkpoint(folder, self.model, self.config, self.preprocessor, self.statistics, self.tokenizer)
