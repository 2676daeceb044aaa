"""The policy node in a process of its own, in a world of messages; the model is real, tiny and random."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from grape_interfaces.srv import ListAdapters, LoadAdapter, RollbackAdapter
from lifecycle_msgs.msg import Transition
from std_srvs.srv import Trigger

from grape_episode import topics
from grape_episode.episode import DEMONSTRATION, ENDED_BY_OPERATOR, PERSON_DROVE
from grape_episode.ros import image_from_msg, stamp_ns
from grape_episode.testing import NodeProcess, free_domain, wait_for
from grape_policy.adapters import CONFIG, PREFIX, WEIGHTS, AdapterManifest, adapter_hash, lora_targets
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.engine import Engine
from grape_policy.testing import write_random_checkpoint

pytestmark = pytest.mark.ros

PERIOD = 200_000_000
LIMITS = {
    "camera_deadline": 4.0,
    "gate_deadline": 10.0,
    "deadline": 3.0,
    "service_deadline": 5.0,
    "record_deadline": 5.0,
}


def write_adapter(folder: Path, base: Vla, seed: int) -> Path:
    """A random LoRA of rank 2 on the language model and the projector."""
    folder.mkdir()
    random, tensors = torch.Generator().manual_seed(seed), {}
    for name in lora_targets(base.model):
        rows, columns = base.model.get_parameter(f"{name}.weight").shape
        for side, shape in (("lora_A", (2, columns)), ("lora_B", (rows, 2))):
            tensors[f"{PREFIX}{name}.{side}.weight"] = 0.1 * torch.randn(shape, generator=random)
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    AdapterManifest(adapter_hash(folder), base.base_hash).write(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("policy")
    model = write_random_checkpoint(root / "model", seed=1)
    other = write_random_checkpoint(root / "other", seed=2)
    base, foreign = load_checkpoint(model), load_checkpoint(other)
    return SimpleNamespace(
        root=root,
        model=model,
        base=base,
        good=write_adapter(root / "good", base, seed=1),
        better=write_adapter(root / "better", base, seed=2),
        foreign=write_adapter(root / "foreign", foreign, seed=3),
    )


def serve(make: Any, files: SimpleNamespace, lock_step: bool) -> Iterator[Any]:
    domain = free_domain()
    params = {"model": files.model, "use_sim_time": True, "lock_step": lock_step, **LIMITS}
    with NodeProcess("grape_policy.policy_node", domain, files.root / f"node_{lock_step}.log", params) as process:
        world = make(domain, lock_step)
        world.process = process
        try:
            wait_for(lambda: world.beats or not process.running(), "the first heartbeat", 200.0)
            yield world
        finally:
            world.close()


@pytest.fixture(scope="module")
def waiting(make_world: Any, files: SimpleNamespace) -> Iterator[Any]:
    """The node and its world in lock-step."""
    yield from serve(make_world, files, lock_step=True)


@pytest.fixture(scope="module")
def running(make_world: Any, files: SimpleNamespace) -> Iterator[Any]:
    """The node and its world in real time."""
    yield from serve(make_world, files, lock_step=False)


def test_an_episode_in_lock_step_answers_exactly_every_frame(waiting: Any, files: SimpleNamespace) -> None:
    status, result = waiting.run(record=True, seed=11)
    seen = waiting.seen
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert (result.end_reason, result.steps, result.success_reward) == ("step_limit", 4, 0)
    assert (result.success_world, result.grasped, result.collision) == (0, 1, 0)
    assert result.bag_path == f"/bags/{result.episode_id}"
    (identity,), (outcome,) = seen.identities, seen.outcomes
    assert identity.episode_id == result.episode_id and identity.instruction == "put the carrot on the plate"
    assert identity.lock_step and identity.seed == 11 and identity.base_hash == files.base.base_hash
    assert (outcome.end_reason, outcome.steps, outcome.mixed_adapter) == ("step_limit", 4, False)
    first = stamp_ns(seen.steps[0].header.stamp)
    assert [stamp_ns(step.header.stamp) - first for step in seen.steps] == [n * PERIOD for n in range(4)]
    assert stamp_ns(outcome.header.stamp) == first + 4 * PERIOD
    wait_for(lambda: len(seen.images) == 4 and len(seen.feedback) == 4, "images and feedback")
    assert [f.step for f in seen.feedback] == [0, 1, 2, 3] and seen.feedback[3].stage == 1
    engine = Engine(files.base)
    for step, image in zip(seen.steps, seen.images, strict=True):
        pixels = image_from_msg(image)
        assert stamp_ns(image.header.stamp) == stamp_ns(step.header.stamp) and pixels.shape == (56, 56, 3)
        assert step.header.frame_id == topics.BASE_FRAME and 0 < step.latency < 5
        assert step.measured_tcp.position.x == pytest.approx(stamp_ns(step.header.stamp) * 1e-9, abs=1e-9)
        assert step.gripper_width == pytest.approx(topics.GRIPPER_STROKE / 2)
        again = engine.act(pixels, identity.instruction, 11, step.step, 1.0)
        assert list(step.token_ids) == list(again.tokens), "the image published is the image the model saw"
        np.testing.assert_allclose(step.logprobs, again.logprobs, atol=1e-4)
        np.testing.assert_allclose(step.action, again.action, atol=1e-6)


def test_the_same_seed_is_the_same_episode(waiting: Any) -> None:
    tokens = []
    for seed in (5, 5, 6):
        waiting.run(seed=seed)
        tokens.append([list(step.token_ids) for step in waiting.seen.steps])
    assert tokens[0] == tokens[1] != tokens[2]


def test_an_episode_is_announced_after_the_last_observation_of_the_one_before(waiting: Any) -> None:
    """Also where the clock's topic lags behind the observations: readers tell episodes apart by these stamps."""
    stamps = []
    for seed in (1, 2):
        waiting.run({"clock_lag": 5 * PERIOD}, seed=seed, step_limit=2)
        stamps += [stamp_ns(waiting.seen.identities[-1].header.stamp), stamp_ns(waiting.seen.outcomes[-1].header.stamp)]
    assert stamps[2] > stamps[1]


