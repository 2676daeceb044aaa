"""Promotion from the command line: the policy of a ROS domain, or none; and a canary for an adapter at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grape.console import CommandError
from grape_trainer.deploy import Load
from grape_trainer.errors import RigError
from grape_trainer.gate import Bounds, Verdict, judge
from grape_trainer.registry import Registry

LOOK_SECONDS, ANSWER_SECONDS = 3.0, 30.0


@contextmanager
def policy(registry: Registry, domain: int, offline: bool) -> Iterator[Load | None]:
    """How the policy of a domain is made to load an adapter; None where there is none and ``offline`` is wanted.

    Raises RigError naming the domain where no policy answers, CommandError where one does although ``offline``."""
    from grape_trainer.ros import RosRig

    with RosRig(domain, name="grape_adapters", deadline=ANSWER_SECONDS) as rig:
        try:
            rig.wait_ready(LOOK_SECONDS)
        except RigError as missing:
            if not offline:
                raise RigError(f"{missing} (--offline moves `current` where none is meant to run)") from None
            yield None
            return
        if offline:
            raise CommandError(f"--offline: a policy answers in domain {domain}; it must load the adapter first")
        yield rig.load_adapter


def canary_verdict(registry: Registry, adapter_id: str, model: Path, states: int, bound: float) -> dict[str, Any]:
    """Try an adapter against the serving one in worlds of this machine; its whole verdict, written into its manifest.

    The other checks of the verdict it has stay as they are. Raises TrainerError, or the world's own error."""
    from grape.align import CanaryPlan, canary
    from grape_sim.tasks import SIM_TASKS

    plan = CanaryPlan(tuple(SIM_TASKS), states, bound)
    # a folder for each question, in which an interrupted trial goes on
    asked = f"{adapter_id[:12]}-against-{registry.current[:12] or 'base'}-{states}"
    trial = canary(plan, model, registry.root, registry.root.parent / "canaries" / asked)
    if trial is None:
        raise CommandError("--canary: must be at least 1")
    found = trial(registry.path(adapter_id))
    manifest = next(entry.manifest for entry in registry.list() if entry.adapter_id == adapter_id)
    verdict = with_canary(manifest, found).to_dict()
    registry.judge(adapter_id, verdict)
    return verdict


def with_canary(manifest: dict[str, Any], found: Verdict) -> Verdict:
    """The verdict of a manifest with this canary in the place of the one it has."""
    new = judge(manifest.get("metrics") or {}, 0, 0, Bounds(), found)
    kept = {check["name"]: check for check in (manifest.get("verdict") or {}).get("checks", ())}
    checks = tuple(check if check["name"] == "canary" else kept.get(check["name"], check) for check in new.checks)
    failed = [check for check in checks if check["passed"] is False]
    reason = "; ".join(str(check["words"]).rstrip(".") for check in failed or checks)
    return Verdict(not failed, reason, new.figures, checks)
