"""The socket under a model server: what may come in, who may connect, and what is left out of vla-eval's own.

vla-eval's protocol is msgpack with arrays as bytes. Its decoder hands an image's bytes to whichever of Pillow's readers
claims them, some of which start other programs; its server takes connections from any web page and changes settings on
a GET. So every message is checked before vla-eval decodes it, and the server is set up here.
"""

from __future__ import annotations

import io
import ipaddress
import json
import logging
import math
import socket
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

import anyio
import msgpack
import numpy as np
from PIL import Image
from vla_eval.model_servers.base import ModelServer

# the session's state machine of the pinned release; what surrounds it in `serve_async` is replaced below
from vla_eval.model_servers.serve import _handle_connection
from vla_eval.protocol.messages import Message, MessageType, pack_message
from websockets.asyncio.server import serve as websocket_server

from grape.console import one_line, ours

log = logging.getLogger(__name__)

MAX_MESSAGE = 16 << 20
"""Bytes of a message: several cameras' images at full size."""
MAX_SIDE = 4096
"""Pixels of an image's side."""
CLOSING = 2.0
"""Seconds that clients have at the end."""
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}
KINDS = frozenset("biuf")
POLICY_VIOLATION = 1008


class WireError(ValueError):
    """A message that is not decoded; the text says what is wrong with it."""


class BindError(Exception):
    """An address that cannot be listened on; the text names it."""


def check_message(data: bytes | str) -> None:
    """Raises WireError unless ``data`` is a message of vla-eval's protocol with nothing in it but maps, lists,
    numbers, text, bytes, arrays of numbers, and images as raw uint8, PNG or JPEG."""
    if isinstance(data, str):
        raise WireError("text message: only msgpack is spoken here")
    try:
        message = msgpack.unpackb(data, raw=False, object_hook=_check_map, ext_hook=_no_extension, max_ext_len=0)
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as problem:
        raise WireError(f"not msgpack: {one_line(problem)}") from None
    if not isinstance(message, dict):
        raise WireError(f"message: expected a map, got {type(message).__name__}")
    for name, kind in (("type", str), ("payload", dict), ("seq", int)):
        if not isinstance(message.get(name), kind):
            raise WireError(f"message: field {name}: expected {kind.__name__}")
    if message["type"] not in {known.value for known in MessageType}:
        raise WireError(f"message: field type: {message['type'][:40]!r} is unknown")
    recording = message["payload"].get("recording") or {}
    if not isinstance(recording, dict) or not all(isinstance(text, str | None) for text in recording.values()):
        raise WireError("message: field recording: expected a map of texts")


def _no_extension(code: int, data: bytes) -> Any:
    raise WireError(f"msgpack extension {code}: only plain msgpack is spoken here")


def _check_map(entry: dict[Any, Any]) -> Any:
    if "__image__" in entry:
        _check_image(entry)
    elif "__ndarray__" in entry:
        _check_array(entry, KINDS)
    return entry


def _check_array(entry: dict[Any, Any], kinds: frozenset[str]) -> None:
    try:
        # a list or a map would be a structured type
        if not isinstance(entry["dtype"], str):
            raise TypeError("dtype is no text")
        dtype = np.dtype(entry["dtype"])
        shape = [size for size in entry["shape"] if isinstance(size, int) and size >= 0]
        fits = len(shape) == len(entry["shape"]) <= 8 and math.prod(shape) * dtype.itemsize == len(entry["data"])
        plain = isinstance(entry["data"], bytes)
    except (KeyError, TypeError, ValueError, SyntaxError) as problem:
        raise WireError(f"array: not readable: {problem}") from None
    if dtype.kind not in kinds:
        raise WireError(f"array: dtype {str(dtype)[:40]!r} is refused: only numbers are decoded")
    if not (fits and plain):
        raise WireError("array: data, dtype and shape do not fit together")


def _check_image(entry: dict[Any, Any]) -> None:
    kind, data = entry.get("format"), entry.get("data")
    if kind == "raw":
        if entry.get("dtype") not in ("|u1", "uint8"):
            raise WireError(f"image: dtype {str(entry.get('dtype'))[:40]!r}: raw images are uint8")
        _check_array(entry, frozenset("u"))
        return
    if kind not in MAGIC:
        raise WireError(f"image: format {str(kind)[:40]!r}: expected raw, png or jpeg")
    if not isinstance(data, bytes) or not data.startswith(MAGIC[kind]):
        raise WireError(f"image: what is called {kind} is none")
    try:
        with Image.open(io.BytesIO(data), formats=[kind.upper()]) as image:  # reads the header only
            if max(image.size) > MAX_SIDE:
                raise WireError(f"image: {image.width} x {image.height} is larger than {MAX_SIDE} x {MAX_SIDE}")
            if kind == "png":
                image.verify()  # its checksums
            else:
                image.load()
    except WireError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise WireError(f"image: unreadable {kind}: {problem}") from None


class CheckedSocket:
    """A websocket of which only checked messages are read; a wrong one is answered and ends the connection."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def send(self, data: bytes) -> None:
        await self._socket.send(data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._socket:
            try:
                check_message(data)
            except WireError as problem:
                log.warning("message refused: %s", problem)
                await self._socket.send(pack_message(Message(MessageType.ERROR, {"error": str(problem)})))
                await self._socket.close(POLICY_VIOLATION, str(problem)[:100])
                return
            yield data


class OneLine(logging.Filter):
    """Typed errors of clients' observations in one line; a bug keeps its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        problem = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if problem is not None and ours(problem):
            record.msg, record.args, record.exc_info = f"{record.getMessage()}: {one_line(problem)}", None, None
        return True


def bind(host: str, port: int) -> socket.socket:
    """A socket on that address, which does not listen yet; port 0 takes a free one. Raises BindError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as problem:
        raise BindError(f"--host {host}: {problem}") from None
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as problem:
        found.close()
        raise BindError(f"--port {port}: {host}:{port} cannot be used: {problem.strerror or problem}") from None
    return found


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def _control(connection: Any, request: Any) -> Any:
    """HTTP beside the websocket: readiness, and nothing that changes a setting."""
    path = request.path.partition("?")[0]
    if path == "/health":
        response = connection.respond(HTTPStatus.OK, json.dumps({"status": "ok"}) + "\n")
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response
    if path == "/config":
        return connection.respond(HTTPStatus.FORBIDDEN, "settings are given on the command line only\n")
    return None


async def serve_on(server: ModelServer, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve for ever; ``ready`` is called once clients are accepted. Raises BindError where another server has begun to
    listen on the address."""

    begun = anyio.Event()

    async def handle(connection: Any) -> None:
        await begun.wait()
        await _handle_connection(CheckedSocket(connection), server)

    try:
        listening = await websocket_server(
            handle,
            sock=bound,
            process_request=_control,
            origins=[None],  # a browser states an origin: web pages are not served
            max_size=MAX_MESSAGE,
            compression=None,  # images are compressed already
            ping_interval=None,  # a client in a long simulation step answers no ping
        )
    except OSError as problem:
        raise BindError(f"--port {bound.getsockname()[1]}: cannot be used: {problem.strerror or problem}") from None
    try:
        async with anyio.create_task_group() as tasks:
            await server.on_serve_start(tasks)
            begun.set()
            ready()
            await anyio.sleep_forever()
    finally:
        listening.close()
        with anyio.move_on_after(CLOSING, shield=True):  # clients are told, actions under way are sent
            await listening.wait_closed()