def test_success_ends_the_episode(waiting: Any) -> None:
    status, result = waiting.run({"success_at": 2})
    assert (status, result.end_reason, result.steps) == (GoalStatus.STATUS_SUCCEEDED, "success", 2)
    assert result.success_reward == 1 and waiting.seen.outcomes[0].success_reward == 1


def test_three_vetoes_in_a_row_end_the_episode_and_one_does_not(waiting: Any) -> None:
    assert waiting.run({"veto": {1}})[1].end_reason == "step_limit"
    status, result = waiting.run({"veto": {0, 1, 2}}, step_limit=9)
    assert (status, result.end_reason, result.steps) == (GoalStatus.STATUS_ABORTED, "vetoed", 3)
    assert "box: step 2 leaves the box" in result.detail


def test_a_gate_that_stops_ends_the_episode(waiting: Any) -> None:
    status, result = waiting.run({"fault_at": 1}, step_limit=9)
    assert (status, result.end_reason) == (GoalStatus.STATUS_ABORTED, "gate_fault")
    assert result.steps == 2 and "no step in time" in result.detail


def test_a_killed_inference_process_ends_the_episode_and_the_node_can_be_configured_again(waiting: Any) -> None:
    handle = waiting.start(step_limit=1_000_000)
    wait_for(lambda: len(waiting.seen.steps) >= 3, "steps")
    number, began = inference_process(waiting.process), time.monotonic()
    os.kill(number, signal.SIGKILL)
    wait_for(lambda: waiting.seen.outcomes, "the outcome")
    assert time.monotonic() - began < 2.0
    status, result = waiting.result(handle)
    line = f"the inference process {number} was ended by SIGKILL"
    assert (status, result.end_reason, result.detail) == (GoalStatus.STATUS_ABORTED, "error", line)
    refused = waiting.call(waiting.load, LoadAdapter.Request(path=""))
    assert not refused.accepted and refused.reason == line
    assert not waiting.start().accepted
    assert f"{line}; no goal is taken until" in waiting.process.output
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        assert waiting.transition(transition)
    assert waiting.call(waiting.load, LoadAdapter.Request(path="")).reason.startswith("the policy node is not conf")
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert waiting.transition(transition)
    assert inference_process(waiting.process) != number
    assert waiting.run()[1].end_reason == "step_limit"


