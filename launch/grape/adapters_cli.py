"""`grape adapters`: which adapters there are, where they come from, which one serves; promotion and rollback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from grape.console import CommandError, console, table
from grape.paths import default_model, root

app = typer.Typer(help="The registry of LoRA adapters.", no_args_is_help=True)
RUNS, MODEL = root() / "runs", default_model()
BASE = "base"
NOTHING = "–"

Registry = Annotated[Path, typer.Option("--registry", help="Folder of the adapter registry.")]
Adapter = Annotated[str, typer.Argument(help="Id, or its beginning.")]
Served = Annotated[str, typer.Argument(help="Id, or its beginning; `base`: the base model alone.")]
Domain = Annotated[int, typer.Option("--domain", min=0, max=101, help="ROS domain of the policy.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="No policy runs: move what it will load at its start; refused where one runs.")
]
Note = Annotated[str, typer.Option("--note", help="Why; goes into the registry's history.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the runs, for what they say of the adapters.")]


@app.command("list")
def list_adapters(registry: Registry = RUNS / "adapters") -> None:
    """List the adapters, oldest first, with what they were trained from and which one serves (*)."""
    from grape_trainer.registry import Registry as Held

    held = Held(registry)
    entries, served = held.list(), held.served()
    known = {entry.adapter_id for entry in entries}
    rows = []
    for entry in entries:
        told, name = entry.manifest, entry.adapter_id
        chain = [one[:8] if one in known else f"{one[:8]} (not here)" for one in held.pedigree(name)]
        verdict = told.get("verdict") or {}
        rows.append(
            [
                name[:12] + (" *" if entry.current else ""),
                str(told.get("created", ""))[:10],
                " < ".join(chain) or NOTHING,
                str(told.get("base_hash", ""))[:8],
                str(told.get("pairs", "")),
                {"True": "passed", "False": "refused"}.get(str(verdict.get("accepted")), NOTHING),
                "damaged" if entry.problem else "serves" if entry.current else "served" if name in served else "never",
            ]
        )
    grid = Table(title=f"adapters in {registry}", title_justify="left")
    for column in ("adapter", "created", "trained from", "base", "pairs", "gate", "serving"):
        grid.add_column(column, no_wrap=column not in ("trained from", "base"), overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
    for entry in entries:
        if entry.problem:
            print(f"grape: {entry.path}: {entry.problem}", file=sys.stderr)
    if not held.current:
        console.print("the base model alone serves")


@app.command()
def show(
    adapter: Adapter,
    registry: Registry = RUNS / "adapters",
    runs: Runs = RUNS,
    json: Annotated[bool, typer.Option("--json", help="The manifest alone, as JSON.")] = False,
) -> None:
    """Show an adapter's manifest, what it was trained on and when it served."""
    from grape.adapters_show import describe
    from grape_trainer.registry import Registry as Held

    held = Held(registry)
    if json:
        path = held.path(adapter) / "manifest.json"
        try:
            print(path.read_text(encoding="utf-8"), end="")
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
        return
    describe(held, held.path(adapter).name, runs)


@app.command()
def verify(registry: Registry = RUNS / "adapters") -> None:
    """Recompute the hash of every adapter, read every manifest and log. Exit 1 where something is damaged."""
    from grape_trainer.registry import Registry as Held

    held = Held(registry)
    damaged = held.verify()
    for entry in damaged:
        print(f"grape: {entry.path}: {entry.problem}", file=sys.stderr)
    if damaged:
        raise CommandError(f"{registry}: {len(damaged)} of {len(held.list())} adapters or logs are damaged")
    console.print(f"{registry}: all {len(held.list())} adapters are whole", soft_wrap=True)


@app.command()
def promote(
    adapter: Served,
    registry: Registry = RUNS / "adapters",
    domain: Domain = 0,
    offline: Offline = False,
    force: Annotated[bool, typer.Option("--force", help="Past the gate; needs --note, which is recorded.")] = False,
    note: Note = "",
    canary: Annotated[
        int, typer.Option(min=0, help="First try it on so many states a task in simulation; the verdict is recorded.")
    ] = 0,
    bound: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Loss of success that the canary must exclude.")
    ] = 0.05,
    model: Annotated[Path, typer.Option("--model", help="Checkpoint for the canary.")] = MODEL,
) -> None:
    """Make an adapter serve: the policy loads it and says so, then `current` moves. Only past the gate."""
    from grape.deployment import canary_verdict, policy
    from grape_trainer import deploy
    from grape_trainer.registry import Registry as Held

    held = Held(registry)
    wanted = "" if adapter == BASE else held.path(adapter).name
    if wanted and canary:
        verdict = canary_verdict(held, wanted, model, canary, bound)
        console.print(f"{'passed' if verdict['accepted'] else 'refused'}: {verdict['reason']}", soft_wrap=True)
    held.checked(wanted, force, note)
    if wanted and wanted == held.current and not offline:
        console.print(f"{wanted[:12]} is what `current` names; it is loaded again")
    with policy(held, domain, offline) as load:
        if load is None:
            held.promote(wanted, force, note, offline=True)
        else:
            deploy.promote(held, wanted, load, force, note)
    _said(wanted, offline)


@app.command()
def rollback(
    registry: Registry = RUNS / "adapters", domain: Domain = 0, offline: Offline = False, note: Note = ""
) -> None:
    """Back to what served before: the policy loads it and says so, then `current` moves."""
    from grape.deployment import policy
    from grape_trainer import deploy
    from grape_trainer.registry import Registry as Held

    held = Held(registry)
    held.before()
    with policy(held, domain, offline) as load:
        name = held.rollback(note, offline=True) if load is None else deploy.rollback(held, load, note)
    _said(name, offline)


@app.command()
def diff(first: Adapter, second: Adapter, registry: Registry = RUNS / "adapters") -> None:
    """Compare two adapters: settings, episodes, metrics, and how far apart their weights are."""
    from grape.adapters_show import show_difference
    from grape_trainer.difference import compare
    from grape_trainer.registry import Registry as Held

    held = Held(registry)
    show_difference(compare(held.path(first), held.path(second)))


@app.command()
def gc(
    registry: Registry = RUNS / "adapters",
    runs: Runs = RUNS,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them. Without it nothing is touched.")] = False,
) -> None:
    """Name, or remove, the adapters that never served and that nothing refers to. Their manifests are kept."""
    from grape_trainer import garbage
    from grape_trainer.registry import Registry as Held

    held, referred = Held(registry), garbage.references(runs)
    plan = garbage.plan(held, referred)
    rows = [[one.adapter_id[:12], f"{one.size / 2**20:.1f}", one.reason or "may go"] for one in plan]
    table(f"adapters in {registry}", ["adapter", "MiB", ""], rows)
    free = [one for one in plan if not one.reason]
    if delete:
        free = list(garbage.collect(held, referred))
    size = sum(one.size for one in free) / 2**20
    what = "removed" if delete else "may go; --delete removes them"
    console.print(f"{len(free)} of {len(plan)} adapters, {size:.1f} MiB: {what}")


def _said(adapter_id: str, offline: bool) -> None:
    name = adapter_id[:12] or "the base model alone"
    console.print(f"{name} will serve from the policy's next start on" if offline else f"{name} serves")
