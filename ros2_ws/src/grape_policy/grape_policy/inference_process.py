"""The parent's side of the inference process: an engine that acts without holding this interpreter's lock.

An inference is hundreds of small operations of torch. In the node's own process each of them competes with the
executor's threads for the interpreter; in a process of its own neither can delay the other. No torch and no ROS here.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from grape_policy.channel import Channel, ChannelClosed, ChannelError
from grape_policy.decision import AdapterInfo, Answer, Decision, ModelFacts
from grape_policy.errors import ProcessEndedError, received
from grape_policy.parameters import EngineSettings

WORKER = "grape_policy.inference_worker"
GRACE = 5.0
"""Seconds between asking the process to end and killing it."""
Message = tuple[dict[str, Any], list[NDArray[Any]]]
T = TypeVar("T")


def _ignore(*_: Any) -> None:
    """Nobody listens."""


class EngineProcess:
    """An engine in a process of its own, with the engine's own interface for adapters. A context manager.

    Any thread may call anything. Every call raises ProcessEndedError, with how it ended, once the process is gone."""

    def __init__(
        self,
        settings: EngineSettings,
        say: Callable[[str], None] = _ignore,
        progress: Callable[[int, int], None] = _ignore,
        ended: Callable[[str], None] = _ignore,
    ) -> None:
        """Starts the process and waits until it serves.

        Called in threads of this object: ``say`` with every line that the process prints, ``progress`` with (tensors
        read, tensors in all), ``ended`` once, with one line, when the process is gone without having been closed.
        Raises LoadError that names the parameter, file or field; ProcessEndedError."""
        self._say, self._progress, self._on_end = say, progress, ended
        self._last_words: deque[str] = deque(maxlen=1)
        self._ending = threading.Lock()
        self._closing = False
        self._problem = ""
        ours, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        command = [sys.executable, "-m", WORKER, *(str(end.fileno()) for end in theirs)]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # it finds what this one finds
            pass_fds=[end.fileno() for end in theirs],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for end in theirs:
            end.close()  # the process alone holds its ends, so that they close with it
        self._printer = threading.Thread(target=self._relay, name="inference output", daemon=True)
        self._printer.start()
        self._acting, self._control = (_Calls(Channel(end), self._lost, self._told) for end in ours)
        try:
            facts, _ = self._control.call({"ask": "open", "settings": dataclasses.asdict(settings)})
        except BaseException:
            self.close()
            raise
        self.facts = ModelFacts(**facts["facts"])
        self.flip_seconds = 0.0
        """How long the last flip took in the process, from its start until the next act would use its adapter."""
        self._serving, self._previous = _adapters(facts)

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def problem(self) -> str:
        """How the process ended, in one line; empty while it lives."""
        return self._problem

    def close(self) -> None:
        """End the process: at once, also within an inference; by SIGKILL where it does not end. Idempotent."""
        with self._ending:
            self._closing = True
        self._acting.close()
        self._control.close()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._printer.join(GRACE)

    # acting

    def decide(
        self, frame: NDArray[np.uint8], instruction: str, seed: int, step: int, temperature: float
    ) -> Future[Answer]:
        """Seven tokens for a camera frame (H, W, 3) uint8 RGB of any size; the process makes the model's image of it.

        The future raises ProcessingError for what is no input; SupersededError where a newer frame came before this
        one's turn: whoever no longer waits for an answer need not withdraw the request."""
        answer: Future[Answer] = Future()

        def settle(message: Message) -> Answer:
            header, (*made, image) = message
            return Answer(_decision(header, made), image)

        asked = {"instruction": instruction, "seed": seed, "step": step, "temperature": temperature, "prepare": True}
        _then(self._acting.send(asked, [frame]), settle, answer)
        return answer

    def see(self, frame: NDArray[np.uint8]) -> Future[NDArray[np.uint8]]:
        """The model's image (S, S, 3) of a camera frame, and no decision. Raises as ``decide``."""
        image: Future[NDArray[np.uint8]] = Future()
        _then(self._acting.send({"look": True}, [frame]), lambda message: message[1][0], image)
        return image

    def act(self, image: NDArray[np.uint8], instruction: str, seed: int, step: int, temperature: float) -> Decision:
        """As ``Engine.act``: ``image`` is the model's own (S, S, 3)."""
        asked = {"instruction": instruction, "seed": seed, "step": step, "temperature": temperature, "prepare": False}
        return _decision(*self._acting.call(asked, [image]))

    # adapters: one caller at a time, as grape_policy.swap keeps it

    @property
    def serving(self) -> AdapterInfo:
        """What answers the next act."""
        return self._serving

    @property
    def previous(self) -> AdapterInfo | None:
        """What a rollback returns to."""
        return self._previous

    def load_adapter(self, folder: Path | None) -> AdapterInfo:
        """Make an adapter ready beside what serves; None: the base model alone. Raises AdapterError."""
        return self._ask({"ask": "load", "path": None if folder is None else str(folder)})

    def flip(self) -> AdapterInfo:
        """Serve what was loaded last. Raises AdapterError when nothing was."""
        return self._ask({"ask": "flip"})

    def rollback(self) -> AdapterInfo:
        """Serve what served before the last flip. Raises AdapterError when that is no longer there."""
        return self._ask({"ask": "rollback"})

    def _ask(self, header: dict[str, Any]) -> AdapterInfo:
        answer, _ = self._control.call(header)
        self._serving, self._previous = _adapters(answer)
        if header["ask"] != "load":
            self.flip_seconds = float(answer["seconds"])
        return AdapterInfo(**answer["adapter"])

    # what comes unasked

    def _told(self, header: dict[str, Any]) -> None:
        self._progress(*header["progress"])

    def _relay(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._last_words.append(text)
                    self._say(text)

    def _lost(self) -> ProcessEndedError:
        """A channel is closed: why. The first who comes says so."""
        with self._ending:
            if not self._problem:
                self._problem = "the inference process was closed" if self._closing else self._how_it_ended()
                if not self._closing:
                    self._on_end(self._problem)
        return ProcessEndedError(self._problem)

    def _how_it_ended(self) -> str:
        name = f"the inference process {self.process.pid}"
        try:
            status = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()  # it has closed a socket, so nobody can speak to it any more
            return f"{name} no longer answers"
        if status < 0:
            return f"{name} was ended by {signal.Signals(-status).name}"
        self._printer.join(1.0)
        return f"{name} ended with status {status}: {self._last_words[-1] if self._last_words else 'it said nothing'}"


class _Calls:
    """Requests over one channel and their answers, matched by ``id``."""

    def __init__(
        self, channel: Channel, lost: Callable[[], ProcessEndedError], told: Callable[[dict[str, Any]], None]
    ) -> None:
        self._channel, self._lost, self._told = channel, lost, told
        self._ids = itertools.count()
        self._waiting: dict[int, Future[Message]] = {}
        self._gone = False
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="inference answers", daemon=True)
        self._reader.start()

    def send(self, header: dict[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> Future[Message]:
        """A future that raises what the other side raised, or how it ended."""
        number, future = next(self._ids), Future[Message]()
        with self._lock:
            gone = self._gone
            self._waiting[number] = future
        if gone:
            self._fail()
            return future
        try:
            self._channel.send({**header, "id": number}, arrays)
        except ChannelClosed:
            self._fail()
        return future

    def call(self, header: dict[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> Message:
        return self.send(header, arrays).result()

    def close(self) -> None:
        self._channel.close()
        self._reader.join(GRACE)

    def _read(self) -> None:
        try:
            while True:
                header, arrays = self._channel.receive()
                if "id" not in header:
                    self._told(header)
                    continue
                with self._lock:
                    future = self._waiting.pop(header["id"])
                if "error" in header:
                    future.set_exception(received(header["error"], header["text"]))
                else:
                    future.set_result((header, arrays))
        except (ChannelClosed, ChannelError):
            self._fail()

    def _fail(self) -> None:
        error = self._lost()
        with self._lock:
            self._gone = True
            lost, self._waiting = list(self._waiting.values()), {}
        for future in lost:
            future.set_exception(error)


def _then(first: Future[Message], make: Callable[[Message], T], then: Future[T]) -> None:
    """``then`` completes with what ``make`` makes of the first's result."""

    def settle(done: Future[Message]) -> None:
        try:
            result = make(done.result())
        except Exception as problem:
            then.set_exception(problem)
        else:
            then.set_result(result)

    first.add_done_callback(settle)


def _decision(header: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> Decision:
    tokens, logprobs, margins, action = arrays
    return Decision(tokens, logprobs, margins, action, header["adapter_id"], header["adapter_seq"])


def _adapters(answer: dict[str, Any]) -> tuple[AdapterInfo, AdapterInfo | None]:
    previous = answer["previous"]
    return AdapterInfo(**answer["serving"]), AdapterInfo(**previous) if previous else None
