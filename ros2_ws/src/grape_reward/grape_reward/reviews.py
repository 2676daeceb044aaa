"""What people decided about episodes that the predicate of success cannot: an append-only file beside the bag's data.

``reviews.jsonl`` in the bag's folder holds one JSON object a line, oldest first; the last one decides. The recording
itself is never written to."""

from __future__ import annotations

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grape_reward.errors import RewardError
from grape_reward.files import read_bounded
from grape_reward.printable import one_line

REVIEWS = "reviews.jsonl"
_MAX_BYTES = 1 << 20


class ReviewError(RewardError):
    """A file of reviews that cannot be used, or a review that cannot be made; the text begins with the file."""


class Review(BaseModel):
    """One person's word. ``episode_id``: which episode it is about, whatever its folder is called; ``when``: UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    episode_id: str = Field(min_length=1)
    success: Literal["yes", "no"]
    who: str = Field(min_length=1, max_length=200, pattern=r"\S")
    when: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    note: str = Field(max_length=2000)

    @property
    def indicator(self) -> int:
        """Eq. 12: 1 or 0."""
        return int(self.success == "yes")

    def __str__(self) -> str:
        note = f": {one_line(self.note)}" if self.note else ""
        return f"{self.success}, by {one_line(self.who)} on {self.when}{note}"


def read_reviews(bag: Path) -> tuple[Review, ...]:
    """The reviews of a bag (its folder), oldest first; none where there is no file.

    Raises ReviewError naming file, line and field: a damaged file decides nothing."""
    path = bag / REVIEWS
    data = read_bounded(path, _MAX_BYTES, ReviewError, empty=(FileNotFoundError, NotADirectoryError))
    return tuple(_parsed(path, number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip())


def review_of(bag: Path, episode_id: str) -> Review | None:
    """The word that counts on an episode in a bag, None where nobody has said anything.

    Raises ReviewError, also for a file of reviews of another episode."""
    reviews = read_reviews(bag)
    if not reviews:
        return None
    if strange := next((review for review in reviews if review.episode_id != episode_id), None):
        raise ReviewError(f"{bag / REVIEWS}: is about {one_line(strange.episode_id)}, the bag holds {episode_id}")
    return reviews[-1]


def add_review(
    bag: Path, episode_id: str, success: Literal["yes", "no"], who: str, note: str, when: datetime | None = None
) -> Review:
    """Append a review to a bag's file. Raises ReviewError."""
    path = bag / REVIEWS
    moment = (when or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        review = Review(episode_id=episode_id, success=success, who=who, when=moment, note=note)
    except ValidationError as error:
        raise ReviewError(f"{path}: {_first(error)}") from None
    review_of(bag, episode_id)  # nothing is appended behind what cannot be read
    line = json.dumps(review.model_dump(), ensure_ascii=False).encode() + b"\n"
    try:
        with path.open("ab") as stream:
            # two people who decide at the same time both get their line
            fcntl.flock(stream, fcntl.LOCK_EX)
            if stream.tell() and not _ends_whole(path):
                line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ReviewError(f"{path}: {error.strerror or error}") from None
    return review


def _ends_whole(path: Path) -> bool:
    """Whether the last line, perhaps written by hand, ends in a line break."""
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"


def _parsed(path: Path, number: int, line: bytes) -> Review:
    try:
        told = json.loads(line)
    except ValueError as error:
        raise ReviewError(f"{path}: line {number}: no JSON: {one_line(str(error))}") from None
    try:
        return Review.model_validate(told)
    except ValidationError as error:
        raise ReviewError(f"{path}: line {number}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    told = error.errors()[0]
    where = ".".join(map(str, told["loc"]))
    return one_line(f"{where}: {told['msg']}" if where else told["msg"])
