"""The trainer node: aligns the policy through the ``Align`` action, over the nodes that are already running.

The rollouts, the scoring and the swaps are driven from here; the training runs in a process of its own. If this node
dies, the policy goes on; the same goal, sent again, goes on where the run was."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Any

import rclpy
from grape_interfaces.action import Align
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from grape_episode import topics
from grape_episode.ros import declare, serve, until_signalled
from grape_policy.goals import OneGoal
from grape_trainer.errors import TrainerError
from grape_trainer.loop import AlignConfig, AlignResult, Progress, align
from grape_trainer.parameters import PARAMETERS, AlignGoal, align_config, check_start
from grape_trainer.registry import Registry
from grape_trainer.rig import Rig, RigPool
from grape_trainer.ros import RosRig

NAME = "grape_trainer"
LEAVING_SECONDS = 30.0
EXECUTOR_THREADS = 4


class TrainerNode(Node):
    """Serves ``Align``, one goal at a time. Raises SettingsError where it cannot start."""

    def __init__(self) -> None:
        super().__init__(NAME)
        for parameter in PARAMETERS:
            bounds = None
            if parameter.low is not None and parameter.high is not None:
                bounds = (parameter.low, parameter.high)
            declare(self, parameter.name, parameter.default, parameter.description, bounds, not parameter.settable)
        check_start(self._value)
        self._goal = OneGoal()
        self._leaving = threading.Event()
        self._action = ActionServer(
            self,
            Align,
            topics.ALIGN,
            self._on_execute,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=self._on_goal,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )
        self.get_logger().info(f"{topics.ALIGN} is served")

    def leave(self) -> None:
        """Stop a run at the next point where it can be gone on from, and wait for it."""
        self._leaving.set()
        self._goal.wait_free(LEAVING_SECONDS)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _on_goal(self, goal: Align.Goal) -> GoalResponse:
        if self._leaving.is_set() or not self._goal.reserve():
            why = "the node is ending" if self._leaving.is_set() else "another run is under way"
            self.get_logger().error(f"{topics.ALIGN}: goal rejected: {why}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_execute(self, handle: Any) -> Align.Result:
        self._goal.begin()
        try:
            return self._execute(handle)
        finally:
            self._goal.end()

    def _execute(self, handle: Any) -> Align.Result:
        config: AlignConfig | None = None
        try:
            config = align_config(_goal(handle.request), self._value)
            self.get_logger().info(f"aligning in {config.folder}")
            result = self._align(config, handle)
        except Exception as problem:
            if not isinstance(problem, TrainerError):
                self.get_logger().error(traceback.format_exc())
            self.get_logger().error(f"{topics.ALIGN}: {problem}")
            handle.abort()
            return self._failed(config, problem)
        self.get_logger().info(result.reason)
        if handle.is_cancel_requested:
            handle.canceled()
        elif self._leaving.is_set() and result.reason.startswith("cancelled"):
            handle.abort()
        else:
            handle.succeed()
        return Align.Result(
            changed=result.changed, adapter_id=result.adapter_id, reason=result.reason, report=str(result.folder)
        )

    def _failed(self, config: AlignConfig | None, problem: Exception) -> Align.Result:
        registry = self._value("registry")
        serving = Registry(config.registry if config else registry).current if registry else ""
        folder = str(config.folder) if config else ""
        reason = " ".join(str(problem).split())
        return Align.Result(changed=False, adapter_id=serving, reason=reason, report=folder)

    def _align(self, config: AlignConfig, handle: Any) -> AlignResult:
        def cancelled() -> bool:
            return self._leaving.is_set() or handle.is_cancel_requested

        def told(progress: Progress) -> None:
            handle.publish_feedback(
                Align.Feedback(
                    iteration=progress.iteration,
                    phase=progress.phase,
                    progress=progress.fraction,
                    message=progress.message,
                )
            )

        rigs: list[RosRig] = []
        try:
            for domain in self._value("domains"):
                place = None if domain < 0 else int(domain)
                rigs.append(
                    RosRig(
                        place if place is not None else self.context.get_domain_id(),
                        cancelled,
                        name=f"{NAME}_rig",
                        deadline=self._value("deadline"),
                        episode_deadline=self._value("episode_deadline"),
                    )
                )
            rig: Rig = rigs[0] if len(rigs) == 1 else RigPool(rigs)
            return align(config, rig, told)
        finally:
            for made in rigs:
                made.close()


def _goal(request: Align.Goal) -> AlignGoal:
    return AlignGoal(
        tasks=tuple(request.tasks),
        iterations=request.iterations,
        states=request.states,
        rollouts=request.rollouts,
        first_state=request.first_state,
        objective=request.objective,
        preset=request.preset,
        seed=request.seed,
    )


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM (status 0); one line and status 1 where it cannot start."""
    ended = until_signalled()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = TrainerNode()
    except (TrainerError, ParameterException) as problem:
        print(f"{NAME}: {problem}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    return serve(node, EXECUTOR_THREADS, ended, node.leave)


if __name__ == "__main__":
    sys.exit(main())
