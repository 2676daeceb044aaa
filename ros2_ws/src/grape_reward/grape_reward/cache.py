"""Answers of a vision-language model by the content of the question: one file each, named by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from grape_reward.files import write_whole
from grape_reward.vlm_messages import Endpoint, Message

VERSION = 1


class CachedAnswer(BaseModel):
    """What is kept of an answer. ``question`` is the file's own name: a file that was renamed or mixed up is not
    taken."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: int
    question: str
    model: str
    text: str


def question_hash(endpoint: Endpoint, messages: Sequence[Message], parameters: Mapping[str, Any]) -> str:
    """sha256 hex over address, model, parameters, and every message with the hashes of its images. The key does not
    enter."""
    question = {
        "version": VERSION,
        "base_url": endpoint.base_url,
        "model": endpoint.model,
        "messages": [message.to_record() for message in messages],
        "parameters": dict(parameters),
    }
    text = json.dumps(question, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Cache:
    """Answers under ``folder``, which is made with the first one. Only whole, usable answers are put in."""

    folder: Path

    def get(self, question: str) -> CachedAnswer | None:
        """The answer to the question of this hash; None where there is none, or its file is damaged."""
        try:
            answer = CachedAnswer.model_validate_json(self._path(question).read_bytes())
        except (OSError, ValidationError):
            return None
        return answer if (answer.version, answer.question) == (VERSION, question) else None

    def put(self, question: str, model: str, text: str) -> None:
        path = self._path(question)
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = CachedAnswer(version=VERSION, question=question, model=model, text=text)
        write_whole(path, answer.model_dump_json(indent=1) + "\n")

    def _path(self, question: str) -> Path:
        return self.folder / question[:2] / f"{question}.json"
