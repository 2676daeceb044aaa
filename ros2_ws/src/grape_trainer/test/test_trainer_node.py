"""The trainer node as a process over real topics; the policy it aligns is a stand-in that answers as the real one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grape_interfaces.action import Align, RunEpisode
from grape_interfaces.msg import AdapterInfo
from grape_interfaces.srv import ListAdapters, LoadAdapter
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient, ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node

from grape_episode import topics
from grape_episode.ros import ask
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_policy.checkpoint import load_checkpoint
from grape_policy.testing import write_random_checkpoint
from grape_trainer.errors import RigError
from grape_trainer.files import read_json, read_lines
from grape_trainer.loop import PHASES
from grape_trainer.registry import Registry
from grape_trainer.rig import Job, RigPool, Rollout, rollout_jobs
from grape_trainer.ros import RosRig
from grape_trainer.testing import SyntheticRig

pytestmark = pytest.mark.ros
OVERRIDES = (
    '{"learning_rate": 0.001, "batch_pairs": 4, "max_updates": 2, "drift_bound": 0.0, "kl_bound": 0.0, '
    '"lora_rank": 4, "chunk": 4, "check_every": 2}'
)


class StandIn:
    """RunEpisode and LoadAdapter of a policy that makes its episodes up, and an Align client, in one domain."""

    def __init__(self, model: Path, bags: Path, domain: int) -> None:
        self.rig = SyntheticRig(load_checkpoint(model), bags)
        self.hold = threading.Event()
        self.begun = self.cancels = 0
        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("grape_policy", context=self.context)
        group = ReentrantCallbackGroup()
        self.server = ActionServer(
            self.node,
            RunEpisode,
            topics.RUN_EPISODE,
            self._run,
            callback_group=group,
            cancel_callback=self._cancel,
        )
        self.node.create_service(LoadAdapter, topics.LOAD_ADAPTER, self._load, callback_group=group)
        self.node.create_service(ListAdapters, topics.LIST_ADAPTERS, self._list, callback_group=group)
        # a client with a thread of its own, which alone asks (see grape_episode.ros.ask)
        self.asker = Node("asker", context=self.context)
        self.align: Any = ActionClient(self.asker, Align, topics.ALIGN)
        self.asking = SingleThreadedExecutor(context=self.context)
        self.asking.add_node(self.asker)
        self.executor = MultiThreadedExecutor(4, context=self.context)
        self.executor.add_node(self.node)
        for executor in (self.executor, self.asking):
            threading.Thread(target=executor.spin, daemon=True).start()

    def close(self) -> None:
        self.executor.shutdown()
        self.asking.shutdown()
        self.asker.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()

    def _cancel(self, handle: Any) -> CancelResponse:
        self.cancels += 1
        return CancelResponse.ACCEPT

    def _run(self, handle: Any) -> RunEpisode.Result:
        goal = handle.request
        self.begun += 1
        assert goal.record and goal.temperature == 1.0
        while self.hold.is_set() and not handle.is_cancel_requested:
            time.sleep(0.01)
        if handle.is_cancel_requested:
            handle.canceled()
            return RunEpisode.Result(end_reason="cancelled")
        done: list[Rollout] = []
        job = Job(goal.task, goal.initial_state, goal.seed, goal.variant, objective=goal.objective)
        self.rig.collect([job], done.append)
        handle.succeed()
        (rollout,) = done
        return RunEpisode.Result(
            episode_id=rollout.episode_id,
            end_reason=rollout.end_reason,
            bag_path=rollout.bag,
            adapter_id=rollout.adapter_id,
        )

    def _load(self, request: LoadAdapter.Request, response: LoadAdapter.Response) -> LoadAdapter.Response:
        ack = self.rig.load_adapter(Path(request.path) if request.path else None)
        response.accepted, response.reason = ack.accepted, ack.reason
        response.adapter = AdapterInfo(adapter_id=ack.adapter_id, serving=True)
        return response

    def _list(self, request: ListAdapters.Request, response: ListAdapters.Response) -> ListAdapters.Response:
        response.adapters = [AdapterInfo(adapter_id=self.rig.serving, serving=True)]
        return response

    def send(self, goal: Align.Goal, heard: list[Any] | None = None) -> Any:
        """The accepted goal's handle."""
        wait_for(self.align.server_is_ready, "the Align action", 60.0)
        keep: Callable[[Any], None] = lambda m: heard.append(m.feedback) if heard is not None else None  # noqa: E731
        return ask(self.asking, lambda: self.align.send_goal_async(goal, keep)).result(30.0)

    def result(self, handle: Any, deadline: float = 120.0) -> tuple[int, Align.Result]:
        answer = ask(self.asking, handle.get_result_async).result(deadline)
        return answer.status, answer.result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def stand_in(model: Path, tmp_path: Path) -> Iterator[tuple[StandIn, int]]:
    domain = free_domain()
    made = StandIn(model, tmp_path / "bags", domain)
    yield made, domain
    made.close()


