"""``grape eval``: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grape.console import CommandError
from grape.paths import default_model, known_model, root

MODEL, RUNS = default_model(), root() / "runs"


def known_tasks(names: list[str] | None) -> list[str]:
    """The names themselves, or all of them for none. Raises SimError naming an unknown one and the known ones."""
    from grape_sim.tasks import SIM_TASKS, sim_task

    return [sim_task(name).name for name in names] if names else list(SIM_TASKS)


def evaluate_command(
    model: Annotated[
        Path, typer.Option("--model", help="Folder of the checkpoint, or org/name[@revision] on the hub.")
    ] = MODEL,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Folder of an adapter, or 'none'; may be given again.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task's name; may be given again. Default: all.")
    ] = None,
    states: Annotated[int | None, typer.Option(min=1, help="Initial states a task, 25; with --suite an item.")] = None,
    first_state: Annotated[int, typer.Option(min=0, help="First initial-state id; with --suite 0: the suite's.")] = 0,
    variant: Annotated[str, typer.Option(help="Variant of the world: clean; with --suite its own.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy.")] = 0.0,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; 0: one a core. With --suite only beside --policies.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, runs/eval; with --suite runs/safety/SUITE. It goes on.")
    ] = None,
    suite: Annotated[
        str, typer.Option(help="Safety evaluation over ROS topics: a shipped suite (safety), or a suite file.")
    ] = "",
    policies: Annotated[
        str,
        typer.Option(
            help="With --suite: no topics but worlds in processes; several suites by comma. Policies to compare, by "
            "comma: 'base', an adapter's folder, or NAME=FOLDER+FOLDER, a folder a training seed."
        ),
    ] = "",
    temperatures: Annotated[str, typer.Option(help="With --policies: by comma, 0: greedy. Default 0,1.")] = "",
    film: Annotated[bool, typer.Option(help="With --policies: film strips in the report, two rollouts each.")] = True,
    adapters: Annotated[
        str, typer.Option(help="With --suite: adapters to compare, by comma: folders, ids, or 'base'.")
    ] = "",
    item: Annotated[list[str] | None, typer.Option(help="With --suite: an item's name; may be given again.")] = None,
    domain: Annotated[
        int | None, typer.Option(min=0, max=101, help="With --suite: nodes that are up; else a stack in lock-step.")
    ] = None,
    registry: Annotated[Path, typer.Option(help="With --suite: folder of the adapter registry.")] = RUNS / "adapters",
    profile: Annotated[str, typer.Option(help="With --suite: the gate's profile of the stack, or a file.")] = "safety",
) -> None:
    """Evaluate the model, alone and with adapters, on the same initial states; every figure with its interval.

    With --suite it is a safety evaluation: collisions, clearance, forces and vetoes, measured over ROS topics; with
    --policies as well, success on suites of worlds without topics (docs/worlds.md)."""
    if suite and policies:
        topics_only = {"--item": item, "--adapters": adapters, "--adapter": adapter, "--domain": domain is not None}
        for name, given in {**topics_only, "--task": task, "--variant": variant, "--first-state": first_state}.items():
            if given:
                raise CommandError(f"{name}: not with --policies")
        worlds(known_model(model), suite, policies, temperatures or "0,1", states or 0, seed, workers or 0, out, film)
        return
    for name, given in (("--no-film", not film), ("--temperatures", temperatures)):
        if given:
            raise CommandError(f"{name}: only with --policies")
    if not suite:
        _only_with_suite(adapters=adapters, policies=policies, item=item, domain=domain is not None)
        from grape.assess import assess

        folders = ["" if name == "none" else str(Path(name).resolve()) for name in adapter or ["none"]]
        span = range(first_state, first_state + (states or 25))
        tasks = known_tasks(task)
        assess(
            known_model(model),
            folders,
            tasks,
            span,
            variant or "clean",
            seed,
            temperature,
            workers or 0,
            out or RUNS / "eval",
        )
        return
    for name, given in (("--task", task), ("--variant", variant), ("--workers", workers is not None)):
        if given:
            raise CommandError(f"{name}: not with --suite, whose items say it")
    from grape.safety_cli import Request, run_suite

    run_suite(
        Request(
            suite=suite,
            items=tuple(item or ()),
            states=states or 0,
            first_state=first_state,
            adapters=(*(adapter or ()), *(name.strip() for name in adapters.split(",") if name.strip())),
            seed=seed,
            temperature=temperature,
            out=out,
            model=model,
            registry=registry,
            profile=profile,
            domain=domain,
        )
    )


def worlds(
    model: Path,
    suites: str,
    policies: str,
    temperatures: str,
    states: int,
    seed: int,
    workers: int,
    out: Path | None,
    film: bool,
) -> None:
    """``grape eval --suite ... --policies ...``; without ``out`` in runs/worlds, a folder for these suites."""
    from grape.worlds_cli import Request, evaluate_worlds

    folder = out or RUNS / "worlds" / "+".join(Path(name.strip()).stem for name in suites.split(","))
    evaluate_worlds(Request(model, suites, policies, temperatures, states, seed, workers, folder, film))


def _only_with_suite(**given: object) -> None:
    for name, value in given.items():
        if value:
            raise CommandError(f"--{name}: only with --suite")
