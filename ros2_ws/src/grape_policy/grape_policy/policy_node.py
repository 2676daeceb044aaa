"""The policy node: holds the model, acts in ``RunEpisode`` goals, swaps adapters between two inferences.

Threads: the executor's carry only light callbacks (they put what came into the inbox) and those that wait; one worker
infers and one loads, so that heartbeats and cancels go on meanwhile.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import rclpy
from grape_interfaces.action import RunEpisode
from grape_interfaces.msg import EpisodeIdentity, EpisodeOutcome, Heartbeat, PolicyStep
from grape_interfaces.srv import ListAdapters, LoadAdapter, PrepareRecording, ResetWorld, RollbackAdapter
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from grape_episode import topics
from grape_episode.episode import Step
from grape_episode.ros import EVENT, LATCHED, declare
from grape_policy import ros
from grape_policy.episode_runner import CANCELLED, ERROR, STEP_LIMIT, SUCCESS, EpisodeReport, EpisodeRunner
from grape_policy.goals import OneGoal
from grape_policy.identity import episode_identity
from grape_policy.observation import LEAVING_SECONDS, UNKNOWN, Inbox
from grape_policy.parameters import PARAMETERS, EpisodeSettings, model_folder

if TYPE_CHECKING:
    from grape_policy.loading import Policy
    from grape_policy.swap import Reply

HEARTBEAT_PERIOD = 0.05
SWITCH_SECONDS = 0.0001
SIGNAL_POLL = 0.1
EXECUTOR_THREADS = 8  # a goal, a load and a transition may each hold one while they wait
NO_MODEL = "the policy node is not configured: no model is loaded"
BY_CLIENT = "cancelled by the client"


class PolicyNode(LifecycleNode):
    """Lifecycle: configure loads and warms up the model, activate listens and takes goals."""

    def __init__(self) -> None:
        super().__init__("grape_policy")
        for parameter in PARAMETERS:
            default = self._value("lock_step") if parameter.name == "await_task_status" else parameter.default
            declare(
                self, parameter.name, default, parameter.description, parameter.bounds, read_only=not parameter.settable
            )
        self.problem = ""
        self._inbox, self._goal = Inbox(), OneGoal()
        self._policy: Policy | None = None
        self._worker, self._loader = ThreadPoolExecutor(1, "inference"), ThreadPoolExecutor(1, "loader")
        self._heard: list[Subscription] = []
        self._active = False
        self._episode_id = ""
        waiting = ReentrantCallbackGroup()  # goals, cancels and services wait: none may hold up another
        self._heartbeat = self.create_lifecycle_publisher(Heartbeat, topics.HEARTBEAT, EVENT)
        self._outlets = ros.Outlets(
            identity=self.create_lifecycle_publisher(EpisodeIdentity, topics.EPISODE, LATCHED),
            outcome=self.create_lifecycle_publisher(EpisodeOutcome, topics.OUTCOME, EVENT),
            step=self.create_lifecycle_publisher(PolicyStep, topics.POLICY_STEP, EVENT),
            model_input=self.create_lifecycle_publisher(Image, topics.MODEL_INPUT, EVENT),
            reset_world=self.create_client(ResetWorld, topics.RESET_WORLD, callback_group=waiting),
            prepare_recording=self.create_client(PrepareRecording, topics.PREPARE_RECORDING, callback_group=waiting),
        )
        # the steady clock: in lock-step the ROS clock stands still during an inference
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(HEARTBEAT_PERIOD, self._beat, MutuallyExclusiveCallbackGroup(), steady)
        self.create_service(LoadAdapter, topics.LOAD_ADAPTER, self._on_load, callback_group=waiting)
        self.create_service(RollbackAdapter, topics.ROLLBACK_ADAPTER, self._on_rollback, callback_group=waiting)
        self.create_service(ListAdapters, topics.LIST_ADAPTERS, self._on_list, callback_group=waiting)
        self._action = ActionServer(
            self,
            RunEpisode,
            topics.RUN_EPISODE,
            self._on_execute,
            callback_group=waiting,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    # lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        v = self._value
        try:
            EpisodeSettings.read(v)
            folder = model_folder(v("model"))
            from grape_policy.loading import load_policy  # torch and transformers: seconds, so not for a wrong name

            registry = Path(v("registry")).expanduser() if v("registry") else None
            places = (folder, v("device"), v("dtype"), registry, v("threads"), v("warmup"), v("unnorm_key") or None)
            self._policy = self._worker.submit(load_policy, *places).result()
        except (ValueError, RuntimeError, OSError) as problem:
            self.problem = " ".join(str(problem).split())
            if not v("autostart"):  # else main says it, in the one line that a node that cannot start prints
                self.get_logger().error(self.problem)
            return TransitionCallbackReturn.FAILURE
        # what the libraries have made stays for good: a full collection that looks through all of it stops every
        # thread for several control ticks
        gc.collect()
        gc.freeze()
        serving = self._policy.switch.serving.adapter_id[:12] or "no adapter"
        self.get_logger().info(f"{folder}: base {self._policy.vla.base_hash[:12]}, {serving} serves")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._heard = ros.listen(self, self._inbox, EpisodeSettings.read(self._value))
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = False
        self._inbox.stop("the policy node is being deactivated", leaving=True)
        self._goal.wait_free(self._value("deadline") + LEAVING_SECONDS)
        for subscription in self._heard:
            self.destroy_subscription(subscription)
        self._heard = []
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._policy = None
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._active:
            self.on_deactivate(state)
        return self.on_cleanup(state)

    def _beat(self) -> None:
        if self._active:
            message = Heartbeat(source=self.get_name(), episode_id=self._episode_id)
            message.header.stamp = self.get_clock().now().to_msg()
            self._heartbeat.publish(message)

    # episodes

    def _on_goal(self, goal: RunEpisode.Goal) -> GoalResponse:
        problem = "the policy node is not active" if not self._active else ""
        if not problem and not self._goal.reserve():
            problem = f"episode {self._episode_id or 'of another goal'} is running"
        if problem:
            self.get_logger().error(f"{topics.RUN_EPISODE}: goal {goal.task!r} is rejected: {problem}")
            return GoalResponse.REJECT
        self._inbox.clear_stop()
        return GoalResponse.ACCEPT

    def _on_cancel(self, handle: Any) -> CancelResponse:
        self._inbox.stop(BY_CLIENT)
        return CancelResponse.ACCEPT

    def _on_execute(self, handle: Any) -> RunEpisode.Result:
        self._goal.begin()
        try:
            return self._finish(handle, self._worker.submit(self._rollout, handle).result())
        except Exception as problem:
            handle.abort()
            self.get_logger().error(f"{topics.RUN_EPISODE}: {problem}")
            unknown = dict.fromkeys(("success_reward", "success_world", "grasped", "collision"), UNKNOWN)
            return RunEpisode.Result(end_reason=ERROR, detail=str(problem), **unknown)
        finally:
            self._episode_id = ""
            self._goal.end()

    def _rollout(self, handle: Any) -> EpisodeReport:
        policy, settings = self._policy, EpisodeSettings.read(self._value)
        if policy is None:
            raise RuntimeError("the policy node is not active")
        adapter = policy.switch.begin_episode()
        try:
            now = int(self.get_clock().now().nanoseconds)
            identity = episode_identity(handle.request, self._value, policy.vla.base_hash, adapter, now)
            self._episode_id = identity.episode_id
            feedback = partial(self._feedback, handle)
            ports = ros.RosPorts(self, self._outlets, self._inbox, policy, settings, feedback)
            return EpisodeRunner(self._inbox, ports, settings).run(identity, handle.request.record)
        finally:
            policy.switch.end_episode()

    def _feedback(self, handle: Any, step: Step, stage: int) -> None:
        handle.publish_feedback(
            RunEpisode.Feedback(step=step.index, stage=stage, adapter_id=step.adapter_id, latency=step.latency)
        )

    def _finish(self, handle: Any, report: EpisodeReport) -> RunEpisode.Result:
        if report.reason in (SUCCESS, STEP_LIMIT):
            handle.succeed()
        elif report.reason == CANCELLED and report.detail.startswith(BY_CLIENT) and self._cancelling(handle):
            handle.canceled()
        else:
            handle.abort()
        self.get_logger().info(f"{report.identity.episode_id}: {report.reason}: {report.detail}")
        world = report.world
        return RunEpisode.Result(
            episode_id=report.identity.episode_id,
            end_reason=report.reason,
            detail=report.detail,
            steps=report.steps,
            success_reward=report.success,
            success_world=int(world.success) if world else UNKNOWN,
            grasped=int(world.grasped) if world else UNKNOWN,
            collision=int(world.collision) if world else UNKNOWN,
            adapter_id=report.adapter_id,
            bag_path=report.bag_path,
        )

    def _cancelling(self, handle: Any) -> bool:
        """The cancel callback runs before the goal's state changes: wait for that."""
        return self._inbox.wait(lambda: handle.is_cancel_requested or None, 2.0, poll=0.01) is not None

    # adapters

    def _on_load(self, request: LoadAdapter.Request, response: LoadAdapter.Response) -> LoadAdapter.Response:
        if self._policy is None:
            response.reason = NO_MODEL
            return response
        folder = Path(request.path).expanduser() if request.path else None
        reply = self._loader.submit(self._policy.switch.load, folder, request.force).result()
        response.pending = reply.pending
        return self._answer(reply, response, f"load {request.path or 'the base model alone'}")

    def _on_rollback(
        self, request: RollbackAdapter.Request, response: RollbackAdapter.Response
    ) -> RollbackAdapter.Response:
        if self._policy is None:
            response.reason = NO_MODEL
            return response
        reply = self._loader.submit(self._policy.switch.rollback, request.force).result()
        return self._answer(reply, response, "roll back")

    def _answer(self, reply: Reply, response: Any, what: str) -> Any:
        response.accepted, response.reason = reply.accepted, reply.reason
        response.adapter = ros.adapter_info(reply.adapter, serving=not reply.pending)
        if reply.accepted:
            self.get_logger().info(f"{what}: {'from the next episode on' if reply.pending else 'serves'}")
        else:
            self.get_logger().error(f"{what}: refused: {reply.reason}")
        return response

    def _on_list(self, request: ListAdapters.Request, response: ListAdapters.Response) -> ListAdapters.Response:
        if self._policy is not None:
            switch = self._policy.switch
            response.adapters = [ros.adapter_info(switch.serving, serving=True)]
            response.adapters += [ros.adapter_info(adapter, serving=False) for adapter in switch.known()]
        return response


