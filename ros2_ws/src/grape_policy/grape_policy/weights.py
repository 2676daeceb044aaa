"""The weight files of a checkpoint: which they are, their hash, and their tensors one at a time."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from grape_policy.config import ConfigError, read_json

INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})\.safetensors")
TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CHUNK = 1 << 20

# For the reader to run: it takes tensors and nothing else from a pickle, but a pickle it is.
CONVERT = (
    "import glob, torch, safetensors.torch as s; [s.save_file({k: v.clone().contiguous() for k, v in "
    "torch.load(p, map_location='cpu', weights_only=True).items()}, p.rsplit('.', 1)[0] + '.safetensors') "
    "for p in glob.glob('*.bin')]"
)


class CheckpointError(Exception):
    """A folder that cannot be served; the text names the file or the keys."""


@dataclass
class Progress:
    """Counts over several files, and tells `report` (done, total)."""

    total: int
    report: Callable[[int, int], None] | None = None
    done: int = field(default=0, init=False)

    def advance(self, count: int = 1) -> None:
        self.done += count
        if self.report is not None:
            self.report(self.done, self.total)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: those of its index, without an index all of them, sorted by name.

    Raises CheckpointError for a shard that is missing, for pickled weights, or for no weights at all.
    """
    index = read_index(folder)
    if index is not None:
        files = sorted({folder / shard for shard in index.values()})
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise CheckpointError(f"{folder / INDEX}: shards are missing: {', '.join(missing)}")
        return files
    files = sorted(folder.glob("*.safetensors"))
    if files:
        _check_numbers(files)
        return files
    pickled = sorted(path for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{pickled[0]}: pickled weights can run code when they are read and are refused; {_way(pickled[0])}"
        )
    raise CheckpointError(f"{folder}: no *.safetensors file")


def _way(path: Path) -> str:
    if path.suffix == ".bin":
        return f'convert them once, in their folder, with: python -c "{CONVERT}"'
    return (
        "export them to Hugging Face's format with the code that wrote them (OpenVLA's own is "
        "vla-scripts/extern/convert_openvla_weights_to_hf.py), which saves *.safetensors"
    )


def read_index(folder: Path) -> dict[str, str] | None:
    """Tensor name -> file name by `model.safetensors.index.json`; None where there is none. Raises CheckpointError."""
    path = folder / INDEX
    if not path.exists():
        return None
    try:
        names = read_json(path).get("weight_map")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{path}: field weight_map is missing")
    for name, shard in names.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{path}: weight_map: {name} is in {shard!r}, which is no safetensors file of this folder"
            )
    return names


def _check_numbers(files: list[Path]) -> None:
    """Files that are numbered `-00001-of-00003` must be all there, index or not."""
    present = {path.name for path in files}
    for path in files:
        match = SHARD.fullmatch(path.name)
        if match is not None:
            stem, digits, count = match[1], len(match[2]), int(match[3])
            names = (f"{stem}-{number:0{digits}d}-of-{match[3]}.safetensors" for number in range(1, count + 1))
            missing = [name for name in names if name not in present]
            if missing:
                raise CheckpointError(f"{path.parent}: shards are missing: {', '.join(missing)}")


def file_hash(path: Path, progress: Progress) -> str:
    """sha256 hex of a file; progress counts its bytes. Raises CheckpointError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                progress.advance(len(chunk))
    except OSError as error:
        raise CheckpointError(f"{path}: not readable: {error.strerror}") from None
    return digest.hexdigest()


@dataclass(frozen=True)
class _Stored:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def _layout(path: Path) -> list[_Stored]:
    """The tensors of a file in the order of their bytes, which safetensors has checked to be without gap or overlap."""
    try:
        with safe_open(path, "pt", device="cpu") as file:
            stored = [(name, file.get_slice(name)) for name in file.offset_keys()]
            entries = [(name, part.get_dtype(), tuple(part.get_shape())) for name, part in stored]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from None
    for name, kind, _ in entries:
        if kind not in TYPES:
            raise CheckpointError(f"{path}: {name} is stored as {kind}; served are {', '.join(TYPES)}")
    return [_Stored(name, TYPES[kind], shape) for name, kind, shape in entries]


class TensorFile:
    """One safetensors file, to be read once from its beginning to its end, and hashed on the way.

    Read, not mapped: a mapping would count the whole file as this process's memory while it loads, and weights that
    are the mapping itself would end the process when the file is replaced.
    """

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError that names a file that is none."""
        self.path = path
        self.sha256 = ""  # hex, once all tensors have been read
        self._layout = _layout(path)

    def __len__(self) -> int:
        return len(self._layout)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor, one after the other. A tensor's memory is used again: copy what is to stay.

        Raises CheckpointError that names the file.
        """
        digest = hashlib.sha256()
        # Two in turn, so that one is read while the other is hashed, which takes the longest of all; together they are
        # no larger than the file.
        turns = (self._layout[::2], self._layout[1::2])
        buffers = deque(bytearray(max((stored.size for stored in turn), default=0)) for turn in turns)
        hashing: deque[Future[None]] = deque()
        try:
            with self.path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as beside:
                digest.update(self._header(file))
                for stored in self._layout:
                    if len(hashing) == len(buffers):
                        hashing.popleft().result()
                    part = memoryview(buffers[0])[: stored.size]
                    buffers.rotate()
                    self._fill(file, part)
                    hashing.append(beside.submit(digest.update, part))
                    yield stored.name, _view(part, stored)
                for last in hashing:
                    last.result()
                if file.read(1):
                    raise CheckpointError(f"{self.path}: not readable as safetensors: it changed while it was read")
        except OSError as error:
            raise CheckpointError(f"{self.path}: not readable: {error.strerror}") from None
        self.sha256 = digest.hexdigest()

    def _header(self, file: FileIO) -> bytes:
        length = bytearray(8)
        self._fill(file, memoryview(length))
        text = bytearray(min(int.from_bytes(length, "little"), file_size(self.path)))
        self._fill(file, memoryview(text))
        return bytes(length + text)

    def _fill(self, file: FileIO, part: memoryview) -> None:
        done = 0
        while done < len(part):
            count = file.readinto(part[done:])
            if not count:
                raise CheckpointError(f"{self.path}: not readable as safetensors: it ended while it was read")
            done += count


def _view(part: memoryview, stored: _Stored) -> Tensor:
    if not len(part):
        return torch.empty(stored.shape, dtype=stored.dtype)
    return torch.frombuffer(part, dtype=stored.dtype).view(stored.shape)


def file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path}: not readable: {error.strerror}") from None
