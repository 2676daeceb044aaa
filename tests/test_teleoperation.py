"""A person at a gamepad in the simulated lab, over real topics: a demonstration from the stick to the trained model,
and an episode of the policy that the person interrupts. The gamepad is the test's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from grape_interfaces.action import RunEpisode
from sensor_msgs.msg import Joy

from grape.domains import reserve
from grape.paths import params
from grape.ros import Client, run_episode
from grape.up import Stack, StackConfig
from grape_episode import topics
from grape_episode.bag import BagScan
from grape_episode.episode import DEMONSTRATION, ENDED_BY_OPERATOR, PERSON_DROVE
from grape_episode.reader import bag_file, read_episode
from grape_episode.ros import JOINTS
from grape_episode.testing import wait_for
from grape_policy.checkpoint import load_checkpoint
from grape_policy.testing import write_random_checkpoint
from grape_trainer.config import TrainConfig
from grape_trainer.demonstrations import Demonstrations
from grape_trainer.iteration import score_rollout
from grape_trainer.rig import Rollout
from grape_trainer.settings import settings
from grape_trainer.testing import QUICK
from grape_trainer.train import train

pytestmark = [pytest.mark.ros, pytest.mark.alone]

NODES = ("sim", "gate", "recorder", "policy", "teleop")
PATIENT = {"hold_margin": 8.0, "stop_margin": 10.0, "heartbeat_timeout": 8.0, "age_margin": 5.0, "state_timeout": 5.0}
"""A busy machine may starve policy and world, whose silence is not what is tested."""
REST, AHEAD, DOWN = (0.0,) * 6, (0.3, 1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.4, -1.0, 0.0, 0.0)
GRIPPER, HAND_BACK, END = 0, 1, 4


@dataclass
class Gamepad:
    """A driver that repeats what is held, 50 times a second."""

    client: Client
    axes: tuple[float, ...] = REST
    down: tuple[int, ...] = ()
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._publisher = self.client.node.create_publisher(Joy, topics.JOY, JOINTS)
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._thread.start()

    def _repeat(self) -> None:
        while not self.ended.wait(0.02):
            buttons = [int(number in self.down) for number in range(15)]
            self._publisher.publish(Joy(axes=list(self.axes), buttons=buttons))

    def hold(self, seconds: float, axes: tuple[float, ...] = REST, *down: int) -> None:
        self.axes, self.down = axes, down
        time.sleep(seconds)
        self.axes, self.down = REST, ()

    def press(self, button: int, until: Callable[[], object], what: str) -> None:
        self.down = (button,)
        wait_for(until, what, 60.0)
        self.down = ()


@dataclass
class Lab:
    domain: int
    model: Path
    pad: Gamepad

    def start(self, **goal: Any) -> Episode:
        return Episode(self, {"task": "carrot_on_plate", "variant": "clean", "record": True, **goal})


class Episode:
    """One goal under way; ``steps``: the control periods that it has told."""

    def __init__(self, lab: Lab, goal: dict[str, Any]) -> None:
        self.steps: list[int] = []
        self._result: list[RunEpisode.Result] = []
        run = lambda: self._result.append(run_episode(lab.domain, goal, self.steps.append))  # noqa: E731
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> RunEpisode.Result:
        wait_for(lambda: self.over, "the episode's end", 180.0)
        return self._result[0]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    model = write_random_checkpoint(folder / "model", max_translation=0.01)
    profile = {**yaml.safe_load(params("gate_sim.yaml").read_text()), **PATIENT}
    (folder / "gate.yaml").write_text(yaml.safe_dump(profile))
    teleop = {"mapping": str(params("teleop_gamepad.yaml")), "operator_period": profile["operator_period"]}
    with reserve() as domain:
        config = StackConfig(
            domain=domain,
            log_dir=folder / "logs",
            lock_step=False,
            model=model,
            registry=None,
            episodes_root=folder / "episodes",
            nodes=NODES,
            profile=str(folder / "gate.yaml"),
            extra_params={
                "teleop": teleop,
                "policy": {"max_observation_age": 5.0, "camera_deadline": 60.0, "gate_deadline": 30.0},
                "sim": {"image_size": 56, "camera_hz": 10.0},
            },
        )
        with Stack(config), Client(domain, "gamepad") as client:
            pad = Gamepad(client)
            wait_for(lambda: client.node.count_subscribers(topics.JOY) >= 3, "gate, teleop and recorder to hear it")
            yield Lab(domain, model, pad)
            pad.ended.set()


def test_a_demonstration_is_recorded_as_such_and_trains_a_model(lab: Lab, tmp_path: Path) -> None:
    episode = lab.start(demonstration=True, initial_state=1)
    time.sleep(1.0)

    def driving() -> bool:
        lab.pad.axes = AHEAD
        return len(episode.steps) >= 6 or episode.over

    wait_for(driving, "six control periods", 60.0)
    lab.pad.hold(0.3, REST, GRIPPER)
    lab.pad.axes = DOWN
    wait_for(lambda: len(episode.steps) >= 14 or episode.over, "fourteen control periods", 60.0)
    lab.pad.axes = REST
    lab.pad.press(END, lambda: episode.over, "the end")
    result = episode.result()
    lab.pad.hold(0.5, REST, HAND_BACK)  # the arm stays the person's until then
    assert (result.end_reason, result.detail) == ("cancelled", ENDED_BY_OPERATOR)
    recorded = read_episode(Path(result.bag_path))
    assert recorded.complete, recorded.problems
    assert recorded.identity.demonstration and DEMONSTRATION in recorded.identity.notes
    assert not recorded.steps and result.steps >= 14
    moves = recorded.operator.values
    assert len(moves) > 10 and {0.0, 0.5} >= set(moves[:, 6]) and 0.0 in moves[:, 6]
    held = Demonstrations([Path(result.bag_path)], load_checkpoint(lab.model), settings(method="sft"))
    (taken,) = held._taken.values()
    # what was commanded is what was measured, up to the lag of the arm
    commanded, measured = moves[:, :3].sum(axis=0), taken.actions[:, :3].sum(axis=0)
    # what the gate refused at the box's floor was commanded and not moved
    assert np.linalg.norm(measured) > 0.05
    assert np.all(measured * np.sign(commanded) > -0.03) and np.all(np.abs(measured) < np.abs(commanded) + 0.03)
    assert held[recorded.identity.episode_id].images().shape[1:] == (56, 56, 3)
    told = {**QUICK, "method": "sft", "lora_rank": 4, "epochs": 1}
    config = TrainConfig(str(lab.model), "", str(tmp_path / "out"), bags=[result.bag_path], settings=told)
    assert train(config).changed and (tmp_path / "out" / "model").is_dir()


def test_a_person_may_drive_for_a_while_and_the_episode_is_nobody_s(lab: Lab) -> None:
    episode = lab.start(initial_state=2, step_limit=10)
    wait_for(lambda: len(episode.steps) >= 3 or episode.over, "three steps", 60.0)
    lab.pad.hold(1.5, AHEAD)
    before = len(episode.steps)
    time.sleep(1.0)
    assert len(episode.steps) - before <= 1 and not episode.over, "the policy waits for the arm"
    lab.pad.press(HAND_BACK, lambda: len(episode.steps) > before + 2, "the policy to go on")
    result = episode.result()
    assert (result.end_reason, result.steps) == ("step_limit", 10)
    assert result.detail.endswith(PERSON_DROVE)
    recorded = read_episode(Path(result.bag_path))
    assert recorded.complete, recorded.problems
    assert [step.index for step in recorded.steps] == list(range(10)) and recorded.driven
    topics_of = [record.topic for record in BagScan(bag_file(Path(result.bag_path))).records()]
    assert {topics.JOY, topics.OPERATOR_STEP, topics.ARM_STATUS} <= set(topics_of)
    entry, _ = score_rollout(Rollout("k", result.bag_path), None, None)
    assert getattr(entry, "reason", "") != "", "it does not train"
