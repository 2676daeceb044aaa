"""What a training run is told: one frozen record, named presets, overrides checked by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grape_reward.spec import DEFAULT_OBJECTIVE
from grape_trainer.errors import SettingsError

METHODS = ("tpo", "step_dpo", "success_only", "filtered_bc", "sft")
CLONING = ("filtered_bc", "sft")
"""Methods that imitate episodes; the others learn from pairs."""
RANKINGS = ("balanced", "paper", "success", "swift", "random")
EQUALS = ("all", "successes", "none")
BETA_MODES = ("sum", "pair_mean_length")
LOSSES = ("trajectory", "length_normalised")
REFERENCES = ("sft", "previous")
SUPERVISED_ON = ("chosen", "successes")
STATISTICS = ("own", "base")


@dataclass(frozen=True)
class Settings:
    """One training run. Numbers are per update unless they say otherwise; nats for log-probs."""

    preset: str = "default"

    method: str = "tpo"
    """``tpo``: Eq. 5-6; ``step_dpo``: the paper's step-wise baseline; ``success_only``: TPO on pairs chosen by success
    alone; ``filtered_bc``: behaviour cloning of successful rollouts; ``sft``: Eq. 1 on demonstrations."""

    ranking: str = "balanced"
    """``balanced``: success, log R_ext and per-token R_self z-scored within the task; ``paper``: Eq. 10;
    ``success``: success alone, ties in an order without meaning (what method ``success_only`` takes); ``swift``:
    success, then fewer steps to it, failures all alike; ``random``: an order without meaning, a control that must
    teach nothing (with ``filtered_bc``: as many episodes as there are successes, whichever)."""
    m: int = 2
    """Top m against bottom m of each initial state, at most half of its rollouts each."""
    lambdas: tuple[float, float, float] = (0.01, 0.01, 2.0)
    """Weights of R_self, R_ext and I_success in Eq. 10; used by ranking ``paper`` only."""
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of ranking ``balanced``: weights of the z-scored R_self, R_ext and I_success; 0 leaves a term out. Success comes
    first unless its weight is 0."""
    min_margin: float = 0.0
    """Pairs of equal success are kept only above this difference of rank score."""
    equal_success: str = "all"
    """Which pairs of equal success are kept. ``all``; ``successes``: not those of two failures, so that no failure is
    ever imitated as a chosen side; ``none``: both sides differ in success, so that no success is pushed away either.
    Where no pair is left, all are kept: a policy that never succeeds learns from costs."""

    reference: str = "sft"
    """``sft``: the base model, adapter off; ``previous``: the adapter that training starts from."""
    recorded_tolerance: float = 1e-4
    """An episode is left out where a recomputed log-prob differs from the recorded one by more, nats a token, in
    float32 and float64; 0: no such check."""
    recorded_tolerance_bf16: float = 0.5
    """The same in bfloat16, where serving and training round differently."""

    loss: str = "trajectory"
    """``trajectory``: Eq. 5; ``length_normalised``: each side's log-ratio divided by its own number of steps."""
    beta: float = 4.5
    beta_mode: str = "pair_mean_length"
    """Of loss ``trajectory``. ``sum``: Eq. 5 as printed; ``pair_mean_length``: beta divided by the mean length of the
    two sides."""
    centred: bool = False
    """Every step's log-ratio plus KL(reference, policy) there: its mean over the reference's own actions is then 0,
    wherever the policy is. A bare sum of log-ratios falls with every move away from the reference, the more the longer
    the episode: where the worse side is the longer one, drifting anywhere lowers the loss."""
    action_blur: float = 0.0
    """Standard deviation, in action bins, of the Gaussian about a recorded action over which the loss takes the mean
    of the log-probs: neighbouring bins count as nearly the same (``grape_trainer.blur``); 0: the exact tokens."""
    positive_anchor: float = 0.0
    """Weight of DPO-Positive's term: a chosen side below its reference counts against the margin; 0: off."""
    window: int = 1
    """Of method ``step_dpo``: consecutive steps that are one decision."""
    supervised_weight: float = 10.0
    """Weight of the mean token cross-entropy of the chosen trajectory; 0: off."""
    supervised_on: str = "chosen"
    """Whose cross-entropy that is. ``chosen``: of the chosen side of every pair; ``successes``: also of every success
    that is in no pair, such as those of an initial state where all succeed; each is an item of the batches."""

    lora_rank: int = 32
    lora_alpha: int = 32
    statistics: str = "own"
    """Of method ``sft``. ``own``: action statistics of the demonstrations; ``base``: those of the base model."""
    train_towers: bool = False
    """LoRA on the vision towers as well as on projector and language model."""
    train_head: bool = False
    """LoRA on the layer that gives the logits as well: what the bins have in common, such as how far a decision
    spreads to its neighbours, lies there."""

    learning_rate: float = 2e-4
    adam_betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Bound on the norm of the gradient; 0: none."""
    warmup: int = 5
    """Updates over which the learning rate rises linearly to its value."""
    epochs: int = 1
    batch_pairs: int = 8
    max_updates: int = 0
    """0: as many as the epochs give."""
    max_seconds: float = 0.0
    """Stop after so many seconds of updates, keeping the last state; 0: no such stop. Not reproducible."""

    drift_bound: float = -0.1
    """Stop when the chosen side's mean log-ratio to the reference falls below this, nats a step; 0: no bound."""
    kl_bound: float = 0.3
    """Stop when the mean KL(policy, reference) on held-out steps passes this, nats a step; 0: no bound."""
    check_every: int = 5
    """Updates between two checks on held-out steps; a check that passes is the state gone back to."""
    holdout: float = 0.1
    """Share of the initial states whose pairs are held out for the checks; none below five states."""
    holdout_steps: int = 96
    """So many held-out steps enter the KL of a check."""
    holdout_pairs: int = 8
    """At most so many pairs enter the drift and accuracy of a check."""

    max_pairs: int = 0
    """Initial states are drawn, task by task in turn, until so many pairs are in; 0: all."""
    chunk: int = 16
    """Steps in one graph: bounds the memory, does not change the gradient."""
    gradient_mb: int = 512
    """Where the gradients of a batch's episodes fit in this, one pass instead of two gives the same gradient."""
    cache_mb: int = 1024
    """Memory for images, or for tower features where the towers are frozen; the rest is read again."""
    checkpoint_every: int = 5
    """Updates between two checkpoints to resume from."""
    snapshots: bool = False
    """Keep the adapter of every check that passes, in ``snapshots/`` by its update: to try each of them."""
    seed: int = 0

    def __post_init__(self) -> None:
        def check(condition: bool, name: str, wanted: str) -> None:
            if not condition:
                raise SettingsError(f"setting {name}: must be {wanted}, not {getattr(self, name)!r}")

        for name, known in (
            ("method", METHODS),
            ("ranking", RANKINGS),
            ("equal_success", EQUALS),
            ("beta_mode", BETA_MODES),
            ("loss", LOSSES),
            ("reference", REFERENCES),
            ("supervised_on", SUPERVISED_ON),
            ("statistics", STATISTICS),
        ):
            check(getattr(self, name) in known, name, f"one of {', '.join(known)}")
        for name in (
            "m",
            "window",
            "lora_rank",
            "epochs",
            "batch_pairs",
            "check_every",
            "holdout_pairs",
            "chunk",
            "checkpoint_every",
        ):
            check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("beta", "learning_rate"):
            check(getattr(self, name) > 0, name, "above 0")
        for name in (
            "min_margin",
            "recorded_tolerance",
            "recorded_tolerance_bf16",
            "action_blur",
            "positive_anchor",
            "supervised_weight",
            "weight_decay",
            "clip_norm",
            "warmup",
            "max_updates",
            "max_seconds",
            "kl_bound",
            "holdout_steps",
            "max_pairs",
            "gradient_mb",
            "cache_mb",
            "seed",
        ):
            check(getattr(self, name) >= 0, name, "at least 0")
        alone = self.supervised_weight == 0 and self.action_blur == 0 and not self.clones
        check(alone or not self.centred, "centred", "false with a supervised term, a blur or cloning")
        lone = self.supervised_on == "successes"
        check(not lone or (self.supervised_weight > 0 and not self.clones), "supervised_on", "chosen without that term")
        check(self.drift_bound <= 0, "drift_bound", "at most 0")
        check(0 <= self.holdout < 1, "holdout", "in [0, 1)")
        for name in ("lambdas", "balance"):
            weights = getattr(self, name)
            check(len(weights) == 3 and all(map(math.isfinite, weights)), name, "three finite numbers")
        check(any(self.balance), "balance", "not all zero, as")
        check(len(self.adam_betas) == 2 and all(0 <= b < 1 for b in self.adam_betas), "adam_betas", "two in [0, 1)")

    @property
    def pairing(self) -> str:
        """The ranking by which pairs are chosen."""
        return "success" if self.method == "success_only" else self.ranking

    @property
    def pair_rules(self) -> dict[str, Any]:
        """What ``grape_trainer.pairs.build`` is told beside the ranking."""
        return {
            "m": self.m,
            "weights": self.balance if self.ranking == "balanced" else self.lambdas,
            "min_margin": self.min_margin,
            "equal": self.equal_success,
        }

    @property
    def bounds(self) -> tuple[float, float]:
        """Of drift and KL; none for ``sft``, whose reference is what it is to leave behind."""
        return (0.0, 0.0) if self.method == "sft" else (self.drift_bound, self.kl_bound)

    @property
    def clones(self) -> bool:
        """Are episodes imitated, without pairs?"""
        return self.method in CLONING

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``settings(**)`` of it gives the same record."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }


