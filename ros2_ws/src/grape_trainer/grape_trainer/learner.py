"""The policy under training: a checkpoint with LoRA adapters. Its reference is itself, with the adapter off or with
another one in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from grape_policy.adapters import TOWERS, LoraWeights, lora_targets
from grape_policy.checkpoint import Vla
from grape_policy.logprobs import gather_logprobs
from grape_trainer import peft_folder, tpo
from grape_trainer.blur import Blur
from grape_trainer.errors import TrainingError
from grape_trainer.settings import Settings
from grape_trainer.trajectories import ByteCache, Trajectory


class Learner:
    """Log-probs of trajectories under policy and reference, and the LoRA weights they depend on.

    ``adapter``: a PEFT folder to go on with, with its own rank and targets; None: a new adapter, which starts as
    the identity. ``reference``: the adapter of the reference policy; None: the base model alone. Where the towers are
    frozen their features are computed once and kept in ``cache``. Raises TrainingError naming the file."""

    def __init__(
        self,
        vla: Vla,
        settings: Settings,
        cache: ByteCache,
        adapter: Path | None = None,
        reference: LoraWeights | None = None,
    ) -> None:
        self.vla, self.cache, self.chunk = vla, cache, settings.chunk
        self._reference = reference
        self._towers_changed = False
        self.base_hash = vla.base_hash
        self._blur = Blur(vla, settings.action_blur) if settings.action_blur else None
        self._sure: dict[str, Tensor] = {}
        self._centred = settings.centred
        with torch.random.fork_rng(devices=[]):
            # A is drawn at random by peft; B is zero
            torch.manual_seed(settings.seed)
            config = peft_folder.read_config(adapter) if adapter else new_config(vla.model, settings)
            self.peft: PeftModel = get_peft_model(vla.model, config)
        self.config = config
        named = [(name, p) for name, p in self.peft.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters: list[nn.Parameter] = [p for _, p in named]
        if not self.parameters:
            raise TrainingError("the adapter has no trainable weights")
        self.towers_frozen = not any(TOWERS in name for name in self.names)
        if adapter is not None:
            self.load_state(peft_folder.read_weights(adapter))
        self.peft.eval()

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model is the reference policy."""
        with self.under(self._reference):
            yield

    @contextlib.contextmanager
    def under(self, other: LoraWeights | None) -> Iterator[None]:
        """Within it the model is the base with another adapter in the place of the trained one; None: the base alone.

        Raises TrainingError naming the adapter and a module that the model does not have."""
        with self.peft.disable_adapter(), contextlib.ExitStack() as held:
            if other is not None:
                for name, (a, b) in other.layers.items():
                    held.callback(self._put(name, a, b, other.path).remove)
                self._towers_changed = any(name.startswith(TOWERS) for name in other.layers)
            try:
                yield
            finally:
                self._towers_changed = False

    def log_probs(self, trajectory: Trajectory, start: int, stop: int) -> Tensor:
        """(stop - start, 7) log-probs of the recorded tokens, nats, differentiable by ``parameters``."""
        tokens = trajectory.tokens[start:stop].to(self.device)
        return gather_logprobs(self.logits(trajectory, start, stop), tokens)

    def seen_log_probs(self, trajectory: Trajectory, start: int, stop: int) -> Tensor:
        """The same of the actions as the loss sees them: through the settings' blur, or with KL(reference, policy) of
        each token added where the settings ask for centred log-ratios."""
        tokens = trajectory.tokens[start:stop].to(self.device)
        if self._blur is not None:
            sure = self.reference_sure(trajectory)[start:stop].to(self.device)
            return self._blur.log_probs(self.logits(trajectory, start, stop), tokens, sure)
        if not self._centred:
            return self.log_probs(trajectory, start, stop)
        with torch.no_grad(), self.reference():
            reference = self.logits(trajectory, start, stop)
        logits = self.logits(trajectory, start, stop)
        return gather_logprobs(logits, tokens) + tpo.token_kl(reference, logits)

    def reference_sure(self, trajectory: Trajectory) -> Tensor:
        """(T, 7) bool: where the blur sees sharply because the reference is sure, False without a blur. Computed once
        an episode; the first time not within :meth:`under`, which does not nest."""
        name, steps, blur = trajectory.episode_id, len(trajectory), self._blur
        if blur is None:
            return torch.zeros(steps, 7, dtype=torch.bool)
        if name not in self._sure:
            with torch.no_grad(), self.reference():
                starts = range(0, steps, self.chunk)
                parts = [blur.sure(self.logits(trajectory, at, min(at + self.chunk, steps))).cpu() for at in starts]
            self._sure[name] = torch.cat(parts)
        return self._sure[name]

    def logits(self, trajectory: Trajectory, start: int, stop: int) -> Tensor:
        """(stop - start, 7, V) teacher-forced logits at the action positions."""
        model = self.vla.model
        tokens = trajectory.tokens[start:stop].to(self.device)
        prompts = [p.to(self.device) for p in trajectory.prompts[start:stop]]
        if self.towers_frozen and not self._towers_changed:
            patches = model.projector(self._features(trajectory, start, stop))
        else:
            patches = model.patch_embeddings(self._pixels(trajectory, start, stop))
        return model.language_model.lm_head(model.hidden_after(patches, prompts, tokens))

    def state(self) -> dict[str, Tensor]:
        """A copy of the LoRA weights under PEFT's names, on the CPU."""
        held = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in sorted(held.items())}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put LoRA weights in; raises TrainingError naming what does not fit."""
        wanted = {
            name: t.shape for name, t in get_peft_model_state_dict(self.peft, save_embedding_layers=False).items()
        }
        given = {name: tensor.shape for name, tensor in state.items()}
        if wanted != given:
            odd = sorted(set(wanted.items()) ^ set(given.items()))
            raise TrainingError(f"LoRA weights do not fit the model: {odd[0][0]} {tuple(odd[0][1])}")
        set_peft_model_state_dict(self.peft, state)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.parameters[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Of the base weights."""
        return self.vla.model.projector.fc1.weight.dtype

    def _put(self, name: str, a: Tensor, b: Tensor, path: Path) -> RemovableHandle:
        """Add B A x to what a linear layer gives."""
        try:
            module = self.vla.model.get_submodule(name)
        except AttributeError:
            raise TrainingError(f"{path}: module {name} is not in the model") from None
        base = getattr(module, "base_layer", module)
        if not isinstance(base, nn.Linear) or base.weight.shape != (b.shape[0], a.shape[1]):
            raise TrainingError(f"{path}: A {tuple(a.shape)} and B {tuple(b.shape)} do not fit module {name}")
        dtype = torch.promote_types(torch.float32, base.weight.dtype)
        a, b = a.to(self.device, dtype), b.to(self.device, dtype)

        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            delta = nn.functional.linear(nn.functional.linear(inputs[0].to(dtype), a), b)
            return (output + delta).to(output.dtype)

        return module.register_forward_hook(add)

    def _pixels(self, trajectory: Trajectory, start: int, stop: int) -> Tensor:
        images = self.cache.get(("images", trajectory.episode_id), trajectory.images)
        return self.vla.processor.pixels(images[start:stop]).to(self.device, self.dtype)

    def _features(self, trajectory: Trajectory, start: int, stop: int) -> Tensor:
        # whole episodes at a time, so that a step's features do not depend on who asks first
        key = ("features", trajectory.episode_id)
        per_step = self._feature_bytes()
        if not self.cache.fits(per_step * len(trajectory)):
            with torch.no_grad():
                return self.vla.model.vision_backbone(self._pixels(trajectory, start, stop))
        return self.cache.get(key, lambda: self._all_features(trajectory))[start:stop].to(self.device)

    def _all_features(self, trajectory: Trajectory) -> Tensor:
        images = trajectory.images()
        parts = []
        with torch.no_grad():
            for at in range(0, len(trajectory), self.chunk):
                pixels = self.vla.processor.pixels(images[at : at + self.chunk]).to(self.device, self.dtype)
                parts.append(self.vla.model.vision_backbone(pixels).cpu())
        return torch.cat(parts)

    def _feature_bytes(self) -> int:
        spec = self.vla.spec
        patches = (spec.image_size // spec.towers[0].patch) ** 2
        return patches * spec.vision_width * torch.finfo(self.dtype).bits // 8


def new_config(model: nn.Module, settings: Settings) -> LoraConfig:
    """LoRA on the linear layers of :func:`lora_targets`, each named in full."""
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=lora_targets(model, settings.train_towers, settings.train_head),
    )
