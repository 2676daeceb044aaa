"""The whole loop in one process, in lock-step and without topics, from the same pure cores as the nodes.

For evaluations of hundreds of states: policy, gate, world and reward are the nodes' own code, and the rollout is run by
the policy node's own ``EpisodeRunner``; only the messages between them are missing. A test holds this loop and the one
over ROS topics to the same tokens and the same final pose.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from grape.evaluation import REWARD, WORLD, Job, Result
from grape.paths import params
from grape_episode import topics
from grape_episode.episode import Episode, GateEvent, Identity, Outcome, Series, Step
from grape_policy.checkpoint import load_checkpoint
from grape_policy.engine import Engine
from grape_policy.episode_runner import EpisodeRunner
from grape_policy.identity import CODE_VERSION, episode_id
from grape_policy.observation import Frame, GateSample, Inbox, TaskSample, WorldSample
from grape_policy.observation import Observation as Seen
from grape_policy.parameters import PARAMETERS, EpisodeSettings
from grape_reward.reducer import Reducer
from grape_reward.tasks import TASKS, TaskSpec, task_named
from grape_reward.timeline import Event
from grape_robot import gate
from grape_robot.profile import GateProfile, load_profile
from grape_sim.scene import instruction_of
from grape_sim.tasks import sim_task
from grape_sim.world import Observation, World, WorldConfig

_DEFAULTS = {parameter.name: parameter.default for parameter in PARAMETERS}
SETTINGS = replace(EpisodeSettings.read(_DEFAULTS.__getitem__), lock_step=True, await_task_status=True)
"""The policy node's own defaults, in lock-step."""


@dataclass(frozen=True)
class Rollout:
    """What a job gave: its result, and the episode as a bag would hold it (with images only where asked for)."""

    result: Result
    episode: Episode


class ClosedLoop:
    """One policy in one simulated world. A context manager; not thread safe.

    ``model``: folder of the checkpoint. ``profile``: limits of the gate. ``threads``: torch threads of this process."""

    def __init__(
        self, model: Path, profile: GateProfile | None = None, threads: int = 1, world: WorldConfig | None = None
    ) -> None:
        torch.set_num_threads(threads)
        self.profile = profile or load_profile(params("gate_sim.yaml"))
        self._vla = load_checkpoint(model)
        self._engine = Engine(self._vla)
        self._world = World(world or WorldConfig(control_period=self.profile.control_period))
        self._adapter = ""

    def __enter__(self) -> ClosedLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._world.close()

    @property
    def base_hash(self) -> str:
        return self._vla.base_hash

    def serve(self, adapter: str) -> None:
        """Flip to the adapter in this folder; empty: the base model alone. Raises AdapterError."""
        if adapter != self._adapter:
            self._engine.load_adapter(Path(adapter) if adapter else None)
            self._engine.flip()
            self._adapter = adapter

    def run(self, job: Job, objective: str = "task_completion", step_limit: int = 0) -> Rollout:
        """One rollout in lock-step. Where the world's success ends it, no reward needs to know the task.

        Raises AdapterError, SimError or TaskError by name of what is wrong."""
        self.serve(job.adapter)
        serving, task = self._engine.serving, sim_task(job.task)
        rewarded = TASKS.get(job.task) if job.ends_by == WORLD else task_named(job.task)
        identity = Identity(
            episode_id=episode_id(job.task, job.initial_state, job.seed),
            task=job.task,
            instruction=instruction_of(job.task, job.variant, job.initial_state),
            variant=job.variant,
            initial_state=job.initial_state,
            objective=objective,
            seed=job.seed,
            temperature=job.temperature,
            step_limit=step_limit or job.step_limit or task.step_limit,
            control_period=self.profile.control_period,
            lock_step=True,
            base_hash=self._vla.base_hash,
            adapter_id=serving.adapter_id,
            adapter_seq=serving.adapter_seq,
            cost_program_hash=rewarded.program_hash if rewarded else "",
            calibration_hash="",
            code_version=CODE_VERSION,
            notes=(),
            stamp=round(self._world.time * 1e9),
        )
        inbox = Inbox()
        ports = _Ports(self._world, self._engine, self._vla.processor, self._vla.spec.rotation, self.profile, inbox)
        ports.rewarded, ports.ends_by = rewarded, job.ends_by
        report = EpisodeRunner(inbox, ports, SETTINGS).run(identity, record=False)
        assert report.outcome is not None and ports.truth is not None
        tokens = hashlib.sha256(b"".join(step.tokens.tobytes() for step in ports.steps))
        result = Result(
            job,
            success=ports.truth.success,
            grasp=ports.truth.grasped,
            collision=ports.truth.collision,
            steps=report.steps,
            reward_success=ports.reward_success,
            end_reason=report.reason if report.reason != "error" else f"error: {report.detail}",
            tokens_hash=tokens.hexdigest(),
            adapter_id=serving.adapter_id,
            mistaken=self._world.judge.mistaken,
        )
        return Rollout(result, ports.episode(identity, report.outcome))


