"""``grape align``: the K iterations in simulation, with a canary that keeps a worse adapter from serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from grape import console, evaluation
from grape.workers import WorldWorkers
from grape_policy.adapters import read_manifest
from grape_trainer.canary import FIRST_STATE, verdict
from grape_trainer.gate import Bounds, judge
from grape_trainer.loop import AlignConfig, AlignResult, Canary, Progress, Verdict, align
from grape_trainer.registry import Registry
from grape_trainer.rig import Rig
from grape_trainer.settings import Settings, settings, usual


@dataclass(frozen=True)
class CanaryPlan:
    """``states`` a task, greedy. A new adapter is taken only where its success is shown to be no worse by ``bound``:
    the lower end of the paired difference's 95 % interval lies above ``-bound`` (a non-inferiority test). So a canary
    of few states refuses what it cannot tell from harm."""

    tasks: tuple[str, ...]
    states: int = 50
    bound: float = 0.05
    variant: str = "clean"
    workers: int = 0


def canary(plan: CanaryPlan, model: Path, registry: Path, folder: Path) -> Canary | None:
    """A judge of new adapters: paired rollouts of the new and the serving one in worlds of this machine.

    None where the plan has no states. Results are kept in ``folder``, so that an interrupted judgement goes on."""
    if plan.states == 0:
        return None

    def trial(adapter: Path) -> Verdict:
        serving = Registry(registry).current_path
        sides = [str(serving.resolve()) if serving else "", str(adapter.resolve())]
        states = range(FIRST_STATE, FIRST_STATE + plan.states)
        jobs = evaluation.grid(plan.tasks, states, sides, plan.variant, 0, 0.0)
        name = f"canary-{read_manifest(adapter).adapter_id[:12]}.jsonl"
        results = evaluation.run(jobs, WorldWorkers(model, plan.workers), folder / name)
        old, new = ([r for r in results if r.job.adapter == side] for side in sides)
        return verdict([int(r.success) for r in old], [int(r.success) for r in new], plan.bound)

    return trial


@contextmanager
def ros_rigs(model: Path, registry: Path, out: Path, stacks: int) -> Iterator[Rig]:
    """``stacks`` lock-step stacks of nodes, each in a ROS domain of its own, as one rig."""
    from grape.domains import reserve
    from grape.told import Told
    from grape.up import Stack, StackConfig
    from grape_trainer.rig import RigPool
    from grape_trainer.ros import RosRig

    with ExitStack() as held:
        started = []
        for number in range(stacks):
            config = StackConfig(
                domain=held.enter_context(reserve()),
                log_dir=out / "logs" / f"stack_{number}",
                lock_step=True,
                model=model,
                registry=registry,
                episodes_root=out / "episodes",
            )
            started.append(Stack(config))
        for stack in started:
            held.enter_context(stack)
        rigs = [RosRig(stack.config.domain, name=f"grape_rig_{n}") for n, stack in enumerate(started)]
        yield Told(RigPool([held.enter_context(rig) for rig in rigs]))


def run(
    config: AlignConfig, rig: Rig, plan: CanaryPlan, report: Callable[[Progress], None] | None = None
) -> AlignResult:
    """The loop with its canary; progress goes to the terminal where no other ``report`` is given."""
    trial = canary(plan, config.model, config.registry, config.folder)
    if report is not None:
        return align(config, rig, report, trial)
    with console.progress("align") as bar:

        def tell(progress: Progress) -> None:
            title = f"iteration {progress.iteration} {progress.phase}: {progress.message}"
            bar(round(100 * progress.fraction), 100, title)

        return align(config, rig, tell, trial)


def align_in_simulation(config: AlignConfig, plan: CanaryPlan, stacks: int) -> AlignResult:
    """Start the stacks (0: worlds in processes, without topics), run the loop, say how it ended."""
    if stacks == 0:
        from grape.world_rig import WorldRig

        result = run(config, WorldRig(config.model, config.folder / "episodes"), plan)
    else:
        with ros_rigs(config.model, config.registry, config.folder, stacks) as rig:
            result = run(config, rig, plan)
    changed = "the new adapter serves" if result.changed else "the old adapter was kept"
    console.console.print(f"{changed}: {result.adapter_id[:12] or 'the base model'} ({result.reason})")
    console.console.print(f"run: {result.folder}")
    return result


def train_on_bags(
    bags: Sequence[Path],
    model: Path,
    registry: Path,
    out: Path,
    objective: str,
    preset: str,
    seed: int,
    parent: str,
    method: str = "",
    processes: int = 1,
    pairs_file: Path | None = None,
) -> str:
    """Train on recorded bags by ``method`` (empty: the preset's; an empty ``preset``: the usual one), the work shared
    by ``processes``.

    Bags are scored and paired first, but for ``sft``, which takes them as demonstrations; ``pairs_file``, in place of
    bags, is taken as it is. The adapter is added to the registry with the gate's verdict (without a canary) and its id
    returned; what gives a whole model of its own gives its folder. Several methods may share ``out``: they share
    scores, pairs and reference log-probs.

    Raises TrainerError where there is nothing to learn from, or none of it fits the model."""
    from grape_episode.reader import find_bags
    from grape_trainer.config import TrainConfig
    from grape_trainer.errors import TrainingError
    from grape_trainer.run_training import in_own_process

    held = Registry(registry)
    told = settings(preset or usual(method, objective), seed=seed, **({"method": method} if method else {}))
    found = [bag for path in bags for bag in ([path] if path.is_file() else find_bags(path))]
    demonstrated = told.method == "sft"
    if pairs_file is not None and (bags or demonstrated):
        raise TrainingError(f"{pairs_file}: a pairs file goes with neither bags nor demonstrations (method sft)")
    if not found and pairs_file is None:
        raise TrainingError(f"{', '.join(map(str, bags)) or 'neither bags nor --pairs given'}: no bag here")
    if pairs_file is not None:
        pairs = str(_checked(pairs_file, told).resolve())
    else:
        pairs = "" if demonstrated else str(_paired(found, out, objective, parent, told).resolve())
    folder = out / "iteration_1" / ("train" if told.method == "tpo" else f"train_{told.method}")
    config = TrainConfig(
        model=str(model.resolve()),
        pairs=pairs,
        output=str(folder.resolve()),
        adapter=str(held.path(parent)) if parent else "",
        bags=[str(bag.resolve()) for bag in found] if demonstrated else [],
        registry=str(registry.resolve()),
        cache=str((out / "log_probs").resolve()),
        preset=told.preset,
        settings=told.to_dict(),
        threads=1,
    )
    with console.progress("training") as bar:
        result = in_own_process(
            config,
            lambda done, total, loss, drift: bar(done, total, f"loss {loss:.3f} drift {drift:+.3f}"),
            lambda: False,
            processes,
        )
    for left in result.left_out if result else ():
        console.errors.print(f"left out: {left['episode_id']}: {left['reason']}", style="yellow")
    if result is None or not result.changed:
        raise TrainingError(f"training kept the old weights: {result.reason if result else 'cancelled'}")
    if (folder / "model").is_dir():
        console.console.print(f"{folder / 'model'}: {result.updates} updates, {result.reason}")
        return str(folder / "model")
    adapter_id = held.add(folder / "adapter")
    verdict = judge(result.figures, result.held_pairs, told.holdout_pairs, Bounds(), None)
    held.judge(adapter_id, verdict.to_dict())
    console.console.print(f"{held.path(adapter_id)}: {result.updates} updates, {result.reason}")
    console.console.print(f"gate {'passed' if verdict.accepted else 'refused'}: {verdict.reason}", soft_wrap=True)
    return adapter_id


def _checked(path: Path, told: Settings) -> Path:
    """The pairs file itself, readable and with something to learn from. Raises TrainerError naming it."""
    from grape_trainer.errors import TrainingError
    from grape_trainer.pairs import read_pairs

    if not read_pairs(path).pairs and not told.clones:
        raise TrainingError(f"{path}: holds no pair")
    return path


def _paired(found: Sequence[Path], out: Path, objective: str, parent: str, told: Settings) -> Path:
    """The pairs file of the bags, scored towards ``objective``, in ``out``."""
    from grape_trainer.errors import TrainingError
    from grape_trainer.iteration import IterationFiles
    from grape_trainer.rig import Rollout

    files = IterationFiles(out, 1)
    # by the whole path: two folders may hold bags of one name
    for bag in (str(bag.resolve()) for bag in found):
        if bag not in files.rollouts():
            files.add(Rollout(bag, bag))
    with console.progress("scoring") as bar:
        entries = files.score(parent, objective, lambda done, total: bar(done, total, ""))
    # the ranking's own pairs, whatever the method: who chooses by success alone does so from this file
    pairs = files.pair(entries, replace(told, method="tpo"))
    for left in pairs.excluded:
        console.errors.print(f"left out: {left.episode_id}: {left.reason}", style="yellow")
    if not pairs.pairs and not told.clones:
        raise TrainingError(f"{files.pairs_path}: no pair of a better and a worse episode from the same initial state")
    return files.pairs_path
