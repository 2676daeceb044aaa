"""The drift check: what was recorded of an episode must be what the model that recorded it says of it again.

A difference means that image, instruction, tokens, log-probs or weights are not those of the rollout; training on such
an episode would follow a gradient of something that never happened."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from grape_trainer.errors import TrainingError
from grape_trainer.log_probs import LogProbs
from grape_trainer.pairs import Excluded
from grape_trainer.processes import Team
from grape_trainer.settings import Settings
from grape_trainer.trajectories import Shelf, Trajectory


@dataclass(frozen=True)
class Checked:
    """``steps``: the numbers of steps of the episodes that may train; ``left_out``: the others, with their reasons;
    ``worst``: the largest difference of a log-prob among those that may, nats."""

    steps: dict[str, int]
    left_out: tuple[Excluded, ...]
    worst: float


def tolerance(settings: Settings, dtype: torch.dtype) -> float:
    """The bound on the difference of a token's log-prob, nats; 0: no check."""
    low = dtype in (torch.bfloat16, torch.float16)
    return settings.recorded_tolerance_bf16 if low else settings.recorded_tolerance


def difference(trajectory: Trajectory, log_probs: LogProbs) -> tuple[float, int, int]:
    """The largest difference of a recomputed log-prob from the recorded one, nats (infinite where the recorded one is
    no number), its step and token. 0 where none was recorded. Raises TrainingError naming the adapter or bag."""
    if trajectory.recorded is None:
        return 0.0, 0, 0
    gap = (log_probs.of(trajectory, trajectory.adapter_id) - trajectory.recorded.double()).abs()
    gap = torch.where(torch.isfinite(gap), gap, torch.inf)
    step, token = divmod(int(gap.argmax()), gap.shape[1])
    return float(gap.max()), step, token


def check(
    episodes: Sequence[str],
    paths: Mapping[str, str],
    shelf: Shelf,
    log_probs: LogProbs,
    settings: Settings,
    team: Team,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Checked:
    """Read every episode and compare its log-probs; each process takes its share, all get the whole result.

    ``told`` is called with the episodes done and all of this process's share."""
    bound = tolerance(settings, log_probs.dtype)
    mine, found = team.share(episodes), {}
    for name in mine:
        found[name] = _judge(name, shelf, log_probs, bound, settings.recorded_tolerance_bf16)
        told(len(found), len(mine))
    every: dict[str, tuple[int, float, str]] = {}
    for part in team.gather(found):
        every |= {name: (int(steps), float(gap), str(reason)) for name, (steps, gap, reason) in part.items()}
    return Checked(
        {name: every[name][0] for name in episodes if not every[name][2]},
        tuple(Excluded(name, paths[name], every[name][2]) for name in episodes if every[name][2]),
        max((gap for _, gap, reason in every.values() if not reason), default=0.0),
    )


def _judge(name: str, shelf: Shelf, log_probs: LogProbs, bound: float, coarse: float) -> tuple[int, float, str]:
    """Steps, largest difference, why it is left out. ``coarse``: the bound that holds between 16-bit numbers, nats."""
    try:
        trajectory = shelf[name]
        if not bound:
            return len(trajectory), 0.0, ""
        gap, step, token = difference(trajectory, log_probs)
    except TrainingError as error:
        return 0, 0.0, str(error)
    if gap <= bound:
        return len(trajectory), gap, ""
    recorded = "its recorded log-probs are not what the model that recorded it computes"
    said = f"{recorded}: step {step}, token {token} differs by {gap:.3g} nats, bound {bound:g}"
    if gap <= coarse:
        said += "; a policy that served in bfloat16 differs so: train in the number type that it served in"
    return 0, 0.0, f"{trajectory.path}: {said}"


def reasons(left_out: Iterable[Excluded]) -> list[dict[str, str]]:
    """As JSON values."""
    return [dataclasses.asdict(one) for one in left_out]
