"""The safety evaluation over real topics in lock-step: two adapters, a run that is killed, a cancel, one at a time."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from grape_interfaces.action import Evaluate
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient

from grape.domains import reserve
from grape.ros import Client
from grape.safety_run import read_results
from grape.up import Stack, StackConfig
from grape_episode import topics
from grape_episode.reader import read_episode
from grape_episode.testing import NodeProcess, wait_for
from grape_policy.checkpoint import load_checkpoint
from grape_policy.testing import write_random_adapter, write_random_checkpoint
from grape_trainer.ros import RosRig

pytestmark = pytest.mark.ros

STEPS = 5
NODE = "grape.evaluate_node"


def item(name: str, variant: str, states: list[int], steps: int) -> dict[str, Any]:
    return {
        "name": name,
        "task": "carrot_on_plate",
        "variant": variant,
        "states": states,
        "tags": ["sim"],
        "start": "near_limit" if variant == "near_limit" else "home",
        "moving_hand": variant == "moving_hand",
        "step_limit": steps,
    }


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    items = [item("limit", "near_limit", [70_000], STEPS), item("hand", "moving_hand", [70_001], STEPS)]
    items.append(item("long", "obstacle", [70_002, 70_003], 400))
    file = tmp_path_factory.mktemp("suite") / "small.yaml"
    file.write_text(json.dumps({"name": "small", "description": "for a test", "items": items}))
    return file


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The model, and two adapters for it."""
    folder = tmp_path_factory.mktemp("model")
    model = write_random_checkpoint(folder / "tiny")
    vla = load_checkpoint(model)
    one, two = (write_random_adapter(folder / f"adapter{seed}", vla, rank=2, seed=seed) for seed in (1, 2))
    return model, one, two


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, adapters: tuple[Path, Path, Path]) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with reserve() as domain:
        config = StackConfig(
            domain=domain,
            log_dir=folder / "logs",
            lock_step=True,
            model=adapters[0],
            registry=folder / "adapters",
            episodes_root=folder / "episodes",
        )
        with Stack(config) as started:
            yield started


class Desk:
    """Whoever asks for evaluations: the goal's handle, what was told, the result."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._action = ActionClient(client.node, Evaluate, topics.EVALUATE)

    def ask(self, told: Callable[[Any], None] = lambda said: None, **goal: Any) -> Any:
        wait_for(self._action.server_is_ready, topics.EVALUATE, 60.0)
        self._ready()
        request = Evaluate.Goal(record=True, **goal)
        return self._client.ask(lambda: self._action.send_goal_async(request, told), 30.0, topics.EVALUATE)

    def _ready(self) -> None:
        """Until the node answers: an answer is lost that is sent before its server has discovered this client."""
        service = self._client.node.create_client(GetParameters, "/grape_evaluate/get_parameters")
        try:
            self._client.call(service, GetParameters.Request(names=["robot"]), 60.0, "grape_evaluate")
        finally:
            self._client.node.destroy_client(service)

    def end(self, handle: Any, seconds: float = 240.0) -> tuple[int, Any]:
        answer = self._client.ask(handle.get_result_async, seconds, topics.EVALUATE)
        return answer.status, answer.result

    def cancel(self, handle: Any) -> None:
        self._client.ask(handle.cancel_goal_async, 30.0, topics.EVALUATE)

    def gone(self) -> bool:
        return not self._action.server_is_ready()


@pytest.fixture(scope="module")
def desk(stack: Stack) -> Iterator[Desk]:
    with Client(stack.config.domain, "bench_desk") as client:
        yield Desk(client)


@pytest.fixture(scope="module")
def evaluator(stack: Stack, desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that is not killed."""
    folder = tmp_path_factory.mktemp("evaluate")
    log = folder / "evaluate.log"
    with NodeProcess(NODE, stack.config.domain, log, {"out": folder / "runs"}, grace=60.0) as process:
        yield process


@pytest.fixture(scope="module")
def rig(stack: Stack) -> Iterator[RosRig]:
    with RosRig(stack.config.domain) as connected:
        connected.wait_ready(60.0)
        yield connected


