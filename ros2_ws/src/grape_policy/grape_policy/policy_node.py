"""The policy node: holds the model, acts in ``RunEpisode`` goals, swaps adapters between two inferences.

The model is in a process of its own (:mod:`inference_process`): nothing here keeps the interpreter for long, and the
executor's threads carry only light callbacks and those that wait.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import rclpy
from grape_interfaces.action import RunEpisode
from grape_interfaces.msg import EpisodeIdentity, EpisodeOutcome, Heartbeat, PolicyStep
from grape_interfaces.srv import ListAdapters, LoadAdapter, PrepareRecording, ResetWorld, RollbackAdapter
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.episode import ENDED_BY_OPERATOR
from grape_episode.ros import EVENT, LATCHED, declare, serve, until_signalled
from grape_policy import ros
from grape_policy.demonstration import Demonstration
from grape_policy.ending import CANCELLED, ERROR, STEP_LIMIT, SUCCESS
from grape_policy.episode_runner import EpisodeReport, EpisodeRunner
from grape_policy.errors import ProcessEndedError
from grape_policy.goals import OneGoal
from grape_policy.identity import episode_identity
from grape_policy.inference_process import EngineProcess
from grape_policy.observation import LEAVING_SECONDS, UNKNOWN, Inbox
from grape_policy.parameters import PARAMETERS, EngineSettings, EpisodeSettings
from grape_policy.swap import AdapterSwitch, Reply

HEARTBEAT_PERIOD = 0.05
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
        self._engine: EngineProcess | None = None
        self._switch: AdapterSwitch | None = None
        self._heard: list[Subscription] = []
        self._active = False
        self._episode_id = ""
        self._ended = 0  # stamp of the last episode's last observation
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
        self.create_service(Trigger, topics.END_EPISODE, self._on_end, callback_group=waiting)
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
        log = self.get_logger()

        def progress(done: int, total: int) -> None:
            log.info(f"loading {settings.model}: {done} of {total} tensors")

        try:
            EpisodeSettings.read(self._value)
            settings = EngineSettings.read(self._value)
            self._engine = engine = EngineProcess(settings, log.info, progress, self._on_engine_ended)
        except (ValueError, RuntimeError, OSError) as problem:
            self.problem = " ".join(str(problem).split())
            if not self._value("autostart"):  # else main says it, in the one line that a node that cannot start prints
                log.error(self.problem)
            return TransitionCallbackReturn.FAILURE
        self._switch = AdapterSwitch(engine)
        serving = engine.serving.adapter_id[:12] or "no adapter"
        log.info(f"{engine.facts.folder}: base {engine.facts.base_hash[:12]}, {serving} serves")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._heard = ros.listen(self, self._inbox, EpisodeSettings.read(self._value))
        # what there is now stays: a full collection that looks through all of it stops every timer for 13 ms
        gc.collect()
        gc.freeze()
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
        engine, self._engine, self._switch = self._engine, None, None
        if engine is not None:
            engine.close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._active:
            self.on_deactivate(state)
        return self.on_cleanup(state)

    def _on_engine_ended(self, problem: str) -> None:
        """Called once, by a thread of the engine's, when its process is gone unasked."""
        if self._engine is not None:  # else on_configure says it
            self.get_logger().error(f"{problem}; no goal is taken until this node is cleaned up and configured again")
            self._inbox.stop(problem, failed=True)

    def _beat(self) -> None:
        if self._active:
            message = Heartbeat(source=self.get_name(), episode_id=self._episode_id)
            message.header.stamp = self.get_clock().now().to_msg()
            self._heartbeat.publish(message)

    # episodes

    def _on_goal(self, goal: RunEpisode.Goal) -> GoalResponse:
        problem = "the policy node is not active" if not self._active else ""
        if not problem and self._engine is not None:
            problem = self._engine.problem
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

    def _on_end(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The operator's end button."""
        name = self._episode_id
        response.success = bool(name)
        response.message = name or "no episode is running"
        if name:
            self._inbox.stop(ENDED_BY_OPERATOR)
        return response

    def _on_execute(self, handle: Any) -> RunEpisode.Result:
        self._goal.begin()
        try:
            return self._finish(handle, self._rollout(handle))
        except Exception as problem:
            handle.abort()
            self.get_logger().error(f"{topics.RUN_EPISODE}: {problem}")
            unknown = dict.fromkeys(("success_reward", "success_world", "grasped", "collision"), UNKNOWN)
            return RunEpisode.Result(end_reason=ERROR, detail=str(problem), **unknown)
        finally:
            self._episode_id = ""
            self._goal.end()

    def _rollout(self, handle: Any) -> EpisodeReport:
        engine, switch, settings = self._engine, self._switch, EpisodeSettings.read(self._value)
        if engine is None or switch is None:
            raise RuntimeError("the policy node is not active")
        adapter = switch.begin_episode()
        try:
            # a simulated clock comes over a topic of its own and may lag behind the observations
            now = max(int(self.get_clock().now().nanoseconds), self._ended + 1)
            identity = episode_identity(handle.request, self._value, engine.facts.base_hash, adapter, now)
            self._episode_id = identity.episode_id
            ports = ros.RosPorts(self, self._outlets, self._inbox, engine, settings, handle.publish_feedback)
            kind = Demonstration if identity.demonstration else EpisodeRunner
            report = kind(self._inbox, ports, settings).run(identity, handle.request.record)
            if report.outcome is not None:
                self._ended = report.outcome.stamp
            return report
        finally:
            with suppress(ProcessEndedError):  # the episode has ended by it, and says so
                switch.end_episode()

    def _finish(self, handle: Any, report: EpisodeReport) -> RunEpisode.Result:
        done = report.identity.demonstration and report.detail.startswith(ENDED_BY_OPERATOR)
        if report.reason in (SUCCESS, STEP_LIMIT) or done:
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
        if self._switch is None:
            response.reason = NO_MODEL
            return response
        reply = self._switch.load(Path(request.path).expanduser() if request.path else None, request.force)
        response.pending = reply.pending
        return self._answer(reply, response, f"load {request.path or 'the base model alone'}")

    def _on_rollback(
        self, request: RollbackAdapter.Request, response: RollbackAdapter.Response
    ) -> RollbackAdapter.Response:
        if self._switch is None:
            response.reason = NO_MODEL
            return response
        return self._answer(self._switch.rollback(request.force), response, "roll back")

    def _answer(self, reply: Reply, response: Any, what: str) -> Any:
        response.accepted, response.reason = reply.accepted, reply.reason
        response.adapter = ros.adapter_info(reply.adapter, serving=not reply.pending)
        if reply.accepted:
            self.get_logger().info(f"{what}: {'from the next episode on' if reply.pending else 'serves'}")
        else:
            self.get_logger().error(f"{what}: refused: {reply.reason}")
        return response

    def _on_list(self, request: ListAdapters.Request, response: ListAdapters.Response) -> ListAdapters.Response:
        if (switch := self._switch) is not None:
            response.adapters = [ros.adapter_info(switch.serving, serving=True)]
            response.adapters += [ros.adapter_info(adapter, serving=False) for adapter in switch.known()]
        return response


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 and one line on stderr where it cannot start."""
    ended = until_signalled()
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
    return serve(node, EXECUTOR_THREADS, ended, node.trigger_shutdown)


if __name__ == "__main__":
    sys.exit(main())