@pytest.mark.parametrize(
    ("behave", "goal", "reason", "named"),
    [
        ({"camera": False}, {}, "stale_camera", topics.COLOR),
        ({"encoding": "mono8"}, {}, "error", f"{topics.COLOR}: image encoding 'mono8'"),
        ({"refuse": "no task 'carrot'"}, {}, "error", "the world refuses: no task 'carrot'"),
        ({"answer": False}, {}, "gate_fault", "no verdict on step 0"),
        ({}, {"task": "fly"}, "error", "task 'fly'"),
        ({}, {"task": "../fly", "instruction": "fly"}, "error", "task '../fly'"),
        ({}, {"temperature": -1.0}, "error", "temperature -1"),
        ({}, {"demonstration": True}, "error", "demonstration: in lock-step"),
    ],
)
def test_wrong_use_ends_in_one_line(waiting: Any, behave: dict, goal: dict, reason: str, named: str) -> None:
    status, result = waiting.run(behave, **goal)
    assert status == GoalStatus.STATUS_ABORTED and result.end_reason == reason
    assert named in result.detail and "\n" not in result.detail
    after = waiting.run()[1]
    assert after.end_reason == "step_limit", f"the next goal is served: {after.detail}"


def test_cancel_is_taken_at_once_and_ends_the_episode(running: Any) -> None:
    took = []
    for _ in range(3):
        handle = running.start(step_limit=1000)
        wait_for(lambda: running.seen.steps, "a step")
        assert not running.action_again().accepted, "one goal at a time"
        began = time.monotonic()
        running.finished(running.ask(handle.cancel_goal_async), "the cancel's acceptance")
        took.append(time.monotonic() - began)
        status, result = running.result(handle)
        assert (status, result.end_reason) == (GoalStatus.STATUS_CANCELED, "cancelled")
        assert result.steps == len(running.seen.steps) == running.seen.outcomes[0].steps
    assert min(took) < 0.1, took