def test_two_adapters_are_evaluated_by_a_node_that_is_killed_and_goes_on(
    suite: Path, adapters: tuple[Path, Path, Path], stack: Stack, desk: Desk, rig: RosRig, tmp_path: Path
) -> None:
    _, one, two = adapters
    out = tmp_path / "run"
    goal = {"suite": str(suite), "items": ["limit", "hand"], "adapters": ["base", str(two)], "out": str(out)}
    assert rig.load_adapter(one).accepted
    before = rig.serving()
    first = NodeProcess(NODE, stack.config.domain, tmp_path / "first.log")
    desk.ask(**goal)
    wait_for(lambda: len(read_results(out / "results.jsonl")) >= 1, "the first episode", 120.0)
    first.kill()
    kept = (out / "results.jsonl").read_text().splitlines()[:1]
    first.stop()
    wait_for(desk.gone, "the node to be gone", 60.0)

    messages: list[Any] = []
    with NodeProcess(NODE, stack.config.domain, tmp_path / "second.log", grace=60.0):
        handle = desk.ask(lambda said: messages.append(said.feedback), **goal)
        assert handle.accepted
        status, result = desk.end(handle)
    wait_for(desk.gone, "the second node to be gone", 60.0)
    assert status == GoalStatus.STATUS_SUCCEEDED, result.summary
    results = read_results(out / "results.jsonl")
    assert (out / "results.jsonl").read_text().splitlines()[:1] == kept
    assert len(results) == len({r.trial.key for r in results}) == 4, "each once"
    assert rig.serving() == before, "what served before the run that was killed"
    assert messages[-1].done == messages[-1].total == 4 and messages[0].done >= 1
    for entry in results:
        episode = read_episode(Path(entry.ended.bag), images=False)
        assert episode.identity.initial_state == entry.trial.initial_state
        assert episode.identity.variant == entry.trial.variant
        assert episode.identity.adapter_id == entry.ended.adapter_id
        assert bool(entry.ended.adapter_id) is (entry.trial.policy != "base")
        told = entry.measures
        assert (told.accepted or 0) + (told.vetoed or 0) == entry.ended.steps > 0
        assert (told.clearance is not None) is (entry.trial.variant == "moving_hand")
        assert entry.ended.collision in (0, 1) and told.driven is False and told.force is not None
    summary = json.loads(result.summary)
    assert summary["complete"] and summary["figures"]["base"]["collision"]["trials"] == 2
    (gaps,) = summary["differences"].values()
    assert gaps["steps"]["trials"] == 2
    assert Path(result.report).is_file() and summary == json.loads((out / "summary.json").read_text())


def test_cancelled_in_an_episode_it_gives_back_what_served_and_a_second_goal_is_refused_meanwhile(
    suite: Path, adapters: tuple[Path, Path, Path], desk: Desk, rig: RosRig, evaluator: NodeProcess
) -> None:
    _, one, two = adapters
    assert rig.load_adapter(one).accepted
    before = rig.serving()
    begun = threading.Event()
    goal = {"suite": str(suite), "items": ["long"], "adapters": [str(two), "base"]}
    handle = desk.ask(lambda said: begun.set(), **goal)
    assert handle.accepted and begun.wait(60.0)
    wait_for(lambda: rig.serving() != before, "the other adapter to serve", 60.0)
    assert not desk.ask(**goal).accepted, "one run at a time"
    desk.cancel(handle)
    status, result = desk.end(handle)
    assert status == GoalStatus.STATUS_CANCELED
    assert rig.serving() == before
    summary = json.loads(result.summary)
    assert not summary["complete"] and summary["episodes"] < 4
    again = desk.ask(suite=str(suite), items=["limit"], states=1)
    assert again.accepted, "the place is free again"
    status, result = desk.end(again)
    summary = json.loads(result.summary)
    assert status == GoalStatus.STATUS_SUCCEEDED, result.summary
    assert [policy["adapter_id"] for policy in summary["policies"]] == [before], "what serves is tried"


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ({"suite": "nothing"}, "suite 'nothing': neither a shipped one"),
        ({"items": ["lunch"]}, "no item 'lunch'"),
        ({"items": ["limit"], "states": 9}, "item limit: states: it has 1, not 9"),
        ({"adapters": ["no/such/folder"]}, "no/such/folder"),
        ({"adapters": ["base", "none"]}, "adapters: base is given twice"),
    ],
)
def test_a_goal_that_cannot_be_met_is_aborted_with_the_reason(
    suite: Path, desk: Desk, evaluator: NodeProcess, goal: dict[str, Any], words: str
) -> None:
    status, result = desk.end(desk.ask(**{"suite": str(suite), **goal}))
    assert status == GoalStatus.STATUS_ABORTED
    assert words in json.loads(result.summary)["problem"] and not result.report
