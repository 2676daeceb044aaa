"""Bags to episodes. ``python -m grape_episode.reader BAG`` prints one line of JSON."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from grape_episode import messages, topics
from grape_episode.bag import MAGIC, BagScan, Record
from grape_episode.episode import (
    GATE_NONE,
    HOMING,
    TOKENS,
    CutOffError,
    Episode,
    EpisodeError,
    GateEvent,
    Identity,
    Outcome,
    Series,
    Step,
    World,
    step_problems,
)
from grape_episode.keypoints import Sample, keypoint_series
from grape_episode.typestore import typestore


def find_bags(root: Path) -> list[Path]:
    """Folders of all bags at or under ``root``, sorted; empty where there are none."""
    return sorted({file.parent for file in Path(root).rglob("*.mcap")})


def bag_file(path: Path) -> Path:
    """The one MCAP file of a bag (its folder or the file itself). Raises EpisodeError."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise EpisodeError(f"{path}: no such bag")
    files = sorted(path.glob("*.mcap"))
    if len(files) != 1:
        raise EpisodeError(f"{path}: holds {len(files)} .mcap files, a bag of an episode holds one")
    return files[0]


def read_identity(path: Path) -> Identity:
    """The identity alone, from the first chunk; works on a bag that was cut off, too. Raises EpisodeError."""
    file = bag_file(path)
    for record in checked_records(BagScan(file)):
        check_first(file, record)
        return messages.identity_of(decode(file, record))
    raise EpisodeError(f"{file}: no messages")


def read_episode(path: Path, images: bool = True) -> Episode:
    """A bag (folder or .mcap file) as an Episode; ``images`` False leaves the pictures on the disk.

    What is missing in a whole bag is listed in ``problems``. A bag that was cut off, is damaged or is no bag of an
    episode raises EpisodeError."""
    file = bag_file(path)
    scan = BagScan(file)
    gather = _Gather(file, images)
    for record in checked_records(scan):
        gather.add(record)
    check_end(file)
    return gather.episode(scan.notes)


def check_first(file: Path, record: Record) -> None:
    """Raises EpisodeError unless ``record``, the first of the file, is an identity."""
    if record.topic != topics.EPISODE:
        raise EpisodeError(f"{file}: no identity: the first message is on {record.topic}, not on {topics.EPISODE}")


def cut_off(file: Path) -> str:
    """The message for a bag without an end."""
    return f"{file}: cut off: `grape recover {file.parent} COPY` saves what is whole"


def check_end(file: Path) -> None:
    """Raises CutOffError unless the file ends as an MCAP file does."""
    with open(file, "rb") as stream:
        stream.seek(max(0, file.stat().st_size - len(MAGIC)))
        if stream.read() != MAGIC:
            raise CutOffError(cut_off(file))


def checked_records(scan: BagScan) -> Iterator[Record]:
    """The scan's records; any fault of the file becomes an EpisodeError that says what to do."""
    with open(scan.path, "rb") as stream:
        magic = stream.read(len(MAGIC))
    if magic != MAGIC:
        what = "is empty" if not magic else "is not an MCAP file"
        raise EpisodeError(f"{scan.path}: {what}")
    try:
        yield from scan.records()
    except EpisodeError:
        raise
    except OSError as error:
        raise EpisodeError(f"{scan.path}: {error.strerror}") from error
    except Exception as error:  # the libraries raise a dozen unrelated types on damaged bytes
        raise CutOffError(f"{cut_off(scan.path)} ({type(error).__name__} after byte {scan.whole})") from error


def check_type(file: Path, record: Record) -> None:
    """Raises EpisodeError naming file and topic if one of our topics holds another type than it should."""
    expected = topics.DATA_TYPES.get(record.topic)
    if expected is not None and record.type_name != expected:
        raise EpisodeError(f"{file}: {record.topic} holds {record.type_name}, expected {expected}")


def decode(file: Path, record: Record) -> Any:
    """The message of a record on one of our topics. Raises EpisodeError naming file and topic."""
    check_type(file, record)
    try:
        return typestore().deserialize_cdr(record.data, record.type_name)
    except Exception as error:
        raise EpisodeError(f"{file}: {record.topic}: not a {record.type_name}: {error}") from error