def inference_process(process: NodeProcess) -> int:
    """Its process id: the node's only child."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == process.process.pid:
                found.append(int(stat.parent.name))
    (number,) = found
    return number


@contextlib.contextmanager
def endless_inference(world: Any) -> Iterator[None]:
    """Within, the inference that has begun does not come to an end."""
    number = inference_process(world.process)
    os.kill(number, signal.SIGSTOP)
    try:
        steps, due = len(world.seen.steps), world.time + 2 * PERIOD
        wait_for(lambda: world.time > due, "two periods, at the latest in which a step is due")
        assert len(world.seen.steps) <= steps + 1
        yield
    finally:
        os.kill(number, signal.SIGCONT)


def test_a_cancel_does_not_wait_for_an_inference(running: Any) -> None:
    handle = running.start(step_limit=1000)
    wait_for(lambda: running.seen.steps, "a step")
    with endless_inference(running):
        beats, steps, began = len(running.beats), len(running.seen.steps), time.monotonic()
        running.finished(running.ask(handle.cancel_goal_async), "the cancel's acceptance")
        took = time.monotonic() - began
        status, result = running.result(handle)
        assert (status, result.end_reason) == (GoalStatus.STATUS_CANCELED, "cancelled")
        assert result.steps == steps == running.seen.outcomes[0].steps
        wait_for(lambda: len(running.beats) >= beats + 5, "heartbeats", 5.0)
    assert took < 0.1, took
    assert running.run(step_limit=2)[1].end_reason == "step_limit", "the answer that nobody waited for is nobody's"


def test_after_a_slow_inference_the_newest_frame_is_answered(running: Any) -> None:
    handle = running.start(step_limit=1000)
    wait_for(lambda: running.seen.steps, "a step")
    with endless_inference(running):
        steps, resumed = len(running.seen.steps), running.time
    wait_for(lambda: len(running.seen.steps) >= steps + 3, "steps")
    running.finished(running.ask(handle.cancel_goal_async), "the cancel's acceptance")
    running.result(handle)
    late, *after = [stamp_ns(step.header.stamp) for step in running.seen.steps[steps:]]
    assert late < resumed - PERIOD, "the inference that was slow answers what it was asked"
    assert min(after) >= resumed - PERIOD / 2, "none of the frames that came meanwhile is answered but the newest"


def test_an_inference_without_end_is_given_up(running: Any) -> None:
    running.set_seconds("inference_deadline", 1.0)
    try:
        handle = running.start(step_limit=1000)
        wait_for(lambda: running.seen.steps, "a step")
        with endless_inference(running):
            status, result = running.result(handle)
    finally:
        running.set_seconds("inference_deadline", 60.0)
    assert (status, result.end_reason) == (GoalStatus.STATUS_ABORTED, "error")
    assert result.detail == "no answer from the inference process after 1 s"


def test_a_frame_that_is_too_old_is_not_acted_on(running: Any) -> None:
    status, result = running.run({"age": 400_000_000})
    assert (status, result.end_reason, result.steps) == (GoalStatus.STATUS_ABORTED, "stale_camera", 0)
    assert topics.COLOR in result.detail and "s old" in result.detail and not running.seen.steps


def test_real_time_swaps_between_two_inferences_without_losing_a_tick(running: Any, files: SimpleNamespace) -> None:
    handle = running.start(step_limit=13)
    running.beats.clear()
    wait_for(lambda: len(running.seen.steps) >= 3, "three steps")
    refused = running.call(running.load, LoadAdapter.Request(path=str(files.foreign), force=True))
    assert not refused.accepted and "base" in refused.reason and "\n" not in refused.reason
    forced = running.call(running.load, LoadAdapter.Request(path=str(files.good), force=True))
    assert forced.accepted and not forced.pending and forced.adapter.serving
    wait_for(lambda: len(running.seen.steps) >= 7, "seven steps")
    waits = running.call(running.load, LoadAdapter.Request(path=str(files.better)))
    assert waits.accepted and waits.pending and not waits.adapter.serving
    result = running.result(handle)[1]
    seen = running.seen
    names = [step.adapter_id for step in seen.steps]
    assert result.end_reason == "step_limit", result.detail
    assert set(names) == {"", forced.adapter.adapter_id}
    assert names == sorted(names), "one flip, and the pending one only after the end"
    assert seen.outcomes[0].mixed_adapter
    gaps = np.diff([stamp_ns(step.header.stamp) for step in seen.steps]) / PERIOD
    assert gaps.max() <= 1.5, gaps
    assert np.diff(seen.arrived).max() <= 1.5 * PERIOD, np.diff(seen.arrived)
    assert abs(np.mean(gaps) - 1.0) < 0.05, "no drift"
    beats = np.array(running.beats)
    assert len(beats) > (beats[-1] - beats[0]) * 20 * 0.5, "heartbeats go on"
    running.run(step_limit=2)
    assert {step.adapter_id for step in running.seen.steps} == {waits.adapter.adapter_id}
    assert not running.seen.outcomes[0].mixed_adapter


def test_rollback_and_the_list(running: Any, files: SimpleNamespace) -> None:
    def serving() -> str:
        return running.call(running.list, ListAdapters.Request()).adapters[0].adapter_id

    load = running.call(running.load, LoadAdapter.Request(path=str(files.good)))
    assert load.accepted and serving() == load.adapter.adapter_id
    base = running.call(running.load, LoadAdapter.Request(path=""))
    assert base.accepted and serving() == base.adapter.adapter_id == ""
    back = running.call(running.rollback, RollbackAdapter.Request())
    assert back.accepted and serving() == back.adapter.adapter_id == load.adapter.adapter_id
    assert back.adapter.adapter_seq == base.adapter.adapter_seq + 1
    missing = running.call(running.load, LoadAdapter.Request(path=str(files.root / "nowhere")))
    assert not missing.accepted and "nowhere" in missing.reason and serving() == load.adapter.adapter_id


def test_while_a_person_drives_the_policy_waits_and_lives(running: Any) -> None:
    running.set_seconds("camera_deadline", 2.0)
    try:
        handle = running.start(step_limit=6)
        seen = running.seen
        wait_for(lambda: len(seen.steps) >= 2 or seen.outcomes, "two steps", 60.0)
        assert not seen.outcomes, seen.outcomes
        running.drive(operator=True)
        taken, beats = running.time, len(running.beats)
        wait_for(lambda: len(running.beats) > beats + 60, "three seconds of heartbeats")
        given = running.time
        running.drive(operator=False)
        status, result = running.result(handle)
    finally:
        running.set_seconds("camera_deadline", LIMITS["camera_deadline"])
    assert (status, result.end_reason, result.steps) == (GoalStatus.STATUS_SUCCEEDED, "step_limit", 6), result.detail
    assert [step.step for step in seen.steps] == list(range(6))
    assert given - taken > PERIOD
    # one may have been on its way when the arm was taken
    assert not [at for at in seen.arrived if taken + PERIOD // 4 < at < given]
    assert not [step for step in seen.steps if taken < stamp_ns(step.header.stamp) <= given]
    assert result.detail.endswith(PERSON_DROVE) and seen.outcomes[0].detail.endswith(PERSON_DROVE)


def test_a_demonstration_shows_frames_and_decides_nothing(running: Any) -> None:
    handle = running.start(step_limit=3, demonstration=True, record=True)
    wait_for(lambda: running.seen.identities, "the announcement")
    running.drive(operator=True)
    status, result = running.result_of_drive(handle)
    seen = running.seen
    running.drive(operator=False)
    assert (status, result.end_reason, result.steps) == (GoalStatus.STATUS_SUCCEEDED, "step_limit", 3), result.detail
    (identity,), (outcome,) = seen.identities, seen.outcomes
    assert list(identity.notes) == [DEMONSTRATION] and outcome.steps == 0 and not seen.steps
    wait_for(lambda: len(seen.images) == 3 and len(seen.feedback) == 3, "images and feedback")
    stamps = [stamp_ns(image.header.stamp) for image in seen.images]
    assert all(image_from_msg(image).shape == (56, 56, 3) for image in seen.images)
    assert [gap for gap in np.diff(stamps) if gap < PERIOD // 2] == []


def test_the_operator_s_button_ends_an_episode(running: Any) -> None:
    answer = running.call(running.end, Trigger.Request())
    assert not answer.success and answer.message == "no episode is running"
    for demonstration, wanted in ((True, GoalStatus.STATUS_SUCCEEDED), (False, GoalStatus.STATUS_ABORTED)):
        handle = running.start(step_limit=1000, demonstration=demonstration)
        wait_for(lambda: running.seen.identities, "the announcement")
        answer = running.call(running.end, Trigger.Request())
        assert answer.success and answer.message == running.seen.identities[0].episode_id
        status, result = running.result_of_drive(handle)
        assert (status, result.end_reason) == (wanted, "cancelled") and result.detail.startswith(ENDED_BY_OPERATOR)


def test_a_camera_that_stops_ends_the_episode(running: Any) -> None:
    handle = running.start(step_limit=1000)
    wait_for(lambda: len(running.seen.steps) >= 2, "two steps")
    running.behaviour.camera = False
    status, result = running.result(handle)
    assert (status, result.end_reason) == (GoalStatus.STATUS_ABORTED, "stale_camera")
    assert topics.COLOR in result.detail


def test_an_interrupt_ends_the_episode_first(running: Any) -> None:
    assert running.start(step_limit=1000).accepted
    wait_for(lambda: len(running.seen.steps) >= 2, "two steps")
    running.process.process.terminate()
    assert running.process.wait(15.0) == 0, running.process.output
    wait_for(lambda: running.seen.outcomes, "the outcome")
    assert running.seen.outcomes[0].end_reason == "cancelled" and "deactivated" in running.seen.outcomes[0].detail


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, "parameter model"),
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"veto_limit": 0}, "veto_limit"),
        ({"model": ".", "dtype": "int8"}, "parameter dtype: 'int8'"),
        ({"model": ".", "adapter_mode": "both"}, "parameter adapter_mode: 'both'"),
        ({"model": "."}, "config.json"),
    ],
)
def test_a_node_that_cannot_start_says_why_in_one_line(tmp_path: Path, params: dict, named: str) -> None:
    process = NodeProcess("grape_policy.policy_node", free_domain(), tmp_path / "log", params)
    try:
        assert process.wait(60.0) == 1
    finally:
        process.stop()
    (line,) = process.output.splitlines()
    assert line.startswith("grape_policy: ") and named in line