class _Ports:
    """The world, the gate and the reward behind an EpisodeRunner: everything answers at once."""

    def __init__(self, world: World, engine: Engine, processor, rotation: str, profile: GateProfile, inbox: Inbox):
        self._world, self._engine, self._processor, self._rotation = world, engine, processor, rotation
        self._profile, self._inbox = profile, inbox
        self._arm = gate.ArmModel.of(profile)
        self._gate = gate.GateState()
        self._seen: Observation | None = None
        self._observations: list[Observation] = []
        self._verdicts: list[GateEvent] = []
        self.steps: list[Step] = []
        self.rewarded: TaskSpec | None = None
        self.ends_by = REWARD
        self.reward_success = -1

    @property
    def truth(self):
        """The world's own judgement so far."""
        return self._seen.status if self._seen else None

    def now(self) -> int:
        return round(self._world.time * 1e9)

    def check_world(self) -> None:
        """The world is here."""

    def prepare_recording(self, identity: Identity) -> str:
        """Bags are written afterwards, from :meth:`episode`."""
        return ""

    def announce(self, identity: Identity) -> None:
        self._gate = gate.arm(self._gate, identity.episode_id, lock_step=True)
        self._reducer = Reducer(self.rewarded, identity.objective, identity) if self.rewarded else None
        self._episode_id = identity.episode_id
        self._inbox.put_gate(GateSample(0.0, identity.episode_id, int(self._gate.mode), 0, 0, "", ""))

    def reset_world(self, identity: Identity) -> int:
        return self._observe(self._world.reset(identity.task, identity.variant, identity.initial_state))

    def decide(self, seen: Seen, identity: Identity, index: int) -> Step:
        assert self._seen is not None and self._seen.color is not None
        image = self._processor.model_input(self._seen.color)
        answer = self._engine.act(image, identity.instruction, identity.seed, index, identity.temperature)
        return Step(
            index=index,
            stamp=seen.stamp,
            instruction=identity.instruction,
            tokens=answer.tokens,
            logprobs=answer.logprobs,
            margins=answer.margins,
            action=answer.action,
            rotation=self._rotation,
            tcp=seen.tcp,
            gripper_width=seen.gripper_width,
            adapter_id=answer.adapter_id,
            adapter_seq=answer.adapter_seq,
            base_hash=identity.base_hash,
            temperature=identity.temperature,
            seed=identity.seed,
            latency=0.0,
            image=image,
        )

    def publish_step(self, step: Step, identity: Identity) -> None:
        """Judge the step, let the world go on by one control period, and observe."""
        request = gate.StepRequest(
            episode_id=identity.episode_id,
            step=step.index,
            stamp=step.stamp,
            frame=self._profile.frame,
            action=tuple(step.action),
            rotation=step.rotation,
        )
        verdict, self._gate = gate.judge(self._profile, self._arm, self._gate, request, self._senses(step))
        number = 1 if verdict.accepted else 2
        if verdict.accepted and verdict.target is not None and verdict.gripper is not None:
            self._world.set_target(verdict.target, verdict.gripper)
        self._world.advance(self._profile.control_period)
        self.steps.append(step)
        self._verdicts.append(
            GateEvent(
                step.stamp,
                int(self._gate.mode),
                identity.episode_id,
                step.index,
                number,
                verdict.check,
                verdict.reason,
                self._gate.reference or step.tcp,
                float("nan") if self._gate.gripper is None else self._gate.gripper,
            )
        )
        self._observe(self._world.observe())
        said = (identity.episode_id, int(self._gate.mode), step.index, number, verdict.check, verdict.reason)
        self._inbox.put_gate(GateSample(0.0, *said))

    def _senses(self, step: Step) -> gate.Senses:
        """What the gate senses of a world that stands still between two steps."""
        seen, now = self._seen, step.stamp * 1e-9
        assert seen is not None
        return gate.Senses(
            now=now,
            now_stamp=step.stamp,
            measured=step.tcp,
            measured_stamp=step.stamp,
            measured_frame=self._profile.frame,
            joints=tuple(seen.joints.tolist()),
            joints_stamp=step.stamp,
            wrench=tuple(np.asarray(seen.wrench, np.float64).tolist()),
            wrench_stamp=step.stamp,
            robot_mode=gate.MOVE,
            robot_mode_heard=now,
            controller_active=True,
            controller_heard=now,
        )

    def feedback(self, step: Step, stage: int) -> None:
        """Nobody listens."""

    def publish_outcome(self, identity: Identity, outcome: Outcome) -> None:
        self._gate = gate.disarm(self._gate, identity.episode_id)

    def _observe(self, seen: Observation) -> int:
        """Take an observation in: the reward's judgement first, the frame last, all with one stamp."""
        stamp, index = round(seen.time * 1e9), len(self._observations)
        self._seen = seen
        self._observations.append(replace(seen, color=None))
        width = topics.gripper_width(seen.knuckle)
        tcp = np.concatenate([seen.tcp.position, seen.tcp.quaternion])
        stage = 0
        if self._reducer is not None:
            wrench = np.asarray(seen.wrench, np.float64) if self._reducer.task.reads_force else None
            live = self._reducer.push(Event(stamp, tcp, width, seen.keypoints, None, wrench, step=index))
            stage, self.reward_success = live.stage, live.success
        inbox, truth = self._inbox, seen.status
        inbox.put_tcp(stamp, seen.tcp)
        inbox.put_width(stamp, width)
        inbox.put_world(WorldSample(stamp, self._episode_id, truth.success, truth.grasped, truth.collision))
        done = int(truth.success) if self.ends_by == WORLD else self.reward_success
        inbox.put_task(TaskSample(stamp, self._episode_id, stage, done))
        inbox.put_frame(Frame(stamp, 0.0, b""))
        return stamp

    def episode(self, identity: Identity, outcome: Outcome) -> Episode:
        """The rollout as a bag of it would read."""
        seen = self._observations
        stamps = np.array([round(o.time * 1e9) for o in seen], np.int64)

        def series(values: list, names: tuple[str, ...] = ()) -> Series:
            return Series(stamps, np.array(values, np.float64), names)

        return Episode(
            identity=identity,
            steps=tuple(self.steps),
            outcome=outcome,
            tcp=series([np.concatenate([o.tcp.position, o.tcp.quaternion]) for o in seen]),
            gripper=series([[topics.gripper_width(o.knuckle)] for o in seen]),
            keypoints=series([o.keypoints for o in seen], seen[0].keypoint_names),
            wrench=series([o.wrench for o in seen]),
            gate=tuple(self._verdicts),
            world=self.truth,
        )