def header_stamp(data: bytes) -> int:
    """Header stamp in nanoseconds of a CDR message that begins with a std_msgs/Header, without decoding the rest."""
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return seconds * 1_000_000_000 + nanoseconds


class _Gather:
    """Collects what an Episode holds from the records of one file."""

    def __init__(self, file: Path, images: bool) -> None:
        self.file, self.images = file, images
        self.identity: Identity | None = None
        self.outcome: Outcome | None = None
        self.problems: list[str] = []
        self.pictures: dict[int, bytes] = {}
        self.steps: list[Any] = []
        self.gate: list[GateEvent] = []
        self.worlds: list[tuple[int, World]] = []
        self.keypoints: list[Sample] = []
        self.samples: dict[str, tuple[list[int], list]] = {
            topic: ([], []) for topic in (topics.CURRENT_POSE, topics.JOINT_STATES, topics.WRENCH, topics.OPERATOR_STEP)
        }
        self.handlers: dict[str, Callable[[Any], None]] = {
            topics.EPISODE: self._identity,
            topics.OUTCOME: self._outcome,
            topics.POLICY_STEP: self._step,
            topics.GATE_STATUS: self._gate,
            topics.WORLD_STATUS: self._world,
            topics.CURRENT_POSE: self._pose,
            topics.JOINT_STATES: self._joints,
            topics.KEYPOINTS: self._keypoints,
            topics.WRENCH: self._wrench,
            topics.OPERATOR_STEP: self._operator,
        }

    def add(self, record: Record) -> None:
        if self.identity is None:
            check_first(self.file, record)
        if self.outcome is not None and "the outcome is not the last message" not in self.problems:
            self.problems.append("the outcome is not the last message")
        if record.topic == topics.MODEL_INPUT:
            self.pictures[header_stamp(record.data)] = record.data if self.images else b""
        elif handler := self.handlers.get(record.topic):
            handler(decode(self.file, record))

    def _identity(self, message: Any) -> None:
        identity = messages.identity_of(message)
        if self.identity is None:
            self.identity = identity
        elif identity.episode_id != self.identity.episode_id:
            self.problems.append(f"another episode was announced within: {identity.episode_id}")

    def _ours(self, message: Any) -> bool:
        return self.identity is not None and message.episode_id == self.identity.episode_id

    def _outcome(self, message: Any) -> None:
        if self._ours(message):
            self.outcome = messages.outcome_of(message)

    def _step(self, message: Any) -> None:
        if self._ours(message):
            self.steps.append(message)
        else:
            self.problems.append(f"step {message.step} of another episode: {message.episode_id}")

    def _gate(self, message: Any) -> None:
        if not self._ours(message):
            return
        if message.verdict != GATE_NONE or not self.gate or self.gate[-1].state != message.state:
            self.gate.append(messages.gate_of(message))

    def _world(self, message: Any) -> None:
        if self._ours(message) or not message.episode_id:
            self.worlds.append((messages.stamp_of(message), messages.world_of(message)))

    def _sample(self, topic: str, message: Any, values: Any) -> None:
        stamps, rows = self.samples[topic]
        stamps.append(messages.stamp_of(message))
        rows.append(values)

    def _pose(self, message: Any) -> None:
        p, q = message.pose.position, message.pose.orientation
        self._sample(topics.CURRENT_POSE, message, (p.x, p.y, p.z, q.x, q.y, q.z, q.w))

    def _wrench(self, message: Any) -> None:
        f, t = message.wrench.force, message.wrench.torque
        self._sample(topics.WRENCH, message, (f.x, f.y, f.z, t.x, t.y, t.z))

    def _joints(self, message: Any) -> None:
        if topics.KNUCKLE_JOINT in message.name:
            knuckle = message.position[list(message.name).index(topics.KNUCKLE_JOINT)]
            self._sample(topics.JOINT_STATES, message, (topics.gripper_width(float(knuckle)),))

    def _operator(self, message: Any) -> None:
        # whatever episode it names: it moved the arm within this one
        if message.kind == messages.MOVE and message.source != HOMING:
            whole = len(message.action) == TOKENS
            self._sample(topics.OPERATOR_STEP, message, tuple(message.action) if whole else (np.nan,) * TOKENS)

    def _keypoints(self, message: Any) -> None:
        names = tuple(message.names)
        if len(message.points) != len(names):
            raise EpisodeError(f"{self.file}: {topics.KEYPOINTS}: {len(message.points)} points, {len(names)} names")
        if len(message.confidence) not in (0, len(names)):
            told = f"{len(message.confidence)} confidences, {len(names)} names"
            raise EpisodeError(f"{self.file}: {topics.KEYPOINTS}: {told}")
        # who says nothing of confidence is believed
        confidence = message.confidence if len(message.confidence) else np.ones(len(names))
        points = [(p.x, p.y, p.z) for p in message.points]
        self.keypoints.append(Sample(messages.stamp_of(message), names, points, confidence))

    def _series(self, topic: str, *shape: int) -> Series:
        stamps, rows = self.samples[topic]
        return Series(np.array(stamps, np.int64), np.array(rows, np.float64).reshape(len(rows), *shape))

    def _image(self, stamp: int) -> np.ndarray | None:
        data = self.pictures.get(stamp)
        if not data:
            return None
        message = decode(self.file, Record(topics.MODEL_INPUT, topics.IMAGE_TYPE, 0, data))
        size = message.height * message.width * 3
        if message.encoding != "rgb8" or message.step != message.width * 3 or len(message.data) != size:
            raise EpisodeError(
                f"{self.file}: {topics.MODEL_INPUT}: {message.width}x{message.height} {message.encoding} "
                f"of {len(message.data)} bytes, expected packed rgb8"
            )
        return np.asarray(message.data, np.uint8).reshape(message.height, message.width, 3)

    def episode(self, notes: tuple[str, ...]) -> Episode:
        if self.identity is None:
            raise EpisodeError(f"{self.file}: no messages")
        steps: list[Step] = []
        for message in self.steps:
            try:
                steps.append(messages.step_of(message, self._image(messages.stamp_of(message))))
            except ValueError as error:
                raise EpisodeError(f"{self.file}: {topics.POLICY_STEP}: {error}") from error
        problems = step_problems(self.identity, tuple(steps), self.outcome, set(self.pictures))
        last = self.outcome.stamp if self.outcome else None
        worlds = [world for stamp, world in self.worlds if last is None or stamp <= last]
        begun = min((step.stamp for step in steps), default=0)
        keypoints, confidence, renamed = keypoint_series(self.keypoints, begun)
        return Episode(
            identity=self.identity,
            steps=tuple(steps),
            outcome=self.outcome,
            tcp=self._series(topics.CURRENT_POSE, 7),
            gripper=self._series(topics.JOINT_STATES, 1),
            keypoints=keypoints,
            wrench=self._series(topics.WRENCH, 6),
            gate=tuple(self.gate),
            world=worlds[-1] if worlds else None,
            problems=tuple(dict.fromkeys([*self.problems, *renamed, *problems, *notes])),
            path=self.file.parent,
            confidence=confidence,
            operator=self._series(topics.OPERATOR_STEP, TOKENS),
        )


def main(arguments: list[str] | None = None) -> int:
    """One line of JSON about a bag; status 1 and one line on stderr where it cannot be read."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print("usage: python -m grape_episode.reader BAG", file=sys.stderr)
        return 2
    try:
        episode = read_episode(Path(given[0]), images=False)
    except EpisodeError as error:
        print(error, file=sys.stderr)
        return 1
    about = {
        "episode_id": episode.identity.episode_id,
        "task": episode.identity.task,
        "initial_state": episode.identity.initial_state,
        "steps": len(episode.steps),
        "end_reason": episode.outcome.end_reason if episode.outcome else None,
        "success_reward": episode.outcome.success_reward if episode.outcome else None,
        "complete": episode.complete,
        "problems": list(episode.problems),
    }
    print(json.dumps(about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
