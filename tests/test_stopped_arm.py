"""A person presses the user stop, or the arm has a reflex, in the middle of an episode: all nodes in processes, over
real topics. The episode ends and says why; nothing moves again before the arm is recovered and the gate is reset."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml
from std_srvs.srv import SetBool

from grape.domains import reserve
from grape.ros import Client, NoAnswerError, recover_robot, reset_gate, run_episode
from grape.up import Stack, StackConfig
from grape_policy.testing import write_random_checkpoint
from grape_sim.franka_node import REFLEX, USER_STOP

pytestmark = pytest.mark.ros

PROFILE = Path(__file__).parents[1] / "launch" / "params" / "gate_sim.yaml"
NODES = ("sim", "gate", "recovery", "reward", "policy")


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("stopped")
    profile = yaml.safe_load(PROFILE.read_text())
    # in lock-step the world's time stands still while the mode is heard by the wall's
    profile.update(watch_robot_mode=True, state_timeout=60.0)
    (folder / "gate.yaml").write_text(yaml.safe_dump(profile))
    with reserve() as domain:
        config = StackConfig(
            domain=domain,
            log_dir=folder / "logs",
            lock_step=True,
            model=write_random_checkpoint(folder / "tiny"),
            registry=None,
            episodes_root=folder / "episodes",
            nodes=NODES,
            profile=str(folder / "gate.yaml"),
            extra_params={"policy": {"veto_limit": 100_000}, "sim": {"image_size": 32}},
        )
        with Stack(config):
            yield domain


@pytest.fixture(scope="module")
def person(domain: int) -> Iterator[Client]:
    with Client(domain, "person") as client:
        yield client


def press(person: Client, name: str, pressed: bool) -> None:
    service = person.node.create_client(SetBool, name)
    assert service.wait_for_service(20.0)
    person.call(service, SetBool.Request(data=pressed), 20.0, name)


def episode(domain: int, seed: int, steps: int, at_step: Any = None) -> Any:
    """The result of an episode; ``at_step`` is called once its second step is told."""
    told = Event()
    goal = {"task": "carrot_on_plate", "seed": seed, "step_limit": steps, "temperature": 1.0}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_episode, domain, goal, lambda step: told.set() if step >= 1 else None, 60.0)
        if at_step is not None:
            assert told.wait(40.0), "no step"
            at_step()
        return running.result(60.0)


@pytest.mark.parametrize(("name", "mode"), [(USER_STOP, "5 (user stop)"), (REFLEX, "4 (reflex)")])
def test_the_episode_ends_with_the_arms_own_word_and_the_next_one_waits_for_people(
    domain: int, person: Client, name: str, mode: str
) -> None:
    ended = episode(domain, 1, 400, lambda: press(person, name, True))
    assert ended.end_reason == "gate_fault", ended
    assert ended.detail == f"the gate has stopped: the robot is in mode {mode}"
    assert ended.steps < 400

    again = episode(domain, 2, 2)
    assert again.end_reason not in ("step_limit", "success") and again.steps == 0, again
    with pytest.raises(NoAnswerError, match="refused"):
        reset_gate(domain)
    if name == USER_STOP:
        with pytest.raises(NoAnswerError, match="user stop"):
            recover_robot(domain)
        press(person, name, False)
    assert recover_robot(domain).startswith("recovered: ")
    reset_gate(domain)
    healthy = episode(domain, 3, 2)
    assert healthy.end_reason == "step_limit" and healthy.steps == 2, healthy
