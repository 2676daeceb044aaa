"""The inference process: ``python -m grape_policy.inference_worker FD FD``, started by :mod:`inference_process`.

Two sockets: over the first come requests to act, over the second all others, so that an act never queues behind a
load. The thread that acts is the one that loaded the model; another loads adapters meanwhile. The process ends when
its parent has closed a socket or died. No ROS here.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from grape_policy.channel import Channel, ChannelClosed
from grape_policy.decision import ModelFacts
from grape_policy.errors import SupersededError
from grape_policy.parameters import EngineSettings

if TYPE_CHECKING:  # torch and transformers take seconds: only once the parent can be heard
    from grape_policy.engine import Engine

PROGRESS_SECONDS = 1.0
Message = tuple[dict[str, Any], list[NDArray[Any]]]


class Worker:
    """Answers every message with one of the same ``id``, which carries ``error`` and ``text`` where it failed."""

    def __init__(self, acting: Channel, control: Channel) -> None:
        self._acting, self._control = acting, control
        self._acts: SimpleQueue[Message] = SimpleQueue()
        self._loader = ThreadPoolExecutor(1, "loader")
        self._engine: Engine | None = None
        self._said = time.monotonic()

    def run(self) -> None:
        """Until the parent closes the control channel. Its first message opens the model."""
        first, _ = self._control.receive()
        threading.Thread(target=self._act_for_ever, args=(first,), name="acting", daemon=True).start()
        threading.Thread(target=self._hear_acts, name="hearing", daemon=True).start()
        while True:
            header, _ = self._control.receive()
            self._loader.submit(self._answer, self._control, header, self._control_request, header)

    # acting

    def _hear_acts(self) -> None:
        with _ending_with_the_parent():
            while True:
                self._acts.put(self._acting.receive())

    def _act_for_ever(self, opening: dict[str, Any]) -> None:
        with _ending_with_the_parent():
            self._answer(self._control, opening, self._open, opening)
            while True:
                header, arrays = self._acts.get()
                while not self._acts.empty():  # nobody waits for an older one any more
                    self._answer(self._acting, header, _superseded)
                    header, arrays = self._acts.get()
                self._answer(self._acting, header, self._act, header, arrays)

    def _open(self, header: dict[str, Any]) -> Message:
        from grape_policy.loading import load_engine

        self._engine = engine = load_engine(EngineSettings(**header["settings"]), self._progress)
        # what the model's libraries have made stays: a full collection that looks through it takes several inferences
        gc.collect()
        gc.freeze()
        spec = engine.vla.spec
        facts = ModelFacts(engine.vla.base_hash, spec.image_size, spec.rotation, str(engine.vla.folder))
        return {"facts": dataclasses.asdict(facts), **self._adapters()}, []

    def _progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said >= PROGRESS_SECONDS:
            self._said = now
            self._control.send({"progress": [done, total]})

    def _act(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> Message:
        assert self._engine is not None
        (image,) = arrays
        if header.get("look"):
            return {}, [self._engine.vla.processor.model_input(image)]
        if header["prepare"]:
            image = self._engine.vla.processor.model_input(image)
        sampling = (header["seed"], header["step"], header["temperature"])
        made = self._engine.act(image, header["instruction"], *sampling)
        given: list[NDArray[Any]] = [made.tokens, made.logprobs, made.margins, made.action]
        if header["prepare"]:
            given.append(image)
        return {"adapter_id": made.adapter_id, "adapter_seq": made.adapter_seq}, given

    # adapters

    def _control_request(self, header: dict[str, Any]) -> Message:
        engine = self._engine
        assert engine is not None
        began = time.perf_counter()
        if header["ask"] == "load":
            info = engine.load_adapter(Path(header["path"]) if header["path"] is not None else None)
        else:
            info = engine.flip() if header["ask"] == "flip" else engine.rollback()
        return {"seconds": time.perf_counter() - began, "adapter": dataclasses.asdict(info), **self._adapters()}, []

    def _adapters(self) -> dict[str, Any]:
        assert self._engine is not None
        previous = self._engine.previous
        return {
            "serving": dataclasses.asdict(self._engine.serving),
            "previous": dataclasses.asdict(previous) if previous else None,
        }

    # answers

    def _answer(self, channel: Channel, header: dict[str, Any], make: Any, *arguments: Any) -> None:
        with _ending_with_the_parent():
            try:
                answer, arrays = make(*arguments)
            except ChannelClosed:
                raise
            except Exception as problem:
                if not _expected(problem):
                    traceback.print_exc()
                answer, arrays = {"error": type(problem).__name__, "text": " ".join(str(problem).split())}, []
            channel.send({**answer, "id": header["id"]}, arrays)


@contextmanager
def _ending_with_the_parent() -> Iterator[None]:
    """The process ends at once where the parent is gone, whatever its other threads are doing."""
    try:
        yield
    except ChannelClosed:
        os._exit(0)


def _expected(problem: Exception) -> bool:
    """Whether its text says all: an error of this package's own."""
    return type(problem).__module__.startswith("grape_policy.")


def _superseded() -> Message:
    raise SupersededError("a newer frame came before this one's turn")


def main(arguments: list[str] | None = None) -> int:
    # a signal to the whole process group is for the node, which ends its episode and then closes the sockets
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    numbers = map(int, arguments if arguments is not None else sys.argv[1:])
    acting, control = (Channel(socket.socket(fileno=number)) for number in numbers)
    with _ending_with_the_parent():
        Worker(acting, control).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
