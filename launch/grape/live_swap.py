"""The adapter of a running real-time stack changes in the middle of episodes; the steps are listened to."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from grape.domains import reserve
from grape.gaps import gaps
from grape.up import Stack, StackConfig

PERIOD = 0.2
"""Control period of the stack, seconds."""
SWAPS = 6
SETTLED = 5
"""Steps of the episode before the first swap, and between two."""


class SwapError(Exception):
    """A swap did not happen; the text says what the policy answered."""


def measure(model: Path, adapter: Path | None, out: Path) -> dict[str, Any]:
    """Run an episode in real time and swap between ``adapter`` and the base model while it acts.

    Returns the gaps (see ``gaps.Gaps.as_dict``); without an adapter the base model is loaded over itself."""
    from grape.ros import Client, StepWatch, load_adapter, run_episode

    with reserve() as domain:
        config = StackConfig(
            domain=domain,
            log_dir=out / "logs" / "live_swap",
            lock_step=False,
            model=model,
            registry=None,
            episodes_root=out / "live_swap",
        )
        with Stack(config), StepWatch(domain) as watch, Client(domain, "grape_swap") as client:
            ended = threading.Event()
            problems: list[BaseException] = []

            def act() -> None:
                goal = {"task": "carrot_on_plate", "variant": "clean", "temperature": 1.0, "record": True}
                try:
                    run_episode(domain, goal, lambda step: None)
                except BaseException as problem:
                    problems.append(problem)
                finally:
                    ended.set()

            acting = threading.Thread(target=act, daemon=True)
            acting.start()
            for number in range(SWAPS):
                heard = len(watch.ticks)
                while len(watch.ticks) < heard + SETTLED and not ended.is_set():
                    time.sleep(0.02)
                if ended.is_set():
                    break
                path = str(adapter) if adapter and number % 2 == 0 else ""
                answer = load_adapter(client, path, force=True)
                if not answer.accepted:
                    raise SwapError(f"{path or 'the base model'}: the policy refused it: {answer.reason}")
            acting.join(120.0)
            if problems:
                raise problems[0]
            return gaps(watch.ticks, PERIOD).as_dict()
