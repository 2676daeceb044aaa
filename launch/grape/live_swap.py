"""The adapter of a running real-time stack changes in the middle of episodes; the steps are listened to."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grape.domains import reserve
from grape.gaps import gaps
from grape.up import Stack, StackConfig

if TYPE_CHECKING:
    from grape.ros import StepWatch

PERIOD = 0.2
"""Control period of the stack, seconds."""
SWAPS = 6
EPISODES = 6
"""At most; some end before the swaps are done, because the policy has succeeded or was vetoed."""
FAULTS = ("gate_fault", "stale_camera", "error")
SETTLED = 5
"""Steps of the episode before the first swap, and between two."""


class SwapError(Exception):
    """A swap did not happen; the text says what the policy answered."""


def measure(model: Path, adapter: Path | None, out: Path) -> dict[str, Any]:
    """Run episodes in real time and swap between ``adapter`` and the base model while they act.

    Returns the gaps (see ``gaps.Gaps.as_dict``) and how the episodes ended; an episode that the gate or the camera
    ended has lost a tick, too. Without an adapter the base model is loaded over itself."""
    from grape.ros import StepWatch, reset_gate

    with reserve() as domain:
        config = StackConfig(
            domain=domain,
            log_dir=out / "logs" / "live_swap",
            lock_step=False,
            model=model,
            registry=None,
            episodes_root=out / "live_swap",
        )
        ends: list[str] = []
        with Stack(config), StepWatch(domain) as watch:
            swaps = 0
            while swaps < SWAPS and len(ends) < EPISODES:
                made, end = _episode(domain, watch, adapter, len(ends), swaps)
                swaps += made
                ends.append(end)
                if end == "gate_fault":
                    reset_gate(domain)
            found = gaps(watch.ticks, PERIOD).as_dict()
        found["lost_ticks"] += sum(end in FAULTS for end in ends)
        return {**found, "ends": ends}


def _episode(domain: int, watch: StepWatch, adapter: Path | None, state: int, before: int) -> tuple[int, str]:
    """One episode with swaps every ``SETTLED`` steps; how many there were, and the episode's end reason."""
    from grape.ros import Client, load_adapter, run_episode

    goal = {"task": "carrot_on_plate", "variant": "clean", "initial_state": state, "temperature": 1.0, "record": True}
    swaps = 0
    with ThreadPoolExecutor(1) as pool, Client(domain, "grape_swap") as client:
        acting = pool.submit(run_episode, domain, goal, lambda step: None)
        heard = len(watch.ticks)
        while not acting.done():
            if len(watch.ticks) < heard + SETTLED or before + swaps >= SWAPS:
                time.sleep(0.02)
                continue
            path = str(adapter) if adapter and (before + swaps) % 2 == 0 else ""
            answer = load_adapter(client, path, force=True)
            if not answer.accepted:
                raise SwapError(f"{path or 'the base model'}: the policy refused it: {answer.reason}")
            swaps, heard = swaps + 1, len(watch.ticks)
        return swaps, str(acting.result().end_reason)
