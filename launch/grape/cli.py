"""The ``grape`` command. Each command is thin: it reads its arguments and calls the module that does the work."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from grape.adapters_cli import app as adapters_app
from grape.console import console, guarded
from grape.costs_cli import app as costs_app
from grape.costs_propose_cli import register as register_proposals
from grape.episodes_cli import app as episodes_app
from grape.evaluate_cli import evaluate_command, known_tasks
from grape.export_cli import export
from grape.keypoints_cli import app as keypoints_app
from grape.pairs_cli import app as pairs_app
from grape.paths import default_model, known_model, root
from grape.recover_cli import recover_robot_command
from grape.run_cli import run_command
from grape.score_cli import score
from grape.serve_cli import serve_command
from grape.states_cli import app as states_app
from grape.states_cli import confirm
from grape.tasks_cli import app as tasks_app

app = typer.Typer(
    name="grape",
    help="Make vision-language-action policies better by preference alignment, on ROS 2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
sim_app = typer.Typer(help="The simulated tabletop.", no_args_is_help=True)
app.add_typer(sim_app, name="sim")
app.add_typer(adapters_app, name="adapters")
app.add_typer(pairs_app, name="pairs")
register_proposals(costs_app)
app.add_typer(costs_app, name="costs")
app.add_typer(keypoints_app, name="keypoints")
app.add_typer(episodes_app, name="episodes")
app.add_typer(tasks_app, name="tasks")
app.add_typer(states_app, name="states")
app.command()(score)
app.command()(export)
app.command()(confirm)
app.command("eval")(evaluate_command)
app.command("run")(run_command)


class Mode(StrEnum):
    lock_step = "lock-step"
    real_time = "real-time"


MODEL, RUNS = default_model(), root() / "runs"
Model = Annotated[Path, typer.Option("--model", help="Folder of the checkpoint, or org/name[@revision] on the hub.")]
Registry = Annotated[Path, typer.Option("--registry", help="Folder of the adapter registry.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="A task's name; may be given again. Default: all.")]
Domain = Annotated[int, typer.Option("--domain", min=0, max=101, help="ROS domain of the nodes.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = RUNS / "demo",
    model: Model = MODEL,
    quick: Annotated[
        bool, typer.Option(help="A few rollouts only: shows that the loop closes, measures nothing.")
    ] = False,
) -> None:
    """Act, record, score, align, swap and evaluate over ROS topics in simulation; report in runs/demo/report.html."""
    from grape.demo import run_demo

    run_demo(out, known_model(model), quick)


@app.command()
def up(
    model: Model = MODEL,
    registry: Registry = RUNS / "adapters",
    mode: Annotated[Mode, typer.Option(help="Whether the simulated world waits for the policy.")] = Mode.real_time,
    domain: Domain = 0,
    episodes: Annotated[Path | None, typer.Option(help="Folder for the bags.")] = None,
    trainer: Annotated[bool, typer.Option(help="Start the trainer node as well.")] = True,
) -> None:
    """Start the nodes, each in a process of its own, and keep them until Ctrl-C (where there is no `ros2 launch`)."""
    from grape.serve import serve

    serve(known_model(model), registry, mode is Mode.lock_step, domain, episodes or RUNS / "episodes", trainer)


@app.command()
def align(
    model: Model = MODEL,
    registry: Registry = RUNS / "adapters",
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted one goes on.")] = RUNS / "align",
    task: Tasks = None,
    iterations: Annotated[int, typer.Option(min=1, help="K: collect, score, pair, train, gate, swap so often.")] = 1,
    states: Annotated[int, typer.Option(min=1, help="Initial states a task and iteration.")] = 16,
    rollouts: Annotated[int, typer.Option(min=2, help="Rollouts a state.")] = 4,
    first_state: Annotated[int, typer.Option(min=0, help="First initial-state id.")] = 100_000,
    variant: Annotated[str, typer.Option(help="Variant of the world.")] = "clean",
    temperature: Annotated[float, typer.Option(min=0.01, max=2.0, help="At which rollouts are sampled.")] = 1.0,
    objective: Annotated[str, typer.Option(help="Alignment objective.")] = "task_completion",
    preset: Annotated[str, typer.Option(help="Preset of the trainer. Default: recommended, or by the objective.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of rollouts and training.")] = 0,
    stacks: Annotated[
        int,
        typer.Option(
            min=0,
            help="Stacks of nodes, each in a ROS domain, that collect side by side; 0: without topics.",
        ),
    ] = 2,
    canary: Annotated[
        int, typer.Option(min=0, help="States a task on which a new adapter must not be worse; 0: no canary.")
    ] = 50,
    bound: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Loss of success that the canary must exclude.")
    ] = 0.05,
    gate_accuracy: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Held-out preference accuracy that must not be missed; 0: any.")
    ] = 0.5,
    gate_kl: Annotated[
        float, typer.Option(min=0.0, help="KL to the reference that must not be passed, nats a step; 0: any.")
    ] = 1.5,
    method: Annotated[
        str, typer.Option(help="tpo, step_dpo, success_only or filtered_bc. Default: the preset's.")
    ] = "",
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the training.")] = 1,
) -> None:
    """Align the policy: K iterations of collect, score, pair, train, gate, swap in simulation."""
    from grape.align import CanaryPlan, align_in_simulation
    from grape_trainer.gate import Bounds
    from grape_trainer.loop import AlignConfig
    from grape_trainer.settings import settings, usual

    tasks = tuple(known_tasks(task))
    config = AlignConfig(
        model=known_model(model),
        registry=registry,
        folder=out,
        tasks=tasks,
        iterations=iterations,
        states=states,
        rollouts=rollouts,
        first_state=first_state,
        objective=objective,
        variant=variant,
        temperature=temperature,
        seed=seed,
        settings=settings(preset or usual(method, objective), seed=seed, **({"method": method} if method else {})),
        gate=Bounds(gate_accuracy, gate_kl),
        processes=processes,
    )
    align_in_simulation(config, CanaryPlan(tasks, canary, bound, variant), stacks)


@app.command()
def train(
    bags: Annotated[
        list[Path] | None, typer.Argument(help="Bags, or folders of bags, recorded with this model.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="A pairs file (`grape pairs`), in place of bags.")
    ] = None,
    model: Model = MODEL,
    registry: Registry = RUNS / "adapters",
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted one goes on.")] = RUNS / "train",
    objective: Annotated[str, typer.Option(help="Score towards this objective.")] = "task_completion",
    preset: Annotated[str, typer.Option(help="Preset of the trainer. Default: recommended, or by the objective.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    parent: Annotated[str, typer.Option(help="Id of the adapter that recorded the bags, to go on with.")] = "",
    method: Annotated[
        str, typer.Option(help="tpo, step_dpo, success_only, filtered_bc or sft. Default: the preset's.")
    ] = "",
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
) -> None:
    """Score, pair and train on recorded bags; the adapter goes into the registry, nothing is swapped.

    Method sft takes the bags as demonstrations, teleoperated ones too, and gives a model of its own."""
    from grape.align import train_on_bags

    train_on_bags(
        bags or [],
        known_model(model),
        registry,
        out,
        objective,
        preset,
        seed,
        parent,
        method=method,
        processes=processes,
        pairs_file=pairs,
    )


@app.command()
def replay(
    bag: Annotated[Path, typer.Argument(help="Bag to play onto its topics.")],
    rate: Annotated[float, typer.Option(min=0.0, help="1: as recorded; 0: as fast as it goes.")] = 1.0,
    domain: Domain = 42,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="For a reward node with replay:=true in that domain, which scores anew.")
    ] = False,
) -> None:
    """Play a bag onto topics, in a domain of its own, where rosbag2 is absent. Commands are never played."""
    from grape.serve import replay_bag

    replay_bag(bag, rate, domain, rescore)


app.command("serve")(serve_command)


@app.command()
def recover(
    bag: Annotated[Path, typer.Argument(help="Bag that was cut off.")],
    out: Annotated[Path, typer.Argument(help="New folder for what is whole.")],
) -> None:
    """Copy a bag that was cut off, up to its last whole chunk; the original is only read."""
    from grape_episode.recover import recover as recover_bag

    saved = recover_bag(bag, out)
    console.print(f"{saved.path}: {saved.messages} messages saved, {saved.lost_bytes} bytes at the end lost")


app.command("recover-robot")(recover_robot_command)


@app.command("reset-gate")
def reset_gate(domain: Domain = 0) -> None:
    """Take a gate that has stopped back to idle, after a person has looked why."""
    from grape.ros import reset_gate as reset

    console.print(reset(domain))


@sim_app.command("preview")
def sim_preview(
    out: Annotated[Path, typer.Option(help="PNG file.")] = RUNS / "preview.png",
) -> None:
    """Write a contact sheet of every task in every variant."""
    from grape_sim.preview import contact_sheet

    out.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"{contact_sheet(out)}")


def main() -> None:
    """Entry point: 0, 1 with one line for a mistake, 2 for wrong arguments, 130 for an interruption."""
    sys.exit(guarded(lambda: app(standalone_mode=True)))


if __name__ == "__main__":
    main()
