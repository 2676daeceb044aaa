"""The safety evaluation as a node: serves ``Evaluate``, drives ``RunEpisode`` and ``LoadAdapter``, one run at a time.

Results, summary and report go into the goal's folder; the same goal with the same folder goes on where a run ended."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from grape_interfaces.action import Evaluate, RunEpisode
from grape_interfaces.msg import GateStatus
from grape_interfaces.srv import ResetWorld
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from grape import safety_plan, safety_run
from grape.paths import root
from grape.safety_measures import Measures, measure_bag
from grape.safety_run import Adapter, Ended, SafetyError, Trial
from grape.suites import SuiteError
from grape.told import words_for
from grape_episode import topics
from grape_episode.episode import EpisodeError
from grape_episode.ros import EVENT, declare, serve, until_signalled
from grape_policy.goals import OneGoal
from grape_trainer.errors import TrainerError
from grape_trainer.rig import Ack
from grape_trainer.ros import RosRig

NAME = "grape_evaluate"
ROBOTS = {"sim": "sim", "franka": "real"}
"""What is behind the robot's topics, and the tag of the items that it can run."""
EXECUTOR_THREADS = 5
LEAVING_SECONDS = 60.0
POLL_SECONDS = 0.1
ANSWER_SECONDS = 5.0
"""For the gate or the simulated world; both are asked again."""
RESET_SECONDS = 60.0
"""For the simulated arm's gate to be reset; its cool-down is part of it."""


class RosPort:
    """A :class:`grape.safety_run.Port` over the nodes of a graph. ``cancelled``: asked at every wait."""

    def __init__(self, node: EvaluateNode, rig: RosRig, cancelled: Callable[[], bool]) -> None:
        self._node, self._rig, self.cancelled = node, rig, cancelled
        self._last: Trial | None = None

    def serving(self) -> Adapter:
        info = self._rig.serves()
        return Adapter(str(info.adapter_id), str(info.path))

    def load(self, path: str) -> Ack:
        return self._rig.load_adapter(Path(path) if path else None)

    def run(self, trial: Trial, record: bool) -> Ended | None:
        goal = RunEpisode.Goal(
            task=trial.task,
            instruction=trial.instruction or words_for(trial.task, trial.variant, trial.initial_state),
            variant=trial.variant,
            initial_state=trial.initial_state,
            seed=trial.seed,
            temperature=trial.temperature,
            step_limit=trial.step_limit,
            record=record,
        )
        self._last = trial
        result = None if self.cancelled() else self._rig.episode(goal)
        if result is None:
            return None
        return Ended(
            episode_id=result.episode_id,
            end_reason=result.end_reason,
            detail=result.detail,
            steps=result.steps,
            success_reward=result.success_reward,
            success_world=result.success_world,
            grasped=result.grasped,
            collision=result.collision,
            adapter_id=result.adapter_id,
            bag=result.bag_path,
        )

    def measure(self, ended: Ended) -> Measures:
        return measure_bag(Path(ended.bag))

    def clear_gate(self, told: Callable[[str], None]) -> None:
        """In simulation the arm is put back to its start, which ends what made the gate stop, and the gate is reset;
        beside an arm a person does both, and is waited for."""
        end = time.monotonic() + RESET_SECONDS
        simulated = self._node.robot == "sim"
        told("the gate has stopped" + ("" if simulated else ": once a person has reset it, the evaluation goes on"))
        while self._node.gate_stopped() and not self.cancelled():
            said = self._node.reset_gate(self._last) if simulated else ""
            if simulated and time.monotonic() > end:
                raise SafetyError(f"{topics.RESET_GATE}: the gate was not reset within {RESET_SECONDS:g} s: {said}")
            time.sleep(POLL_SECONDS)