def trainer(model: Path, tmp_path: Path, domain: int, **params: object) -> NodeProcess:
    told: dict[str, object] = {
        "model": model,
        "registry": tmp_path / "adapters",
        "runs": tmp_path / "runs",
        "overrides": f"'{OVERRIDES}'",
        "threads": 1,
        "gate_kl": 0.0,  # a random checkpoint moves far in two updates
        **params,
    }
    return NodeProcess("grape_trainer.trainer_node", domain, tmp_path / "trainer.log", told)


def goal(**changes: Any) -> Align.Goal:
    plain = {"tasks": ["carrot_on_plate"], "iterations": 1, "states": 2, "rollouts": 4, "first_state": 100_000}
    return Align.Goal(**{**plain, **changes})


def test_it_cancels_goes_on_aligns_and_ends_cleanly(model: Path, tmp_path: Path, stand_in: tuple[StandIn, int]) -> None:
    policy, domain = stand_in
    with trainer(model, tmp_path, domain) as node:
        # cancelled while a rollout is under way
        policy.hold.set()
        handle = policy.send(goal())
        assert handle.accepted
        assert not policy.send(goal(seed=1)).accepted, "one run at a time"
        follower = policy.send(goal())
        assert follower.accepted, "the same goal follows the run under way"
        wait_for(lambda: policy.begun == 1, "the first rollout", 30.0)
        ask(policy.asking, handle.cancel_goal_async)
        wait_for(lambda: policy.cancels == 1, "the rollout to be cancelled", 30.0)
        status, result = policy.result(handle)
        assert status == 5 and not result.changed and result.adapter_id == ""
        assert policy.result(follower) == (6, result)
        assert result.reason.startswith("cancelled in phase collect")
        # deactivated while a rollout is under way
        change = policy.asker.create_client(ChangeState, "/grape_trainer/change_state")
        wait_for(change.service_is_ready, "the lifecycle service", 30.0)

        def transition(number: int) -> bool:
            request = ChangeState.Request()
            request.transition.id = number
            return bool(ask(policy.asking, lambda: change.call_async(request)).result(60.0).success)

        handle = policy.send(goal())
        wait_for(lambda: policy.begun == 2, "the rollout again", 30.0)
        assert transition(Transition.TRANSITION_DEACTIVATE), node.output
        status, result = policy.result(handle)
        assert status == 6 and result.reason.startswith("cancelled in phase collect")
        assert not policy.send(goal()).accepted, "not active"
        assert transition(Transition.TRANSITION_ACTIVATE), node.output
        policy.hold.clear()
        # a goal that cannot be met says why
        status, result = policy.result(policy.send(goal(tasks=["juggle"])))
        assert status == 6 and "unknown task 'juggle'" in result.reason and not result.changed
        # the same goal again goes on in the same folder
        heard: list[Any] = []
        status, result = policy.result(policy.send(goal(), heard))
        assert status == 4 and result.changed, node.output
        assert result.adapter_id == policy.rig.serving == Registry(tmp_path / "adapters").current
        assert len(policy.rig.jobs) == 8
        summary = read_json(Path(result.report) / "summary.json")
        assert summary["changed"] and summary["iterations"][0]["pairs"] > 0
        wait_for(lambda: {f.phase for f in heard} == set(PHASES), "every phase")
        assert [p for p in Path(tmp_path / "runs").iterdir()] == [Path(result.report)]
        node.process.terminate()
        assert node.wait() == 0


def test_killed_it_goes_on_by_itself_with_the_same_adapter_and_the_policy_never_stops(
    model: Path, tmp_path: Path, stand_in: tuple[StandIn, int]
) -> None:
    policy, domain = stand_in
    with trainer(model, tmp_path, domain, resume_within=60.0) as node:
        policy.send(goal())
        wait_for(lambda: len(policy.rig.jobs) >= 2, "two rollouts", 60.0)
        policy.hold.set()
        wait_for(lambda: policy.begun > len(policy.rig.jobs), "a rollout to be under way", 30.0)
        node.kill()
    assert policy.rig.serving == "" and policy.cancels == 0
    recorded = len(read_lines(next((tmp_path / "runs").glob("*/iteration_1/rollouts.jsonl"))))
    # the rollout that nobody waits for any more ends by itself; it is collected again
    threading.Timer(1.0, policy.hold.clear).start()
    with trainer(model, tmp_path, domain, resume_within=60.0) as node:
        wait_for(lambda: "all 1 iterations done" in node.output, "the end of the run", 90.0)
        assert "going on with the run that was interrupted" in node.output
        assert policy.rig.serving == Registry(tmp_path / "adapters").current != ""
        summary = read_json(next((tmp_path / "runs").glob("*/summary.json")))
        assert summary["iterations"][0]["episodes"] == 8 and recorded < 8
        # once more what was under way, and at most what had ended without being noted
        assert len({job.key for job in policy.rig.jobs}) == 8 and len(policy.rig.jobs) - 8 in (1, 2)
        assert Registry(tmp_path / "adapters").verify() == []


