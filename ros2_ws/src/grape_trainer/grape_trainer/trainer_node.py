"""The trainer node: aligns the policy through the ``Align`` action, over the nodes that are already running.

The rollouts, the scoring and the swaps are driven from here; the training runs in a process of its own. If this node
dies, the policy goes on; when it returns soon after, it goes on with the run, and the same goal, sent again, follows
it. With parameter ``watch`` it also trains on bags that others record."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import rclpy
import torch
from grape_interfaces.action import Align
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from grape_episode import topics
from grape_episode.ros import declare, serve, until_signalled
from grape_trainer.canary import rig_canary
from grape_trainer.errors import TrainerError
from grape_trainer.goal import AlignGoal, interrupted, one_line
from grape_trainer.loop import AlignConfig, AlignResult, align
from grape_trainer.parameters import PARAMETERS, align_config, canary_plan, check_start, must_wait
from grape_trainer.plan import Progress
from grape_trainer.registry import Registry
from grape_trainer.rig import Rig, RigPool
from grape_trainer.ros import RosRig
from grape_trainer.underway import Follow, Underway
from grape_trainer.watch import LEDGER, Watch

NAME = "grape_trainer"
LEAVING_SECONDS = 30.0
POLL_SECONDS = 0.05
EXECUTOR_THREADS = 6


class TrainerNode(LifecycleNode):
    """Lifecycle: configure checks the parameters, activate takes goals and watches, deactivate stops a run where it
    can be gone on from. ``Align`` goals: one run at a time; a goal for the run under way follows it."""

    def __init__(self) -> None:
        super().__init__(NAME)
        for parameter in PARAMETERS:
            bounds = None
            if parameter.low is not None and parameter.high is not None:
                bounds = (parameter.low, parameter.high)
            declare(self, parameter.name, parameter.default, parameter.description, bounds, not parameter.settable)
        self.problem = ""
        self._lock = threading.Lock()
        self._goals = threading.Condition()
        self._answering = 0
        self._run: Underway | None = None
        self._accepted: list[tuple[str, Underway]] = []
        """Runs of goals that were accepted and not yet begun, by fingerprint."""
        self._active = False
        self._leaving = threading.Event()
        self._watcher: threading.Thread | None = None
        self._action = ActionServer(
            self,
            Align,
            topics.ALIGN,
            self._on_execute,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=self._on_goal,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    # lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            check_start(self._value)
        except TrainerError as problem:
            self.problem = str(problem)
            if not self._value("autostart"):  # else main says it, in the one line of a node that cannot start
                self.get_logger().error(self.problem)
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._leaving.clear()
        self._active = True
        self._resume()
        if self._value("watch"):
            self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._watcher.start()
        self.get_logger().info(f"{topics.ALIGN} is served")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = False
        self._leaving.set()
        if (run := self._run) is not None:
            run.stop.set()
            run.done.wait(LEAVING_SECONDS)
        with self._goals:
            self._goals.wait_for(lambda: not self._answering, LEAVING_SECONDS)
        if (watcher := self._watcher) is not None:
            watcher.join(LEAVING_SECONDS)
            self._watcher = None
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.on_deactivate(state) if self._active else TransitionCallbackReturn.SUCCESS

    # runs

    def _begin(self, goal: AlignGoal) -> Underway | None:
        """Start a run, or find the one under way that is the same; None: another one is under way.

        Raises TrainerError where the goal cannot be met."""
        config = align_config(goal, self._value)
        with self._lock:
            if (held := self._run) is not None and not held.done.is_set():
                return held if held.config.fingerprint == config.fingerprint else None
            self.get_logger().info(f"aligning in {config.folder}")
            self._run = run = Underway(goal, config)
            run.start(self._align, self._ended)
            return run

    def _ended(self, run: Underway) -> None:
        if run.result is not None:
            self.get_logger().info(run.result.reason)
            return
        if run.trace:
            self.get_logger().error(run.trace)
        self.get_logger().error(f"{topics.ALIGN}: {run.problem}")

    def _align(self, config: AlignConfig, stopped: Any, told: Follow) -> AlignResult:
        rigs: list[RosRig] = []
        try:
            for domain in self._value("domains"):
                place = self.context.get_domain_id() if domain < 0 else int(domain)
                deadlines = {name: self._value(name) for name in ("deadline", "episode_deadline")}
                rigs.append(RosRig(place, stopped, name=f"{NAME}_rig", **deadlines))
            rig: Rig = rigs[0] if len(rigs) == 1 else RigPool(rigs)
            waits = must_wait(self._value("wait_to_train"), config.device, torch.cuda.device_count)

            def hold() -> str:
                idle = min(rig.idle_seconds() for rig in rigs)
                return "for the end of collecting" if waits and idle < self._value("idle") else ""

            canary = rig_canary(canary_plan(config, self._value), rig, config.registry, config.folder)
            return align(config, rig, told, canary, hold)
        finally:
            for made in rigs:
                made.close()

    def _resume(self) -> None:
        """Go on with a run under which this node died."""
        within = self._value("resume_within")
        if not within:
            return
        try:
            found = interrupted(Path(self._value("runs")).expanduser().resolve(), within)
            if found is None:
                return
            folder, goal = found
            if align_config(goal, self._value).folder != folder:
                self.get_logger().error(f"{folder}: not gone on with: the parameters are others now")
                return
            self.get_logger().info(f"{folder}: going on with the run that was interrupted")
            self._begin(goal)
        except TrainerError as problem:
            self.get_logger().error(f"no run is gone on with: {problem}")

    def _watch(self) -> None:
        """Begin a run whenever enough episodes have come; the run's own thread does it."""
        runs = Path(self._value("runs")).expanduser().resolve()
        watch = Watch(Path(self._value("watch")).expanduser(), runs / LEDGER, self._value("watch_min"))
        while not self._leaving.wait(self._value("watch_period")):
            try:
                self._watch_once(watch)
            except (TrainerError, OSError) as problem:
                self.get_logger().error(f"parameter watch: {one_line(problem)}", throttle_duration_sec=60.0)

    def _watch_once(self, watch: Watch) -> None:
        if (held := self._run) is not None and not held.done.is_set():
            bags = tuple(held.goal.bags)
            run: Underway | None = held if bags else None  # one that was interrupted
        else:
            bags = tuple(watch.due(Registry(Path(self._value("registry")).expanduser()).current))
            objective, preset = self._value("watch_objective"), self._value("watch_preset")
            run = self._begin(AlignGoal(bags=bags, objective=objective, preset=preset)) if bags else None
        if run is None:
            return
        run.done.wait()
        if run.result is not None and any("training" in iteration for iteration in run.result.iterations):
            watch.trained(bags)
        else:
            watch.tried(bags)

    # the action

    def _on_goal(self, request: Align.Goal) -> GoalResponse:
        why = "" if self._active else "the node is not active"
        if not why:
            try:
                run = self._begin(_goal(request))
            except TrainerError:
                return GoalResponse.ACCEPT  # its result says what is wrong
            if run is None:
                why = "another run is under way"
            else:
                self._accepted.append((run.config.fingerprint, run))
        if why:
            self.get_logger().error(f"{topics.ALIGN}: goal rejected: {why}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_execute(self, handle: Any) -> Align.Result:
        with self._goals:
            self._answering += 1
        try:
            return self._follow(handle)
        finally:
            with self._goals:
                self._answering -= 1
                self._goals.notify_all()

    def _follow(self, handle: Any) -> Align.Result:
        try:
            mark = align_config(_goal(handle.request), self._value).fingerprint
            accepted = next(one for one in self._accepted if one[0] == mark)
        except (TrainerError, StopIteration) as problem:
            why = " ".join(str(problem).split()) or "the parameters changed while the goal was on its way"
            self.get_logger().error(f"{topics.ALIGN}: {why}")
            handle.abort()
            return self._result(None, why)
        self._accepted.remove(accepted)
        run = accepted[1]

        def told(progress: Progress) -> None:
            handle.publish_feedback(
                Align.Feedback(
                    iteration=progress.iteration,
                    phase=progress.phase,
                    progress=progress.fraction,
                    message=progress.message,
                )
            )

        run.follow(told)
        while not run.done.wait(POLL_SECONDS):
            if handle.is_cancel_requested:
                run.stop.set()
        run.leave(told)
        if run.result is None:
            handle.abort()
        elif handle.is_cancel_requested:
            handle.canceled()
        elif run.result.reason.startswith("cancelled"):
            handle.abort()
        else:
            handle.succeed()
        return self._result(run, run.problem)

    def _result(self, run: Underway | None, problem: str) -> Align.Result:
        if run is not None and (result := run.result) is not None:
            return Align.Result(
                changed=result.changed, adapter_id=result.adapter_id, reason=result.reason, report=str(result.folder)
            )
        registry = self._value("registry")
        serving = Registry(Path(registry).expanduser()).current if registry else ""
        folder = str(run.config.folder) if run else ""
        return Align.Result(changed=False, adapter_id=serving, reason=problem, report=folder)


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
    done = TransitionCallbackReturn.SUCCESS
    if node.get_parameter("autostart").value and (node.trigger_configure() != done or node.trigger_activate() != done):
        print(f"{NAME}: {node.problem}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    return serve(node, EXECUTOR_THREADS, ended, node.trigger_shutdown)


if __name__ == "__main__":
    sys.exit(main())
