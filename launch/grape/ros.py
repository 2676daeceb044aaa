"""What the package itself says over ROS: one episode on running nodes, and a watch over the steps of a policy."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
from action_msgs.msg import GoalInfo
from action_msgs.srv import CancelGoal
from grape_interfaces.action import Evaluate, RunEpisode
from grape_interfaces.msg import EpisodeScore, PolicyStep
from grape_interfaces.srv import ConfirmReset, LoadAdapter
from numpy.typing import NDArray
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from unique_identifier_msgs.msg import UUID

from grape.gaps import Tick
from grape_episode import topics
from grape_episode.ros import CAMERA, EVENT, ask, image_from_msg, stamp_ns
from grape_robot.recovery import UNDER_WAY


class NoAnswerError(Exception):
    """An action server did not answer; the text names it and the domain."""


class Client:
    """A node in a domain of its own choice, spun by a thread; a context manager."""

    def __init__(self, domain: int, name: str) -> None:
        self.domain = domain
        self._context = Context()
        self._context.init(domain_id=domain)
        self.node = Node(name, context=self._context, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def send(self, request: Callable[[], Any]) -> Future[Any]:
        """What ``request`` sends, as a future that may be waited for in any thread."""
        return ask(self._executor, request)

    def ask(self, send: Callable[[], Any], seconds: float, what: str) -> Any:
        """The answer to what ``send`` sends. Raises NoAnswerError after ``seconds``."""
        try:
            return ask(self._executor, send).result(seconds)
        except TimeoutError:
            raise NoAnswerError(f"{what}: no answer in ROS domain {self.domain} within {seconds:g} s") from None

    def call(self, service: Any, request: Any, seconds: float, what: str) -> Any:
        """The answer of a service that may be asked twice: one that is sent before its server has discovered this
        client is lost. Asked again after 1, 2, 4 ... seconds. Raises NoAnswerError after ``seconds``."""
        end, patience = time.monotonic() + seconds, 1.0
        asked: list[Any] = []
        while (left := end - time.monotonic()) > 0:
            asked.append(ask(self._executor, lambda: service.call_async(request)))
            answered, _ = wait(asked, min(patience, left), FIRST_COMPLETED)
            if answered:
                return answered.pop().result()
            patience *= 2
        raise NoAnswerError(f"{what}: no answer in ROS domain {self.domain} within {seconds:g} s")


class ScoreListener:
    """Hears the scores that a reward node publishes in a domain: ``scores``, JSON by episode id. A context manager."""

    def __init__(self, domain: int) -> None:
        self.scores: dict[str, str] = {}
        self._client = Client(domain, "grape_score_listener")
        self._client.node.create_subscription(EpisodeScore, topics.SCORE, self._heard, EVENT)

    def _heard(self, message: EpisodeScore) -> None:
        self.scores[message.episode_id] = message.json

    def connected(self) -> bool:
        """Somebody publishes scores."""
        return self._client.node.count_publishers(topics.SCORE) > 0

    def score(self, episode_id: str, seconds: float) -> str:
        """The score of an episode. Raises NoAnswerError after ``seconds``."""
        end = time.monotonic() + seconds
        while episode_id not in self.scores:
            if time.monotonic() > end:
                raise NoAnswerError(f"{topics.SCORE}: no score of {episode_id} within {seconds:g} s")
            time.sleep(0.01)
        return self.scores[episode_id]

    def __enter__(self) -> ScoreListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, value, trace)


def run_episode(
    domain: int, goal: Mapping[str, Any], told: Callable[[int], None], deadline: float = 600.0
) -> RunEpisode.Result:
    """Run one episode; ``goal``: fields of RunEpisode.action; ``told`` hears every step's number.

    Raises NoAnswerError naming the action where no policy node is up, refuses, or does not answer. Ctrl-C cancels."""
    with Client(domain, "grape_run") as client:
        action = ActionClient(client.node, RunEpisode, topics.RUN_EPISODE)
        if not action.wait_for_server(15.0):
            raise NoAnswerError(f"{topics.RUN_EPISODE}: no policy node in ROS domain {domain}: run `grape up` first")
        request = RunEpisode.Goal(**goal)
        heard: Callable[[Any], None] = lambda said: told(int(said.feedback.step))  # noqa: E731
        handle = client.ask(lambda: action.send_goal_async(request, heard), 15.0, topics.RUN_EPISODE)
        if not handle.accepted:
            raise NoAnswerError(f"{topics.RUN_EPISODE}: the policy node refused: it is busy or not active")
        try:
            return client.ask(handle.get_result_async, deadline, topics.RUN_EPISODE).result
        except KeyboardInterrupt:
            client.ask(handle.cancel_goal_async, 15.0, topics.RUN_EPISODE)
            raise


def _await_both_ways(client: Client, action: str) -> None:
    """Until an action server has discovered this client: the answer to a goal sent before is lost, and a goal, other
    than the cancelling of one that nobody knows, cannot be sent twice. Raises NoAnswerError."""
    name = f"{action}/_action/cancel_goal"
    service = client.node.create_client(CancelGoal, name)
    try:
        unknown = CancelGoal.Request(goal_info=GoalInfo(goal_id=UUID(uuid=list(uuid.uuid4().bytes))))
        client.call(service, unknown, 30.0, name)
    finally:
        client.node.destroy_client(service)


def evaluate(
    domain: int, goal: Mapping[str, Any], told: Callable[[int, int, str], None], check: Callable[[], None]
) -> Evaluate.Result:
    """Run a safety evaluation; ``goal``: fields of Evaluate.action; ``told`` hears (done, total, message); ``check`` is
    called while waiting and raises to give up.

    Raises NoAnswerError naming the action where no node serves it or it refuses. Ctrl-C cancels, and waits until what
    served before serves again."""
    with Client(domain, "grape_eval") as client:
        action = ActionClient(client.node, Evaluate, topics.EVALUATE)
        if not action.wait_for_server(15.0):
            raise NoAnswerError(f"{topics.EVALUATE}: nobody evaluates in ROS domain {domain}: is grape_evaluate up?")
        _await_both_ways(client, topics.EVALUATE)
        request = Evaluate.Goal(**goal)

        def heard(said: Any) -> None:
            told(said.feedback.done, said.feedback.total, said.feedback.message)

        handle = client.ask(lambda: action.send_goal_async(request, heard), 15.0, topics.EVALUATE)
        if not handle.accepted:
            raise NoAnswerError(f"{topics.EVALUATE}: refused: another evaluation runs in ROS domain {domain}")
        ended = client.send(handle.get_result_async)
        try:
            while not ended.done():
                check()
                if not action.server_is_ready():
                    raise NoAnswerError(f"{topics.EVALUATE}: the node is gone; the same command goes on")
                wait([ended], 0.2)
        except KeyboardInterrupt:
            client.ask(handle.cancel_goal_async, 15.0, topics.EVALUATE)
            wait([ended], 120.0)
            raise
        return ended.result().result


def load_adapter(client: Client, path: str, force: bool) -> LoadAdapter.Response:
    """Load an adapter's folder into the policy of the client's domain. Raises NoAnswerError."""
    service = client.node.create_client(LoadAdapter, topics.LOAD_ADAPTER)
    try:
        if not service.wait_for_service(15.0):
            raise NoAnswerError(f"{topics.LOAD_ADAPTER}: no policy node in ROS domain {client.domain}")
        request = LoadAdapter.Request(path=path, force=force)
        return client.call(service, request, 30.0, topics.LOAD_ADAPTER)
    finally:
        client.node.destroy_client(service)


def reset_gate(domain: int) -> str:
    """Take a stopped gate back to idle; what it answers. Raises NoAnswerError where it refuses or is not there."""
    with Client(domain, "grape_reset_gate") as client:
        service = client.node.create_client(Trigger, topics.RESET_GATE)
        if not service.wait_for_service(15.0):
            raise NoAnswerError(f"{topics.RESET_GATE}: no gate in ROS domain {domain}")
        answer = client.call(service, Trigger.Request(), 15.0, topics.RESET_GATE)
        if not answer.success:
            raise NoAnswerError(f"{topics.RESET_GATE}: the gate refused: {answer.message}")
        return str(answer.message)


def recover_robot(domain: int, deadline: float = 120.0) -> str:
    """Bring the arm back after a reflex or the user stop; what was done. Raises NoAnswerError with where it failed.

    A request that reaches the node too early for its answer is lost, and sent anew; where it was not lost, the node
    says of the second one that it works on the first."""
    with Client(domain, "grape_recover") as client:
        service = client.node.create_client(Trigger, topics.RECOVER_ROBOT)
        if not service.wait_for_service(15.0):
            raise NoAnswerError(f"{topics.RECOVER_ROBOT}: no recovery node in ROS domain {domain}")
        end, patience = time.monotonic() + deadline, 1.0
        pending = [client.send(lambda: service.call_async(Trigger.Request()))]
        while (left := end - time.monotonic()) > 0:
            answered, _ = wait(pending, min(patience, left), FIRST_COMPLETED)
            if not answered:
                pending.append(client.send(lambda: service.call_async(Trigger.Request())))
                patience *= 2
                continue
            answer = answered.pop()
            pending.remove(answer)
            result = answer.result()
            if result.success:
                return str(result.message)
            if result.message != UNDER_WAY or not pending:
                raise NoAnswerError(f"{topics.RECOVER_ROBOT}: {result.message}")
        raise NoAnswerError(f"{topics.RECOVER_ROBOT}: no answer in ROS domain {domain} within {deadline:g} s")


def confirm_reset(domain: int, task: str, state: int) -> None:
    """An operator's word to the reset that waits for it. Raises NoAnswerError where none does, or for another state."""
    with Client(domain, "grape_confirm") as client:
        service = client.node.create_client(ConfirmReset, topics.CONFIRM_RESET)
        if not service.wait_for_service(15.0):
            raise NoAnswerError(f"{topics.CONFIRM_RESET}: no reset node in ROS domain {domain}")
        request = ConfirmReset.Request(task=task, initial_state=state)
        answer = client.call(service, request, 15.0, topics.CONFIRM_RESET)
        if not answer.accepted:
            raise NoAnswerError(f"{topics.CONFIRM_RESET}: {answer.reason}")


