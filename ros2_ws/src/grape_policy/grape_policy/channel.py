"""Messages between the policy node and its inference process, over a stream socket.

On the wire: the header's length (uint32, little endian), the header (UTF-8 JSON) and, one after the other, the raw
bytes of the arrays, whose types and shapes the header lists under ``arrays``. Nothing received is run or unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<I")
HEADER_LIMIT, ARRAY_LIMIT = 1 << 20, 1 << 32
"""Bytes of a header and of an array."""


class ChannelClosed(ConnectionError):
    """The other end is gone."""


class ChannelError(ValueError):
    """Bytes that are no message of this protocol."""


class Channel:
    """One end. Any thread may send, one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()

    def send(self, header: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> None:
        """``header``: what JSON can hold. Raises ChannelClosed."""
        held = [np.asarray(array, order="C") for array in arrays]
        text = json.dumps({**header, "arrays": [[array.dtype.str, array.shape] for array in held]}).encode()
        with self._sending:
            try:
                self._socket.sendall(_LENGTH.pack(len(text)) + text)
                for array in held:
                    if array.size:
                        self._socket.sendall(array.data.cast("B"))
            except OSError as problem:
                raise ChannelClosed(str(problem)) from None

    def receive(self) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """The next message. Raises ChannelClosed at the end, also within a message; ChannelError for other bytes."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > HEADER_LIMIT:
            raise ChannelError(f"a header of {length} bytes")
        try:
            header = json.loads(bytes(self._exactly(length)))
            listed = [(np.dtype(kind), tuple(map(int, shape))) for kind, shape in header.pop("arrays")]
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            raise ChannelError(f"no message: {problem}") from None
        arrays = []
        for kind, shape in listed:
            size = kind.itemsize * math.prod(shape)
            if kind.hasobject or min(shape, default=0) < 0 or size > ARRAY_LIMIT:
                raise ChannelError(f"an array {kind} of shape {shape}")
            arrays.append(np.frombuffer(self._exactly(size), kind).reshape(shape))
        return header, arrays

    def close(self) -> None:
        """Both directions: the other end, and a thread that waits in :meth:`receive`, meet ChannelClosed."""
        with contextlib.suppress(OSError):  # the other end has closed
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exactly(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            try:
                count = self._socket.recv_into(view)
            except OSError as problem:
                raise ChannelClosed(str(problem)) from None
            if count == 0:
                raise ChannelClosed("end of stream")
            view = view[count:]
        return buffer
