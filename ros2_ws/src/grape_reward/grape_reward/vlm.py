"""A chat with a vision-language model at any OpenAI-compatible endpoint: messages in, text out."""

from __future__ import annotations

import email.utils
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from grape_reward.cache import Cache, question_hash
from grape_reward.printable import one_line
from grape_reward.vlm_http import RETRIED_STATUS, Reply, VlmTimeout, VlmUnreachable, post
from grape_reward.vlm_messages import Endpoint, Message, VlmError


class VlmStatusError(VlmError):
    """The endpoint answered with an HTTP error; ``status`` is its number."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class VlmRefusal(VlmError):
    """The model declined to answer; the text quotes it."""


class MalformedAnswer(VlmError):
    """An answer that is not what a chat endpoint answers: no JSON, no choices, no text."""


class AnswerCutOff(VlmError):
    """An answer that ended at a token limit. Not tried again: it would end there again."""


@dataclass(frozen=True)
class ClientSettings:
    """Seconds and counts. ``timeout_s``: for one request. ``attempts``: requests for one answer at most. ``wait_s``:
    before the second, doubled before each further one, at most ``max_wait_s`` (a longer Retry-After ends the asking).
    ``patience_s``: no request begins later than this after the first. ``max_answer_bytes``: of one HTTP body.
    ``temperature``, ``max_tokens``: sent only where set, since not every model takes them."""

    timeout_s: float = 120.0
    attempts: int = 4
    wait_s: float = 1.0
    max_wait_s: float = 60.0
    patience_s: float = 600.0
    max_answer_bytes: int = 1 << 20
    temperature: float | None = None
    max_tokens: int | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What goes into the request beside model and messages, and into the question's hash."""
        named = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Clock:
    """The time: ``now`` in seconds from any origin, ``wall`` in seconds since 1970, ``jitter`` in [0, 1)."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True)
class Answer:
    """``text`` of the answer, ``model`` as the endpoint names it, ``question``: hash of what was asked, ``cached``:
    whether it was answered earlier and nothing was sent."""

    text: str
    model: str
    question: str
    cached: bool


class _ChatMessage(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _ChatMessage
    finish_reason: str | None = None


class _Completion(BaseModel):
    """The fields of a chat completion that are used; servers add others of their own."""

    choices: list[_Choice] = Field(min_length=1)
    model: str = ""


@dataclass(frozen=True)
class ChatClient:
    """``say`` is given a line before anything leaves the machine, and before each further attempt. ``cache``: None for
    none. ``fresh``: ask even what the cache knows, and keep the new answer."""

    endpoint: Endpoint
    say: Callable[[str], None]
    cache: Cache | None = None
    fresh: bool = False
    settings: ClientSettings = field(default_factory=ClientSettings)
    clock: Clock = field(default_factory=Clock)

    def ask(self, messages: Sequence[Message]) -> Answer:
        """The model's answer to a conversation.

        Time-outs, broken connections, malformed answers and HTTP 408, 409, 425, 429 and 5xx are tried again. Raises
        VlmRefusal, VlmStatusError, VlmTimeout, VlmUnreachable, MalformedAnswer, AnswerTooLarge, each in one line
        without the key."""
        question = question_hash(self.endpoint, messages, self.settings.parameters)
        if self.cache is not None and not self.fresh and (known := self.cache.get(question)) is not None:
            return Answer(known.text, known.model, question, cached=True)
        self.say(self._leaving(messages))
        text, model = self._tried(messages)
        if self.cache is not None:
            self.cache.put(question, model, text)
        return Answer(text, model, question, cached=False)

    def _leaving(self, messages: Sequence[Message]) -> str:
        images = [image for message in messages for image in message.images]
        pictures = "".join(f", image {i.width}x{i.height} ({len(i.data)} bytes)" for i in images)
        letters = sum(len(message.text) for message in messages)
        warning = " UNENCRYPTED" if self.endpoint.unencrypted else ""
        return f"sending to {self.endpoint.host}{warning} (model {self.endpoint.model}): {letters} characters{pictures}"

    def _tried(self, messages: Sequence[Message]) -> tuple[str, str]:
        limits, began = self.settings, self.clock.now()
        for attempt in range(1, limits.attempts + 1):
            asked: float | None = None
            try:
                reply = post(self.endpoint, messages, limits.parameters, limits.timeout_s, limits.max_answer_bytes)
                if reply.status == 200:
                    return self._read(reply)
                problem: VlmError = VlmStatusError(self._told(reply), reply.status)
                if reply.status not in RETRIED_STATUS:
                    raise problem
                asked = retry_after(reply.headers, self.clock.wall())
            except (VlmTimeout, VlmUnreachable, MalformedAnswer) as error:
                problem = error
            if attempt == limits.attempts:
                raise type(problem)(f"{problem} (attempt {attempt} of {attempt})", *_status(problem)) from None
            backed_off = min(limits.wait_s * 2 ** (attempt - 1) * (1.0 + 0.25 * self.clock.jitter()), limits.max_wait_s)
            wait = backed_off if asked is None else asked
            if wait > limits.max_wait_s:
                raise type(problem)(f"{problem}; it asks to wait {wait:.0f} s", *_status(problem)) from None
            if self.clock.now() - began + wait > limits.patience_s:
                raise type(problem)(f"{problem}; given up after {attempt} attempts", *_status(problem)) from None
            self.say(f"{problem}; again in {wait:.1f} s")
            self.clock.sleep(wait)
        raise VlmError(f"{self.endpoint.host}: {limits.attempts} attempts allowed, none made")

    def _read(self, reply: Reply) -> tuple[str, str]:
        host, clean = self.endpoint.host, self.endpoint.without_key
        try:
            completion = _Completion.model_validate(json.loads(reply.text))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            raise MalformedAnswer(f"{host}: not a chat completion: {where}: {first['msg']}") from None
        except (ValueError, RecursionError):
            raise MalformedAnswer(f"{host}: the answer is not JSON: {one_line(clean(reply.text), 80)!r}") from None
        choice = completion.choices[0]
        if choice.message.refusal:
            raise VlmRefusal(f"{host}: the model refused: {one_line(clean(choice.message.refusal))}")
        if choice.finish_reason == "content_filter":
            raise VlmRefusal(f"{host}: a content filter withheld the answer")
        if choice.finish_reason == "length":
            raise AnswerCutOff(f"{host}: the answer was cut off at the endpoint's token limit")
        # JSON can spell half of a surrogate pair, which no file can hold.
        text = (choice.message.content or "").encode("utf-8", "replace").decode("utf-8")
        if not text.strip():
            raise MalformedAnswer(f"{host}: the answer holds no text")
        return clean(text), one_line(clean(completion.model), 100) or self.endpoint.model

    def _told(self, reply: Reply) -> str:
        """An HTTP error in one line: its number, and what the server says of it."""
        if 300 <= reply.status < 400:
            said = "redirects; name the final address in GRAPE_VLM_BASE_URL"
        else:
            said = _said(reply.text)
        said = one_line(self.endpoint.without_key(said), 200)
        return f"{self.endpoint.host}: HTTP {reply.status}{': ' if said else ''}{said}"


def _status(problem: VlmError) -> tuple[int, ...]:
    return (problem.status,) if isinstance(problem, VlmStatusError) else ()


def _said(body: str) -> str:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return body
    error = data.get("error", data) if isinstance(data, dict) else data
    message = error.get("message", error) if isinstance(error, dict) else error
    return message if isinstance(message, str) else json.dumps(message)


def retry_after(headers: dict[str, str], now: float) -> float | None:
    """Seconds that the endpoint asks to wait: Retry-After, as seconds or as a date (``now``: seconds since 1970).

    None where it says nothing, or nothing that can be read."""
    said = headers.get("retry-after", "").strip()
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(said).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds and abs(seconds) != float("inf") else None
