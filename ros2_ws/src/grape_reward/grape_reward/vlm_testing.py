"""An endpoint on loopback that answers as a test's script says, well or badly, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from grape_reward.vlm_messages import API_KEY, BASE_URL, MODEL

KEY = "sk-test-0123456789abcdef"


@dataclass(frozen=True)
class Scripted:
    """One answer: HTTP ``status``, ``headers`` beyond the usual, ``body``. ``stall``: send only that many bytes of it,
    then nothing more until the server ends; -1: send it whole. ``trickle``: seconds between bytes, 0 for at once."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stall: int = -1
    trickle: float = 0.0


@dataclass(frozen=True)
class Asked:
    """One request: its path, its headers in lower case, its JSON."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """All the text of its messages."""
        parts = [message["content"] for message in self.body["messages"]]
        return "\n".join(part if isinstance(part, str) else part[0]["text"] for part in parts)


def completion(text: str | None, finish: str = "stop", **message: Any) -> Scripted:
    """A chat completion as servers write it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "scripted-1", "choices": [choice]}
    return Scripted(json.dumps({**body, "usage": usage}).encode())


def failure(status: int, message: str, **headers: str) -> Scripted:
    """An error as servers write it; ``retry_after="1"`` becomes the header Retry-After."""
    body = json.dumps({"error": {"message": message, "type": "server_error", "code": None}}).encode()
    return Scripted(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


class ScriptedEndpoint:
    """A context manager. The answers are given in turn; a request beyond the last gets status 410, which no client
    tries again. ``asked``: the requests so far."""

    def __init__(self, answers: Sequence[Scripted]) -> None:
        self.asked: list[Asked] = []
        self._answers = list(answers)
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a client here."""
        return {BASE_URL: self.base_url, MODEL: "scripted", API_KEY: KEY}

    def __enter__(self) -> ScriptedEndpoint:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                endpoint.asked.append(Asked(self.path, headers, json.loads(body)))
                answers = endpoint._answers
                answer = answers.pop(0) if answers else failure(410, "the script is over")
                try:
                    self._send(answer)
                except OSError:
                    return  # the client has hung up, as it should on an answer that is too long or too late

            def _send(self, answer: Scripted) -> None:
                if answer.stall == 0:
                    endpoint._over.wait()
                    return
                self.send_response(answer.status)
                for name, value in {"content-type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                if answer.trickle:
                    for byte in answer.body:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        if endpoint._over.wait(answer.trickle):
                            return
                    return
                whole = answer.stall < 0
                self.wfile.write(answer.body if whole else answer.body[: answer.stall])
                self.wfile.flush()
                if not whole:
                    endpoint._over.wait()

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler
