"""From what a run is told to what it learns from: the items of its method, checked, and why the others are left out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape_episode.reader import find_bags
from grape_policy.checkpoint import Vla
from grape_trainer import recorded
from grape_trainer.config import TrainConfig
from grape_trainer.demonstrations import Demonstrations
from grape_trainer.errors import TrainingError
from grape_trainer.log_probs import LogProbs
from grape_trainer.objectives import Clone, Item, clone_of
from grape_trainer.output import Pedigree
from grape_trainer.pairs import Excluded, PairSet, build, read_pairs
from grape_trainer.processes import Team
from grape_trainer.ranking import Candidate, rank
from grape_trainer.settings import Settings
from grape_trainer.training import Data
from grape_trainer.trajectories import Library, Shelf


@dataclass(frozen=True)
class Source:
    """Items of a method before any bag has been looked into. ``left_out``: what is known to be unfit; ``fresh``:
    numbers of steps of episodes in no item; ``statistics``: see ``Demonstrations``; ``told``: what names the data in a
    run's fingerprint."""

    items: Sequence[Item]
    shelf: Shelf
    paths: dict[str, str]
    fresh: dict[str, int]
    left_out: tuple[Excluded, ...]
    statistics: dict[str, Any] | None
    pedigree: Pedigree
    told: dict[str, Any]

    @property
    def episodes(self) -> list[str]:
        return sorted({name for item in self.items for name in item.episodes})


def source(config: TrainConfig, chosen: Settings, vla: Vla, parent: str) -> Source:
    """Raises TrainerError naming the file where there is nothing to learn from."""
    if chosen.method == "sft":
        return _demonstrations(config, chosen, vla, parent)
    pairs = read_pairs(Path(config.pairs))
    items: Sequence[Item] = pairs.pairs
    what = "holds no pair"
    if chosen.method == "filtered_bc":
        items, what = clones(pairs.candidates, chosen.ranking), "holds no success"
    elif chosen.method == "success_only" and pairs.ranking != "success":
        # the same rollouts, other pairs: what the comparison with TPO is about
        again = build(pairs.candidates, "success", pairs.m)
        items, what = again.pairs, "holds no success and failure from the same initial state"
    if items and chosen.supervised_on == "successes":
        paired = {name for item in items for name in item.episodes}
        items = [*items, *(one for one in clones(pairs.candidates, "") if one.episode_id not in paired)]
    if not items:
        raise TrainingError(f"{config.pairs}: {what}: there is nothing to learn from")
    used = {name for item in items for name in item.episodes}
    paths = {c.episode_id: c.path for c in pairs.candidates}
    return Source(
        items=items,
        shelf=Library(paths, vla.processor.prompt, vla.spec.image_size, vla.base_hash),
        paths=paths,
        fresh={c.episode_id: c.steps for c in pairs.candidates if c.episode_id not in used},
        left_out=(),
        statistics=None,
        pedigree=_pedigree(items, pairs, parent),
        told={
            "pairs": [list(item.episodes) for item in items],
            "groups": [list(item.group) for item in items],
            "episodes": sorted(c.episode_id for c in pairs.candidates),
        },
    )


def clones(candidates: Sequence[Candidate], ranking: str) -> list[Clone]:
    """The successes; by ranking ``random``, as a control, as many episodes drawn without regard to success."""
    successes = sum(c.success == 1 for c in candidates)
    if ranking != "random":
        return [clone_of(c) for c in candidates if c.success == 1]
    ranked = rank(candidates, ranking)
    chosen = ranked.order(range(len(candidates)))[:successes]
    return [clone_of(candidates[i]) for i in sorted(chosen)]


def _pedigree(items: Sequence[Item], pairs: PairSet, parent: str) -> Pedigree:
    programs = [c.cost_program_hash for c in pairs.candidates]
    return Pedigree(items, parent, programs, pairs.objective)


def _demonstrations(config: TrainConfig, chosen: Settings, vla: Vla, parent: str) -> Source:
    paths = [Path(path) for path in config.bags]
    bags = [bag for path in paths for bag in ([path] if path.is_file() else find_bags(path))]
    if not bags:
        raise TrainingError(f"{', '.join(config.bags)}: no bag here")
    held = Demonstrations(bags, vla, chosen)
    told = {
        "demonstrations": held.steps,
        "tokens": {name: held[name].digest for name in sorted(held.steps)},
    }
    return Source(held.items, held, held.paths, {}, held.left_out, held.statistics, Pedigree(held.items, parent), told)


def checked(
    found: Source,
    log_probs: LogProbs,
    chosen: Settings,
    reference: str,
    team: Team,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Data, Source]:
    """The run's data, without what failed the drift check or cannot be read; the source with it left out.

    Raises TrainingError where nothing remains, with the first reason."""
    judged = recorded.check(found.episodes, found.paths, found.shelf, log_probs, chosen, team, told)
    unfit = {one.episode_id for one in judged.left_out}
    items = [item for item in found.items if not unfit & set(item.episodes)]
    left_out = (*found.left_out, *judged.left_out)
    if not items:
        raise TrainingError(
            f"nothing is left to learn from: all {len(found.items)} items are left out; the first: {left_out[0].reason}"
        )
    used = {name for item in items for name in item.episodes}
    steps = {name: judged.steps[name] for name in sorted(used)}
    rest = dataclasses.replace(
        found, items=items, left_out=left_out, pedigree=dataclasses.replace(found.pedigree, items=items)
    )
    return Data(items, steps, found.shelf, log_probs, reference, found.fresh, judged.worst), rest


def fingerprint(config: TrainConfig, chosen: Settings, found: Source, base_hash: str, parent: str) -> str:
    """Of everything that decides the result, save where the files lie."""
    told = {
        "settings": chosen.to_dict(),
        **found.told,
        "base_hash": base_hash,
        "adapter": parent,
        "dtype": config.dtype,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def narrowed(mark: str, left: Source) -> str:
    """The fingerprint with the items that the drift check left: a run goes on only with the ones it began with."""
    names = [list(item.episodes) for item in left.items]
    return hashlib.sha256(json.dumps([mark, names]).encode()).hexdigest()
