"""A rig over ROS: one stack of nodes in one domain, reached through RunEpisode and LoadAdapter."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from pathlib import Path
from types import TracebackType
from typing import Any

from action_msgs.msg import GoalStatus, GoalStatusArray
from grape_interfaces.action import RunEpisode
from grape_interfaces.msg import AdapterInfo
from grape_interfaces.srv import ListAdapters, LoadAdapter
from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_action_status_default
from rclpy.task import Future

from grape_episode import topics
from grape_episode.episode import PERSON_DROVE
from grape_episode.ros import ask
from grape_trainer.errors import RigError
from grape_trainer.rig import Ack, Job, Rollout

POLL_SECONDS = 0.05
FIRST_PATIENCE = 1.0
BUSY_GRACE = 2.0
"""Seconds for which a refused goal is sent again although no episode is seen: the word of its end overtakes the end."""
ALIVE = (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING)
NEVER = threading.Event()


class RosRig:
    """Client of the policy node of one domain. A context manager; methods are called from one thread at a time.

    ``domain``: None for ``ROS_DOMAIN_ID``; ``cancelled``: asked between and during rollouts; ``deadline``: seconds
    for an answer of a server; ``episode_deadline``: seconds for a whole rollout. Raises RigError naming the
    action or service that does not answer."""

    def __init__(
        self,
        domain: int | None = None,
        cancelled: Callable[[], bool] = NEVER.is_set,
        name: str = "grape_rig",
        deadline: float = 30.0,
        episode_deadline: float = 600.0,
    ) -> None:
        self._cancelled, self._deadline, self._episode_deadline = cancelled, deadline, episode_deadline
        self._context = Context()
        self._context.init(domain_id=domain)
        self._node = Node(name, context=self._context, use_global_arguments=False)
        self._where = f"domain {self._context.get_domain_id()}"
        self._episodes = ActionClient(self._node, RunEpisode, topics.RUN_EPISODE)
        self._load = self._node.create_client(LoadAdapter, topics.LOAD_ADAPTER)
        self._list = self._node.create_client(ListAdapters, topics.LIST_ADAPTERS)
        self._episode_runs, self._episode_ended = False, 0.0
        status = f"{topics.RUN_EPISODE}/_action/status"
        self._node.create_subscription(GoalStatusArray, status, self._on_status, qos_profile_action_status_default)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name=f"rig {self._where}", daemon=True)
        self._thread.start()

    def __enter__(self) -> RosRig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._thread.join(5.0)
        self._episodes.destroy()
        self._node.destroy_node()
        self._context.try_shutdown()

    def cancelled(self) -> bool:
        return self._cancelled()

    def idle_seconds(self) -> float:
        """For how long no episode has run in this domain, whoever asked for it; 0 while one does."""
        if self._episode_runs and self._episodes.server_is_ready():
            return 0.0
        return time.monotonic() - self._episode_ended

    def _on_status(self, message: GoalStatusArray) -> None:
        runs = any(one.status in ALIVE for one in message.status_list)
        if self._episode_runs and not runs:
            self._episode_ended = time.monotonic()
        self._episode_runs = runs

    def wait_ready(self, seconds: float | None = None) -> None:
        """Wait until the policy node answers. Raises RigError naming what is missing."""
        for server, ready, what in (
            (topics.RUN_EPISODE, self._episodes.server_is_ready, "action"),
            (topics.LOAD_ADAPTER, self._load.service_is_ready, "service"),
            (topics.LIST_ADAPTERS, self._list.service_is_ready, "service"),
        ):
            end = time.monotonic() + (self._deadline if seconds is None else seconds)
            while not ready():
                if time.monotonic() > end:
                    raise RigError(f"{server}: no {what} server in {self._where}: is the policy node running?")
                if self._cancelled():
                    return
                time.sleep(POLL_SECONDS)

    def collect(self, jobs: Sequence[Job], done: Callable[[Rollout], None]) -> None:
        """Run the jobs one after another."""
        self.wait_ready()
        for job in jobs:
            if self._cancelled():
                return
            rollout = self._run(job)
            if rollout is not None:
                done(rollout)

    def load_adapter(self, path: Path | None) -> Ack:
        """Load and flip; returns once the adapter serves, None: the base model alone."""
        self.wait_ready()
        request = LoadAdapter.Request(path=str(Path(path).resolve()) if path else "", force=False)
        answer = self._call(self._load, request, topics.LOAD_ADAPTER)
        if not answer.accepted:
            return Ack(False, answer.reason, self.serving())
        if not answer.pending:
            return Ack(True, "", answer.adapter.adapter_id)
        # an episode of somebody else is under way: the flip comes with its end
        end = time.monotonic() + self._episode_deadline
        while time.monotonic() < end and not self._cancelled():
            if self.serving() == answer.adapter.adapter_id:
                return Ack(True, "", answer.adapter.adapter_id)
            time.sleep(POLL_SECONDS)
        return Ack(False, "the flip is still waiting for the end of an episode", self.serving())

    def serving(self) -> str:
        """Id of the adapter that answers the next inference; empty: the base model alone."""
        return str(self.serves().adapter_id)

    def serves(self) -> AdapterInfo:
        """What answers the next inference; its fields are empty for the base model alone, but for ``base_hash``."""
        answer = self._call(self._list, ListAdapters.Request(), topics.LIST_ADAPTERS)
        return next((one for one in answer.adapters if one.serving), AdapterInfo())

    def episode(self, goal: RunEpisode.Goal) -> RunEpisode.Result | None:
        """One episode as RunEpisode tells of it; None when it was cancelled here, once it has ended."""
        handle = self._sent(goal)
        return self._result(handle) if handle is not None else None

    def _run(self, job: Job) -> Rollout | None:
        goal = RunEpisode.Goal(
            task=job.task,
            instruction=job.instruction,
            variant=job.variant,
            initial_state=job.initial_state,
            objective=job.objective,
            seed=job.seed,
            temperature=job.temperature,
            step_limit=job.step_limit,
            record=job.record,
        )
        result = self.episode(goal)
        if result is None:
            return None
        return Rollout(
            key=job.key,
            bag=result.bag_path,
            episode_id=result.episode_id,
            end_reason=result.end_reason,
            detail=result.detail,
            adapter_id=result.adapter_id,
            # what a person drove to says nothing of a policy, to a canary either
            success=-1 if PERSON_DROVE in result.detail else result.success_reward,
        )

    def _sent(self, goal: RunEpisode.Goal) -> Any:
        """The handle of the accepted goal; None when it was cancelled here. An episode that is still running, e.g. one
        that a trainer which died had asked for, is waited for."""
        end = time.monotonic() + self._episode_deadline
        refused: float | None = None
        while True:
            sent = ask(self._executor, lambda: self._episodes.send_goal_async(goal))
            try:
                handle = sent.result(self._deadline)
            except TimeoutError:
                raise RigError(f"{topics.RUN_EPISODE}: no answer in {self._deadline:g} s in {self._where}") from None
            if handle.accepted:
                return handle
            refused = refused or time.monotonic()
            while self._episode_runs and time.monotonic() < end and not self._cancelled():
                refused = time.monotonic()
                time.sleep(POLL_SECONDS)
            if self._cancelled():
                return None
            if time.monotonic() > min(end, refused + BUSY_GRACE):
                raise RigError(
                    f"{topics.RUN_EPISODE}: goal for task {goal.task!r} refused in {self._where}: the policy node is "
                    "not active, is busy, or does not know the task; its log says which"
                )
            time.sleep(POLL_SECONDS)

    def _result(self, handle: Any) -> Any:
        """The goal's result; None when it was cancelled here."""
        future = ask(self._executor, handle.get_result_async)
        end = time.monotonic() + self._episode_deadline
        gone: float | None = None
        while not future.done():
            if self._cancelled():
                ask(self._executor, handle.cancel_goal_async)
                wait([future], self._deadline)
                return None
            now = time.monotonic()
            gone = None if self._episodes.server_is_ready() else gone or now
            if now > end or (gone is not None and now - gone > self._deadline):
                why = "is gone" if gone else f"did not end in {self._episode_deadline:g} s"
                raise RigError(f"{topics.RUN_EPISODE}: the rollout in {self._where} {why}")
            wait([future], POLL_SECONDS)
        answer = future.result()
        return None if answer is None else answer.result

    def _call(self, client: Client, request: Any, name: str) -> Any:
        """The answer of a service that may be asked twice: an answer is lost when it is sent before its server
        has discovered this client, which ``service_is_ready`` cannot see."""
        happened = threading.Event()
        futures: list[Future] = []
        end = time.monotonic() + self._deadline
        patience = FIRST_PATIENCE
        while time.monotonic() < end:
            future = client.call_async(request)
            future.add_done_callback(lambda _: happened.set())
            futures.append(future)
            happened.wait(min(patience, max(0.0, end - time.monotonic())))
            patience *= 2
            for future in futures:
                if future.done():
                    return future.result()
        raise RigError(f"{name}: no answer in {self._deadline:g} s in {self._where}")

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()