PRESETS: dict[str, Settings] = {
    # a bound on the drift and an anchor on the chosen side: without them the log-probs of both sides
    # fall together and the policy collapses behind a perfect-looking loss
    "default": Settings(),
    # as printed (section 2.4 and Appendix A); beta is not printed, the released code has 0.1
    "paper": Settings(
        preset="paper",
        ranking="paper",
        m=1,
        beta=0.1,
        beta_mode="sum",
        supervised_weight=0.0,
        train_towers=True,
        learning_rate=2e-5,
        weight_decay=0.01,
        clip_norm=0.0,
        warmup=0,
        epochs=1,
        batch_pairs=16,
        drift_bound=0.0,
        kl_bound=0.0,
        holdout=0.0,
    ),
}
PRESETS["recommended"] = dataclasses.replace(
    PRESETS["default"],
    preset="recommended",
    # what was found, and what was not: docs/search.md
    equal_success="none",
    loss="length_normalised",
    action_blur=3.0,
    supervised_weight=30.0,
    learning_rate=1e-3,
    epochs=8,
    max_updates=60,
    drift_bound=0.0,
    kl_bound=1.5,
    check_every=20,
    checkpoint_every=20,
    holdout=0.12,
    holdout_pairs=48,
    holdout_steps=384,
    cache_mb=2048,
)
PRESETS["objective"] = dataclasses.replace(
    PRESETS["recommended"],
    preset="objective",
    # of two successes the one of lower costs: among pairs that differ in success an objective hardly has a say
    equal_success="successes",
    balance=(0.0, 1.0, 1.0),
    m=1,
)
PRESETS["paper_sft"] = dataclasses.replace(PRESETS["paper"], preset="paper_sft", method="sft", learning_rate=4e-5)