class EvaluateNode(Node):
    """Takes one ``Evaluate`` goal at a time and refuses a second one while it runs."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.robot = str(declare(self, "robot", "sim", f"One of {', '.join(ROBOTS)}: which items can be run."))
        self._out = declare(self, "out", str(root() / "runs" / "safety"), "Folder of the runs whose goals name none.")
        self._registry = declare(self, "registry", "", "Folder of the adapter registry, for adapters named by id.")
        self._profile = declare(self, "profile", "", "File of the gate's limits, which the report names.")
        self._deadline = declare(self, "deadline", 30.0, "Seconds for an answer of the policy node.", (1.0, 3600.0))
        what = "Seconds for a whole episode, with what an operator does before it."
        self._episode_deadline = declare(self, "episode_deadline", 1800.0, what, (1.0, 86400.0))
        if self.robot not in ROBOTS:
            raise SafetyError(f"parameter robot: {self.robot!r}, expected one of {', '.join(ROBOTS)}")
        self._one = OneGoal()
        self._leaving = threading.Event()
        self._gate: GateStatus | None = None
        waiting = ReentrantCallbackGroup()
        self.create_subscription(GateStatus, topics.GATE_STATUS, self._on_gate, EVENT)
        self._reset = self.create_client(Trigger, topics.RESET_GATE, callback_group=waiting)
        self._world = self.create_client(ResetWorld, topics.RESET_WORLD, callback_group=waiting)
        self._action = ActionServer(
            self,
            Evaluate,
            topics.EVALUATE,
            self._on_execute,
            callback_group=waiting,
            goal_callback=self._on_goal,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )

    def leave(self) -> None:
        """End the run under way so that what served before serves again."""
        self._leaving.set()
        self._one.wait_free(LEAVING_SECONDS)

    # the gate

    def _on_gate(self, message: GateStatus) -> None:
        self._gate = message

    def gate_stopped(self) -> bool:
        """Whether the gate has latched, as it said last."""
        return self._gate is not None and self._gate.state == GateStatus.STOPPED

    def reset_gate(self, trial: Trial | None) -> str:
        """Put the simulated world back to the trial's start and ask the gate to take steps again; what it answers."""
        if trial is not None:
            world = ResetWorld.Request(task=trial.task, variant=trial.variant, initial_state=trial.initial_state)
            self._answer(self._world, world)
        answer = self._answer(self._reset, Trigger.Request())
        if answer is None:
            return "no answer"
        end = time.monotonic() + 2.0  # its next status says so, ten times a second
        while answer.success and self.gate_stopped() and time.monotonic() < end:
            time.sleep(POLL_SECONDS / 2)
        return str(answer.message)

    def _answer(self, service: Any, request: Any) -> Any:
        """A service's answer, None where there is none in time."""
        answered = threading.Event()
        future = service.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        return future.result() if answered.wait(ANSWER_SECONDS) else None

    # the action

    def _on_goal(self, request: Evaluate.Goal) -> GoalResponse:
        if self._leaving.is_set() or not self._one.reserve():
            self.get_logger().error(f"{topics.EVALUATE}: goal {request.suite!r} is rejected: another evaluation runs")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_execute(self, handle: Any) -> Evaluate.Result:
        self._one.begin()
        try:
            return self._evaluate(handle)
        except (SafetyError, SuiteError, EpisodeError, TrainerError, OSError) as problem:
            said = " ".join(str(problem).split())
            self.get_logger().error(f"{topics.EVALUATE}: {said}")
            handle.abort()
            return Evaluate.Result(summary=json.dumps({"problem": said}))
        finally:
            self._one.end()

    def _evaluate(self, handle: Any) -> Evaluate.Result:
        request = handle.request
        giving_back = threading.Event()

        def cancelled() -> bool:
            return not giving_back.is_set() and (self._leaving.is_set() or bool(handle.is_cancel_requested))

        def told(done: int, total: int, message: str) -> None:
            handle.publish_feedback(Evaluate.Feedback(done=done, total=total, message=message))
            self.get_logger().info(f"{done} of {total}: {message}")

        asked = safety_plan.Asked(
            suite=request.suite,
            items=tuple(request.items),
            states=request.states,
            first_state=request.first_state,
            adapters=tuple(request.adapters),
            seed=request.seed,
            temperature=request.temperature,
            record=request.record,
        )
        domain = self.context.get_domain_id()
        deadlines = (self._deadline, self._episode_deadline)
        with RosRig(domain, cancelled, f"{NAME}_rig", *deadlines) as rig:
            rig.wait_ready()
            info = rig.serves()
            serving = Adapter(str(info.adapter_id), str(info.path))
            plan = safety_plan.plan(
                asked, ROBOTS[self.robot], serving, str(info.base_hash), self._registry, self._profile
            )
            folder = safety_plan.folder(request.out, self._out, plan)
            self.get_logger().info(f"suite {plan.suite}: {len(list(safety_run.trials(plan)))} episodes into {folder}")
            port = RosPort(self, rig, cancelled)
            results = safety_run.run(plan, port, folder, told, giving_back.set)
        from grape import safety_report  # its libraries take seconds to import: not while a goal is waited for

        total = len(list(safety_run.trials(plan)))
        summary, report = safety_report.write(folder, plan, results, total)
        if handle.is_cancel_requested:
            handle.canceled()
        elif len(results) < total:
            handle.abort()
        else:
            handle.succeed()
        self.get_logger().info(f"{len(results)} of {total} episodes: {report}")
        return Evaluate.Result(summary=json.dumps(summary), report=str(report))


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM (status 0); one line and status 1 where it cannot start."""
    ended = until_signalled()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = EvaluateNode()
    except (SafetyError, ParameterException) as problem:
        print(f"{NAME}: {problem}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    return serve(node, EXECUTOR_THREADS, ended, node.leave)


if __name__ == "__main__":
    sys.exit(main())