def _spin(executor: MultiThreadedExecutor, ended: SimpleQueue[int]) -> None:
    try:
        executor.spin()
    except Exception:
        traceback.print_exc()
        ended.put(1)


def _wait(ended: SimpleQueue[int]) -> int:
    while True:  # a signal that another thread took is handled only when the main thread runs
        with suppress(Empty):
            return ended.get(timeout=SIGNAL_POLL)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 and one line on stderr where it cannot start."""
    # an inference is hundreds of small operations, and after each it may wait for the executor's threads to hand the
    # interpreter back: by default they keep it for 5 ms
    sys.setswitchinterval(SWITCH_SECONDS)
    ended: SimpleQueue[int] = SimpleQueue()  # its put may be called in a signal handler
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.put(0))
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = PolicyNode()
    except Exception as problem:
        print(f"grape_policy: {problem}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    done = TransitionCallbackReturn.SUCCESS
    if node.get_parameter("autostart").value and (node.trigger_configure() != done or node.trigger_activate() != done):
        print(f"grape_policy: {node.problem}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = MultiThreadedExecutor(EXECUTOR_THREADS)
    executor.add_node(node)
    spinner = threading.Thread(target=_spin, args=(executor, ended), name="executor", daemon=True)
    spinner.start()
    status = _wait(ended)
    node.trigger_shutdown()
    executor.shutdown()
    spinner.join(5.0)  # a thread inside ROS at the interpreter's end aborts the process
    rclpy.try_shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main())
