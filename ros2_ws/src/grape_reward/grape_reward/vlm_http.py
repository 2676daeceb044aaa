"""One HTTP request to a chat endpoint: bounded in time and size, sent to one host, with nothing but what is asked.

The ``openai`` package makes the request. Taken away from it: its retries (ours can be told the time in tests and
honour a patience), redirects (they would take the picture to a host that nobody named), and every header that it adds
of its own accord or from ``OPENAI_*`` variables (organisation, project, machine, interpreter)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from grape_reward.printable import one_line
from grape_reward.vlm_messages import Endpoint, Message, VlmConfigError, VlmError

_KEPT_HEADERS = {"host", "connection", "content-type", "content-length", "accept", "user-agent"}
RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True)
class Reply:
    """What came back: HTTP ``status``, ``headers`` in lower case, ``text`` of the body."""

    status: int
    headers: dict[str, str]
    text: str


class VlmTimeout(VlmError):
    """No whole answer within the time allowed."""


class VlmUnreachable(VlmError):
    """No connection, or one that broke off."""


class AnswerTooLarge(VlmError):
    """An answer over the size allowed; the rest of it was not read."""


def post(
    endpoint: Endpoint, messages: Sequence[Message], parameters: dict[str, Any], timeout_s: float, max_bytes: int
) -> Reply:
    """Send one chat request and read its whole answer, whatever its status.

    Raises VlmTimeout, VlmUnreachable, AnswerTooLarge, VlmConfigError where the ``openai`` package is absent."""
    try:
        import httpx2
        import openai
    except ImportError as error:
        raise VlmConfigError(f"asking a VLM needs the Python package openai ({error})") from None
    _hush()
    deadline = time.monotonic() + timeout_s

    class Bounded(httpx2.SyncByteStream):
        """A body that ends in an error over ``max_bytes``, or when the time is over: a server that sends a byte a
        second never runs into a read timeout."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            seen = 0
            for chunk in self.stream:
                seen += len(chunk)
                if seen > max_bytes:
                    raise AnswerTooLarge(f"{endpoint.host}: the answer is over {max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise VlmTimeout(f"{endpoint.host}: no whole answer within {timeout_s:g} s")
                yield chunk

        def close(self) -> None:
            self.stream.close()

    def bound(response: Any) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise VlmError(f"{endpoint.host}: the answer is compressed, though it was asked not to be")
        response.stream = Bounded(response.stream)

    def bare(request: Any) -> None:
        for name in [name for name in request.headers if name.lower() not in _KEPT_HEADERS]:
            del request.headers[name]
        request.headers["accept-encoding"] = "identity"  # a small compressed body may be a very large one
        request.headers["user-agent"] = "grape"
        if endpoint.key:
            request.headers["authorization"] = f"Bearer {endpoint.key}"

    hooks: dict[str, list[Any]] = {"request": [bare], "response": [bound]}
    with openai.DefaultHttpxClient(
        follow_redirects=False, event_hooks=hooks, timeout=timeout_s, trust_env=not endpoint.loopback
    ) as http:
        client = openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.key or "none",
            admin_api_key="",
            timeout=timeout_s,
            max_retries=0,
            http_client=http,
        )
        try:
            # The untyped call: the typed one would fail on, or make something up for, what is no chat completion.
            body = {"model": endpoint.model, "messages": [message.to_wire() for message in messages], **parameters}
            response = client.post("/chat/completions", cast_to=httpx2.Response, body=body)
        except openai.APIStatusError as error:
            response = error.response
        except openai.APITimeoutError:
            raise VlmTimeout(f"{endpoint.host}: no answer within {timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            cause = one_line(endpoint.without_key(str(error.__cause__ or error)))
            raise VlmUnreachable(f"{endpoint.host}: {cause}") from None
        except openai.OpenAIError as error:
            raise VlmError(f"{endpoint.host}: {one_line(endpoint.without_key(str(error)))}") from None
        return Reply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.text)


def _hush() -> None:
    # At level DEBUG (a person's OPENAI_LOG, or a program's own root logger) these write requests down, picture and all.
    for name in ("openai", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
