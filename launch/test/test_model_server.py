"""The engine behind vla-eval's protocol: conversions, episodes, batches; and over real sockets on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("vla_eval", reason="the dependency group `benchmark` is not installed (make setup-benchmark)")
import anyio
from anyio.from_thread import start_blocking_portal
from vla_eval.benchmarks.libero.benchmark import LIBEROBenchmark
from vla_eval.benchmarks.simpler.benchmark import SimplerEnvBenchmark
from vla_eval.connection import Connection
from vla_eval.model_servers.base import SessionContext
from vla_eval.specs import DimSpec, check_specs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from grape import model_wire
from grape.benchmark_conventions import BENCHMARKS, ObservationError, client_action, episode_seed
from grape.model_server import GrapeModelServer
from grape.model_wire import bind, serve_on
from grape_policy.checkpoint import Vla, load_checkpoint
from grape_policy.engine import AdapterInfo, Decision, Engine, Request
from grape_policy.processing import center_crop
from grape_policy.testing import INSTRUCTIONS, write_random_checkpoint

LIBERO, SIMPLER = BENCHMARKS["libero"], BENCHMARKS["simpler"]
SIDE = 56
ACTION = np.array([0.01, 0.02, 0.03, 0.1, 0.2, 0.3, 0.9])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny", seed=3, image_size=SIDE)


@pytest.fixture
def vla(folder: Path) -> Vla:
    return load_checkpoint(folder)


class FakeEngine:
    """Answers every request with ACTION moved by the image's mean, and notes what it was asked."""

    def __init__(self, vla: Vla, gate: threading.Event | None = None) -> None:
        self.vla, self.unnorm_key, self.gate = vla, None, gate
        self.batches: list[list[Request]] = []
        self.serving = AdapterInfo("f" * 64, 1, "b" * 64, "", 4)

    def act_batch(self, requests: Sequence[Request]) -> list[Decision]:
        self.batches.append(list(requests))
        if self.gate is not None:
            assert self.gate.wait(20)
        rows = [ACTION + np.eye(7)[0] * request.image.mean() for request in requests]
        tokens, figures = np.arange(7, dtype=np.int32), np.zeros(7, np.float32)
        return [Decision(tokens, figures, figures, row, "f" * 64, 1) for row in rows]


def observation(value: int = 0, words: str = INSTRUCTIONS[0], camera: str = "agentview") -> dict[str, Any]:
    return {"images": {camera: np.full((256, 256, 3), value, np.uint8)}, "task_description": words}


def episode(number: int = 0) -> dict[str, Any]:
    return {"task": {"name": INSTRUCTIONS[0], "suite": "libero_spatial", "task_id": 0, "episode_idx": number}}


@contextmanager
def served(server: GrapeModelServer) -> Iterator[str]:
    """The server on a free port of loopback; its address."""
    ready = threading.Event()
    with bind("127.0.0.1", 0) as bound, start_blocking_portal() as portal:
        running = portal.start_task_soon(serve_on, server, bound, ready.set)
        assert ready.wait(20)
        try:
            yield f"127.0.0.1:{bound.getsockname()[1]}"
        finally:
            running.cancel()


# --- conversions ---