def usual(method: str = "", objective: str = "") -> str:
    """The preset where none is named: `recommended`; of demonstrations, which it was not found on, `default`; towards
    an objective other than task completion, `objective`."""
    if method == "sft":
        return "default"
    return "recommended" if objective in ("", DEFAULT_OBJECTIVE) else "objective"


def settings(preset: str = "default", **overrides: Any) -> Settings:
    """The preset with the named fields replaced.

    Raises SettingsError naming an unknown preset or field, or a value of the wrong type or range."""
    if preset not in PRESETS:
        raise SettingsError(f"unknown preset {preset!r}: one of {', '.join(PRESETS)}")
    base = PRESETS[preset]
    return dataclasses.replace(base, **_typed(base, overrides))


def _typed(base: Settings, overrides: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    fields = {field.name for field in dataclasses.fields(base)}
    for name, value in overrides.items():
        if name not in fields:
            raise SettingsError(f"unknown setting {name!r}: one of {', '.join(sorted(fields))}")
        current = getattr(base, name)
        if isinstance(current, tuple):
            if not isinstance(value, list | tuple) or not all(_is_number(v) for v in value):
                raise SettingsError(f"setting {name}: expected numbers, not {value!r}")
            result[name] = tuple(float(v) for v in value)
        elif isinstance(current, bool) or isinstance(value, bool):
            if not (isinstance(current, bool) and isinstance(value, bool)):
                raise SettingsError(f"setting {name}: expected {type(current).__name__}, not {value!r}")
            result[name] = value
        elif isinstance(current, float) and _is_number(value):
            result[name] = float(value)
        elif type(value) is type(current):
            result[name] = value
        else:
            raise SettingsError(f"setting {name}: expected {type(current).__name__}, not {value!r}")
    return result


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