def test_it_is_cancelled_within_training_and_its_process_ends(
    model: Path, tmp_path: Path, stand_in: tuple[StandIn, int]
) -> None:
    policy, domain = stand_in
    slow = OVERRIDES.replace('"max_updates": 2', '"max_updates": 0, "epochs": 2000, "checkpoint_every": 1')
    with trainer(model, tmp_path, domain, overrides=f"'{slow}'") as node:
        heard: list[Any] = []
        handle = policy.send(goal(), heard)
        saved = "*/iteration_1/train/checkpoints/*"
        wait_for(lambda: any((tmp_path / "runs").glob(saved)), "a checkpoint", 60.0)
        wait_for(lambda: any(f.phase == "train" and f.progress > 0 for f in heard), "word of it", 30.0)
        ask(policy.asking, handle.cancel_goal_async)
        status, result = policy.result(handle)
        assert status == 5 and result.reason.startswith("cancelled in phase train"), node.output
        assert policy.rig.serving == "" == Registry(tmp_path / "adapters").current
        assert not children(node.process.pid), "the training process is gone"
        # what it had done is kept for the same goal, and a robot does not begin to move by itself
        assert list(Path(result.report).glob("iteration_1/train/checkpoints/*"))
        assert read_json(Path(result.report) / "goal.json")["open"] is False


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def test_it_trains_on_bags_that_others_record_once_nobody_collects(
    model: Path, tmp_path: Path, stand_in: tuple[StandIn, int]
) -> None:
    policy, domain = stand_in
    told = {"watch": tmp_path / "bags", "watch_min": 8, "watch_period": 0.1, "wait_to_train": "always", "idle": 0.5}
    (tmp_path / "bags").mkdir()
    with trainer(model, tmp_path, domain, **told) as node, RosRig(domain) as rig:
        wait_for(lambda: "is served" in node.output, "the node", 60.0)
        done: list[Rollout] = []
        rig.collect(rollout_jobs(("carrot_on_plate",), 2, 4, 100_000, 0)[:7], done.append)
        # the ninth job keeps the policy busy before the eighth bag lets a run begin
        policy.hold.set()
        busy = threading.Thread(target=lambda: rig.collect([Job("spoon_on_towel", 5, 5)], done.append), daemon=True)
        busy.start()
        wait_for(lambda: policy.begun == 8, "the ninth job", 60.0)
        policy.rig.collect(rollout_jobs(("carrot_on_plate",), 2, 4, 100_000, 0)[7:], done.append)
        wait_for(lambda: "aligning in" in node.output, "a run", 60.0)
        (state,) = wait_for(lambda: list((tmp_path / "runs").glob("*/align.json")), "its state", 60.0)
        wait_for(lambda: read_json(state)["phase"] == "train", "the training phase", 60.0)
        assert not list(state.parent.glob("iteration_1/train/config.json")), "it waits"
        policy.hold.clear()
        busy.join(60.0)
        wait_for(lambda: policy.rig.serving, "the new adapter", 120.0)
        wait_for(lambda: (tmp_path / "runs/watched.jsonl").exists(), "the ledger", 30.0)
        (line,) = read_lines(tmp_path / "runs/watched.jsonl")
        assert len(line["bags"]) == 8 and Registry(tmp_path / "adapters").current == policy.rig.serving


def test_it_does_not_start_with_a_model_that_is_not_there(tmp_path: Path) -> None:
    with trainer(tmp_path / "nowhere", tmp_path, free_domain()) as node:
        assert node.wait(60.0) == 1
        lines = [line for line in node.output.splitlines() if line.strip()]
        assert len(lines) == 1 and "parameter model" in lines[0] and "nowhere" in lines[0]


def test_a_rig_without_a_policy_says_which_server_is_missing() -> None:
    domain = free_domain()
    with (
        RosRig(domain) as rig,
        pytest.raises(RigError, match=f"{topics.RUN_EPISODE}: no action server in domain {domain}"),
    ):
        rig.wait_ready(0.3)


def test_two_stacks_in_two_domains_collect_side_by_side(model: Path, tmp_path: Path) -> None:
    domains = [free_domain(), free_domain()]
    stacks = [StandIn(model, tmp_path / str(d), d) for d in domains]
    rigs = [RosRig(d) for d in domains]
    try:
        done: list[Rollout] = []
        jobs = [Job("carrot_on_plate", 100_000 + i, i) for i in range(6)]
        RigPool(rigs).collect(jobs, done.append)
        assert sorted(r.key for r in done) == sorted(j.key for j in jobs)
        assert all(stack.rig.jobs for stack in stacks)
        refused = RigPool(rigs).load_adapter(tmp_path)
        assert not refused.accepted and "manifest.json" in refused.reason
        assert RigPool(rigs).load_adapter(None).accepted
    finally:
        for rig in rigs:
            rig.close()
        for stack in stacks:
            stack.close()