def test_an_observation_becomes_a_request_at_the_models_size(vla: Vla) -> None:
    server = GrapeModelServer(FakeEngine(vla), LIBERO, temperature=0.5)
    given = observation(words=INSTRUCTIONS[1])
    given["images"]["agentview"][:, :128] = 200
    request = server.request(given, seed=5, step=9)
    assert (request.instruction, request.seed, request.step, request.temperature) == (INSTRUCTIONS[1], 5, 9, 0.5)
    small = Image.fromarray(given["images"]["agentview"]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(request.image, np.array(small))


def test_the_crop_comes_after_lanczos_at_the_models_size(folder: Path) -> None:
    """The published protocol: resize by Lanczos, then crop 0.9 of the area and resize back bilinearly."""
    server = GrapeModelServer(FakeEngine(load_checkpoint(folder, center_crop=True)), LIBERO)
    given = observation()
    given["images"]["agentview"] = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    small = np.array(Image.fromarray(given["images"]["agentview"]).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(server.request(given, 0, 0).image, center_crop(small))


def test_simplers_images_are_resized_as_the_checkpoint_says(vla: Vla) -> None:
    image = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    given = {"images": {"primary": image}, "task_description": "put the spoon on the towel"}
    seen = GrapeModelServer(FakeEngine(vla), SIMPLER).request(given, 0, 0).image
    np.testing.assert_array_equal(seen, vla.processor.model_input(image))


def test_an_instruction_longer_than_the_model_reads_is_refused(vla: Vla) -> None:
    server = GrapeModelServer(FakeEngine(vla), LIBERO)
    with pytest.raises(ObservationError, match=r"task_description: \d+ tokens, the model takes"):
        server.request(observation(words="put the carrot on the plate " * 2000), 0, 0)


def test_the_answer_names_tokens_log_probs_and_adapter(vla: Vla) -> None:
    server = GrapeModelServer(FakeEngine(vla), LIBERO)
    requests = [{"request": server.request(observation(value), 0, 0)} for value in (3, 7)]
    answers = server.predict_batch(requests, [])
    assert [round(float(answer["actions"][0]), 4) for answer in answers] == [3.01, 7.01]
    assert answers[0]["actions"].dtype == np.float32 and answers[0]["actions"][6] == -1.0
    assert answers[0]["tokens"] == list(range(7)) and answers[0]["adapter_id"] == "f" * 64
    assert server.predict(requests[1], SessionContext("a", "b"))["actions"][0] == answers[1]["actions"][0]


def test_the_specs_fit_libero_and_say_who_acts(vla: Vla) -> None:
    server, client = GrapeModelServer(FakeEngine(vla), LIBERO), LIBEROBenchmark()
    action, seen = server.get_action_spec(), server.get_observation_spec()
    assert check_specs(action, client.get_action_spec(), seen, client.get_observation_spec()) == []
    assert action["position"].description == f"base {'b' * 12}, adapter {'f' * 12}, unnorm_key random"
    assert server.get_observation_params() == {"seed": 7, "env_seed": 0}


def test_the_specs_say_what_simplers_client_does_where_it_declares_something_else(vla: Vla) -> None:
    server, client = GrapeModelServer(FakeEngine(vla), SIMPLER), SimplerEnvBenchmark()
    specs = (server.get_action_spec(), client.get_action_spec())
    told = check_specs(*specs, server.get_observation_spec(), client.get_observation_spec())
    assert sorted(told) == [
        "action [gripper]: gripper: continuous_01 vs binary_close_positive",
        "action [rotation]: rotation: axis_angle vs euler_xyz",
    ]


@pytest.mark.parametrize("conventions", [LIBERO, SIMPLER])
def test_actions_keep_within_the_declared_ranges(vla: Vla, conventions: Any) -> None:
    server = GrapeModelServer(FakeEngine(vla), conventions)
    spec = server.get_action_spec()
    for gripper in (-0.2, 0.0, 0.5, 1.0, 1.4):
        sent = client_action(np.array([*ACTION[:6], gripper]), "euler_xyz", conventions)
        assert spec["rotation"].validate(sent[3:6]) + spec["gripper"].validate(sent[6:]) == []


def test_an_observation_needs_an_episode(vla: Vla) -> None:
    server = GrapeModelServer(FakeEngine(vla), LIBERO)
    with pytest.raises(ObservationError, match="no episode has been started"):
        anyio.run(server.on_observation, observation(), SessionContext("a", ""))
    with pytest.raises(ObservationError, match="field task"):
        anyio.run(server.on_episode_start, {"task": 3}, SessionContext("a", "b"))


# --- over sockets, by vla-eval's own client ---


async def rollout(address: str, numbers: Sequence[int], steps: int = 3) -> dict[int, list[dict[str, Any]]]:
    answers: dict[int, list[dict[str, Any]]] = {}
    async with Connection(f"ws://{address}", timeout=60) as client:
        for number in numbers:
            await client.start_episode(episode(number))
            answers[number] = [await client.act(observation(10 * step + number)) for step in range(steps)]
            await client.end_episode({"steps": steps, "metrics": {"success": False}})
    return answers


def test_a_clients_actions_are_the_engines_and_a_rerun_is_the_same(folder: Path) -> None:
    engine = Engine(load_checkpoint(folder))
    server = GrapeModelServer(engine, LIBERO, seed=4, temperature=1.0)
    with served(server) as address:
        first = anyio.run(rollout, address, [0, 1])
        again = anyio.run(rollout, address, [1, 0])  # another order, another connection
    for number in (0, 1):
        seed = episode_seed(4, episode(number)["task"])
        for step, (one, two) in enumerate(zip(first[number], again[number], strict=True)):
            request = server.request(observation(10 * step + number), seed, step)
            wanted = engine.act(request.image, request.instruction, seed, step, 1.0)
            assert one["tokens"] == two["tokens"] == wanted.tokens.tolist()
            np.testing.assert_allclose(one["logprobs"], wanted.logprobs, atol=1e-5)
            np.testing.assert_array_equal(one["actions"], client_action(wanted.action, "euler_xyz", LIBERO))
    assert first[0][0]["tokens"] != first[1][0]["tokens"]


def test_the_client_is_told_specs_and_seeds_at_its_first_message(vla: Vla) -> None:
    async def hello(address: str) -> dict[str, Any]:
        async with Connection(f"ws://{address}") as client:
            return client.server_info

    with served(GrapeModelServer(FakeEngine(vla), LIBERO)) as address:
        told = anyio.run(hello, address)
    assert told["observation_params"] == {"seed": 7, "env_seed": 0}
    assert DimSpec.from_dict(told["action_spec"]["gripper"]).format == "binary_close_positive"


def test_sessions_are_batched_and_ones_mistake_is_its_own(vla: Vla) -> None:
    gate = threading.Event()
    engine = FakeEngine(vla, gate)
    server = GrapeModelServer(engine, LIBERO, max_batch_size=4)
    answers: dict[int, Any] = {}

    async def session(address: str, number: int) -> None:
        async with Connection(f"ws://{address}", timeout=60) as client:
            await client.start_episode(episode(number))
            wrong = {"images": {}, "task_description": "go"}
            try:
                answers[number] = await client.act(observation(number) if number != 3 else wrong)
            except RuntimeError as problem:
                answers[number] = str(problem)
                answers[-1] = await client.act(observation(number))  # the connection goes on

    async def sessions(address: str) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(session, address, number)
            # the first pass waits until the others' requests are there; then they go together
            with anyio.fail_after(20):
                while len(answers) < 1 or not waiting():
                    await anyio.sleep(0.01)
            gate.set()

    def waiting() -> bool:
        return len(engine.batches) == 1 and len(server._seeds) == 6

    with served(server) as address:
        anyio.run(sessions, address)
    assert "no camera 'agentview'" in answers.pop(3)
    assert len(answers.pop(-1)["actions"]) == 7
    assert {number: round(float(answer["actions"][0]), 2) for number, answer in answers.items()} == {
        number: number + 0.01 for number in (0, 1, 2, 4, 5)
    }
    assert sum(len(batch) for batch in engine.batches) == 6
    assert 2 <= max(len(batch) for batch in engine.batches) <= 4


def test_a_wrong_message_is_answered_and_ends_its_connection_only(vla: Vla) -> None:
    async def hostile(address: str, data: bytes | str) -> tuple[Any, int]:
        from vla_eval.protocol.messages import unpack_message

        async with connect(f"ws://{address}") as client:
            await client.send(data)
            answer = unpack_message(await client.recv())
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            return answer.payload["error"], closed.value.rcvd.code

    with served(GrapeModelServer(FakeEngine(vla), LIBERO)) as address:
        assert anyio.run(hostile, address, b"\xc1")[1] == 1008
        assert anyio.run(hostile, address, "{}") == ("text message: only msgpack is spoken here", 1008)
        assert len(anyio.run(rollout, address, [0])[0]) == 3


def test_a_message_too_large_ends_its_connection_only(vla: Vla, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        model_wire, "MAX_MESSAGE", 1 << 16
    )  # what the sockets' buffers hold: the client can write it all

    async def large(address: str) -> int:
        async with connect(f"ws://{address}", max_size=None) as client:
            with pytest.raises(ConnectionClosed) as closed:
                await client.send(b"\0" * ((1 << 16) + 1))
                await client.recv()
            assert closed.value.rcvd is not None
            return closed.value.rcvd.code

    with served(GrapeModelServer(FakeEngine(vla), LIBERO)) as address:
        assert anyio.run(large, address) == 1009
        assert len(anyio.run(rollout, address, [0])[0]) == 3


def test_web_pages_do_not_connect_and_nothing_is_set_over_http(vla: Vla) -> None:
    async def from_a_page(address: str) -> int:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://{address}", origin="http://a.page"):  # type: ignore[arg-type]
                pass
        return refused.value.response.status_code

    server = GrapeModelServer(FakeEngine(vla), LIBERO)
    with served(server) as address:
        assert anyio.run(from_a_page, address) == 403
        with urlopen(f"http://{address}/health") as answer:
            assert answer.read() == b'{"status": "ok"}\n'
        with pytest.raises(HTTPError) as refused:
            urlopen(f"http://{address}/config?max_batch_size=64")
        assert refused.value.code == 403
        refused.value.close()
    assert server.max_batch_size == 1
