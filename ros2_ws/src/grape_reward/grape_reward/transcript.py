"""What was said between us and a vision-language model, for whoever audits a proposal later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grape_reward.files import write_whole
from grape_reward.vlm_messages import Message


@dataclass
class Round:
    """One answer of ``subject`` (scene, costs) and what was found wrong with it. ``sent``: the messages that were new
    in this round, images by their hash. ``question``: hash of all that was asked. ``error``: why there is no answer."""

    subject: str
    number: int
    sent: list[dict[str, Any]]
    question: str = ""
    model: str = ""
    cached: bool = False
    answer: str = ""
    findings: list[str] = field(default_factory=list)
    error: str = ""


@dataclass
class Transcript:
    """``endpoint``: host that was asked, ``about``: what was asked for."""

    endpoint: str
    about: dict[str, Any]
    began: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    rounds: list[Round] = field(default_factory=list)

    def open(self, subject: str, number: int, sent: Sequence[Message]) -> Round:
        """Begin a round; it is kept even if no answer comes."""
        one = Round(subject, number, [message.to_record() for message in sent])
        self.rounds.append(one)
        return one

    def write(self, path: Path) -> None:
        """As JSON, in one step."""
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")
