"""A bag on disk: MCAP with profile ros2 in a folder with rosbag2's metadata.yaml, as `ros2 bag` reads it.

Unlike rosbags' writer, this one ends a chunk on request, so that what was written can be made to survive a crash."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from mcap.records import Channel, Chunk, Message, Metadata, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType, Writer

from grape_episode.typestore import typestore

MAGIC = b"\x89MCAP0\r\n"
NOTE = "grape"
"""Name of the MCAP metadata record that holds the recorder's problems."""
COMPRESSIONS = {"none": CompressionType.NONE, "lz4": CompressionType.LZ4, "zstd": CompressionType.ZSTD}


class Record(NamedTuple):
    """One message as recorded: ``data`` is CDR with its encapsulation header, ``log_time`` nanoseconds."""

    topic: str
    type_name: str
    log_time: int
    data: bytes


class Bag:
    """Writes one bag, in the caller's thread. ``folder`` must not exist: FileExistsError names it.

    ``bytes_safe`` is the size of the file up to its last flush: that prefix survives a crash of the machine."""

    def __init__(self, folder: Path, compression: str = "zstd") -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self.file = self.folder / f"{self.folder.name}_0.mcap"
        self.messages = 0
        self._first = self._last = 0
        self._topics: dict[str, list] = {}  # topic: [channel, type name, count]
        self._schemas: dict[str, int] = {}
        self._stream = open(self.file, "xb")  # noqa: SIM115  closed by close() or abandon()
        self._writer = Writer(self._stream, compression=COMPRESSIONS[compression], enable_data_crcs=False)
        self._writer.start(profile="ros2", library="grape_episode")
        self.bytes_safe = 0
        self.flush()
        self._write_metadata()
        _sync_folder(self.folder)

    def write(self, topic: str, type_name: str, data: bytes, log_time: int) -> None:
        """Appends one message; a topic's first message brings its schema. Raises KeyError for an unknown type."""
        entry = self._topics.get(topic)
        if entry is None:
            entry = self._topics[topic] = [self._register(topic, type_name), type_name, 0]
        self._writer.add_message(entry[0], log_time, data, log_time, entry[2])
        entry[2] += 1
        self._first = min(self._first, log_time) if self.messages else log_time
        self._last = max(self._last, log_time)
        self.messages += 1

    def flush(self) -> None:
        """Ends the chunk and waits until the disk has it."""
        self._writer.flush()
        os.fdatasync(self._stream.fileno())
        self.bytes_safe = self._stream.tell()

    def close(self, problems: Iterable[str] = ()) -> None:
        """Ends the file with its summary; ``problems`` are kept in the file for the reader to list."""
        lines = list(problems)
        if lines:
            self._writer.flush()
            self._writer.add_metadata(NOTE, {"problems": json.dumps(lines)})
        self._writer.add_metadata("rosbag2", {"serialized_metadata": yaml.safe_dump(self._information())})
        self._writer.finish()
        self._stream.flush()
        os.fdatasync(self._stream.fileno())
        self.bytes_safe = self._stream.tell()
        self._stream.close()
        self._write_metadata()

    def abandon(self) -> None:
        """After an error of the disk: leaves the file at its last flush, without summary, for recovery."""
        with contextlib.suppress(OSError):  # the buffered rest has no room; it is cut off below
            self._stream.close()
        os.truncate(self.file, self.bytes_safe)

    def _register(self, topic: str, type_name: str) -> int:
        if type_name not in self._schemas:
            definition, _ = typestore().generate_msgdef(type_name, ros_version=2)
            self._schemas[type_name] = self._writer.register_schema(type_name, "ros2msg", definition.encode())
        about = {"offered_qos_profiles": "", "topic_type_hash": typestore().hash_rihs01(type_name)}
        return self._writer.register_channel(topic, "cdr", self._schemas[type_name], about)

    def _information(self) -> dict:
        name, span = self.file.name, self._last - self._first if self.messages else 0
        return {
            "version": 9,
            "storage_identifier": "mcap",
            "relative_file_paths": [name],
            "duration": {"nanoseconds": span},
            "starting_time": {"nanoseconds_since_epoch": self._first},
            "message_count": self.messages,
            "topics_with_message_count": [
                {
                    "topic_metadata": {
                        "name": topic,
                        "type": type_name,
                        "serialization_format": "cdr",
                        "offered_qos_profiles": [],
                        "type_description_hash": typestore().hash_rihs01(type_name),
                    },
                    "message_count": count,
                }
                for topic, (_, type_name, count) in self._topics.items()
            ],
            "compression_format": "",
            "compression_mode": "",
            "files": [
                {
                    "path": name,
                    "starting_time": {"nanoseconds_since_epoch": self._first},
                    "duration": {"nanoseconds": span},
                    "message_count": self.messages,
                },
            ],
            "custom_data": None,
            "ros_distro": "jazzy",
        }

    def _write_metadata(self) -> None:
        # rosbag2 wants it beside the file even when the recording was cut off, hence at the opening too
        draft = self.folder / "metadata.yaml.tmp"
        draft.write_text(yaml.safe_dump({"rosbag2_bagfile_information": self._information()}, sort_keys=False))
        draft.replace(self.folder / "metadata.yaml")


def _sync_folder(folder: Path) -> None:
    # a file survives a power cut only once its folder's entry is on the disk, too
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class BagScan:
    """Reads an MCAP file forwards, chunk by chunk, with checksums; whatever is cut off or damaged raises on the way.

    On the way ``whole`` is the offset behind the last whole record, a chunk being one; ``notes`` are the problems that
    its recorder left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.whole = 0
        self.notes: tuple[str, ...] = ()

    def records(self) -> Iterator[Record]:
        """Every message in the order written."""
        schemas: dict[int, Schema] = {}
        topics: dict[int, tuple[str, str]] = {}
        with open(self.path, "rb") as stream:
            reader = StreamReader(stream, emit_chunks=True, record_size_limit=self.size)
            for record in reader.records:
                if isinstance(record, Chunk):
                    parts = breakup_chunk(record, validate_crc=True)
                else:
                    parts = [record]
                    if isinstance(record, Metadata) and record.name == NOTE:
                        self.notes = tuple(json.loads(record.metadata["problems"]))
                self.whole = stream.tell()
                for part in parts:
                    if isinstance(part, Message):
                        topic, type_name = topics[part.channel_id]
                        yield Record(topic, type_name, part.log_time, part.data)
                    elif isinstance(part, Schema):
                        schemas[part.id] = part
                    elif isinstance(part, Channel):
                        topics[part.id] = (part.topic, schemas[part.schema_id].name if part.schema_id else "")
        self.whole = self.size