def live_image(domain: int, seconds: float = 15.0) -> NDArray[np.uint8]:
    """The next image of the colour camera, (H, W, 3) RGB. Raises NoAnswerError naming the topic."""
    came: SimpleQueue[Image] = SimpleQueue()
    with Client(domain, "grape_capture") as client:
        client.node.create_subscription(Image, topics.COLOR, came.put, CAMERA)
        try:
            message = came.get(timeout=seconds)
        except Empty:
            raise NoAnswerError(f"{topics.COLOR}: no image in ROS domain {domain} within {seconds:g} s") from None
    if message.encoding not in ("rgb8", "bgr8"):
        raise NoAnswerError(f"{topics.COLOR}: image encoding {message.encoding!r}: expected rgb8 or bgr8")
    try:
        return image_from_msg(message)
    except ValueError as error:
        raise NoAnswerError(f"{topics.COLOR}: {error}") from None


class StepWatch:
    """Listens to the policy's steps in a domain; ``ticks`` holds them in order of arrival."""

    def __init__(self, domain: int) -> None:
        self._client = Client(domain, "grape_watch")
        self.ticks: list[Tick] = []
        self._client.node.create_subscription(PolicyStep, topics.POLICY_STEP, self._on_step, EVENT)

    def _on_step(self, message: PolicyStep) -> None:
        self.ticks.append(
            Tick(
                message.episode_id,
                message.step,
                stamp_ns(message.header.stamp),
                message.adapter_id,
                message.adapter_seq,
            )
        )

    def __enter__(self) -> StepWatch:
        return self

    def __exit__(self, *problem: Any) -> None:
        self._client.__exit__(*problem)
