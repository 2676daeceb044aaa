"""What may come over the socket: vla-eval's own messages, and nothing that starts more than arithmetic."""

from __future__ import annotations

import io
import logging
import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("vla_eval", reason="the dependency group `benchmark` is not installed (make setup-benchmark)")
import msgpack
from vla_eval.protocol.image_codec import encode_image
from vla_eval.protocol.messages import Message, MessageType, pack_message, unpack_message

from grape.benchmark_conventions import ObservationError
from grape.model_wire import MAX_SIDE, BindError, OneLine, WireError, bind, check_message, is_loopback

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def message(payload: Any, **other: Any) -> bytes:
    fields = {"type": "observation", "payload": payload, "seq": 1, "timestamp": 0.0} | other
    return msgpack.packb({name: value for name, value in fields.items() if value is not ...})


def picture(kind: str, size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["raw", "png", "jpeg"])
def test_the_clients_observations_pass(kind: Any) -> None:
    observation = {
        "images": {"agentview": encode_image(RGB, kind)},
        "states": np.zeros((2, 4), np.float32),
        "done": np.array(True),
        "task_description": "pick up the bowl",
    }
    data = pack_message(Message(MessageType.OBSERVATION, observation, seq=3))
    check_message(data)
    image = unpack_message(data).payload["images"]["agentview"]
    assert image.shape == RGB.shape and (kind == "jpeg" or np.array_equal(image, RGB))


@pytest.mark.parametrize("kind", list(MessageType))
def test_every_type_of_message_passes(kind: MessageType) -> None:
    check_message(pack_message(Message(kind, {"task": {"name": "a"}, "recording": {"sid": "a", "eid": None}})))


def array(dtype: Any, data: Any = b"\0" * 8, shape: Any = (1,)) -> bytes:
    return message({"state": {"__ndarray__": True, "dtype": dtype, "data": data, "shape": shape}})


def image(**entry: Any) -> bytes:
    return message({"images": [{"deep": {"__image__": True, "shape": [8, 8, 3], **entry}}]})


HOSTILE = {
    "text": ('{"type": "hello"}', "text message"),
    "no msgpack": (b"\xc1\xc1", "not msgpack"),
    "cut off": (message({"a": "b" * 100})[:-20], "not msgpack"),
    "nothing": (b"", "not msgpack"),
    "more behind": (message({}) + b"\x01", "not msgpack"),
    "a list": (msgpack.packb([1, 2]), "expected a map, got list"),
    "nested without end": (b"\x91" * 100_000, "not msgpack"),
    "no payload": (message(...), "field payload"),
    "a payload that is a list": (message([1]), "field payload"),
    "a type that is unknown": (message({}, type="run"), "'run' is unknown"),
    "a seq that is text": (message({}, seq="1"), "field seq"),
    "a recording with maps": (message({"recording": {"sid": {}}}), "field recording"),
    "an extension": (message({"a": msgpack.ExtType(4, b"x")}), "not msgpack|extension"),
    "keys that are numbers": (message({1: 2}), "not msgpack"),
    "objects": (array("O"), "dtype 'object' is refused"),
    "structured objects": (array("O,f4", b"\0" * 12), "is refused"),
    "a structured type as a list": (array([["a", "O"]]), "dtype is no text"),
    "text array": (array("<U2"), "is refused"),
    "an unknown dtype": (array("zz"), "array: not readable"),
    "too little data": (array("<f8", b"\0" * 4), "do not fit"),
    "a negative size": (array("<f8", b"\0" * 8, [-1]), "do not fit"),
    "a shape of texts": (array("<f8", b"\0" * 8, ["1"]), "do not fit"),
    "data that is text": (array("|u1", "abcdefgh", [8]), "do not fit"),
    "no dtype": (message({"a": {"__ndarray__": True}}), "array: not readable"),
    "objects as a raw image": (image(format="raw", dtype="O", data=b"\0" * 192), "raw images are uint8"),
    "a raw image too short": (image(format="raw", dtype="|u1", data=b"\0" * 191), "do not fit"),
    "PostScript as PNG": (image(format="png", data=picture("EPS")), "what is called png is none"),
    "GIF as JPEG": (image(format="jpeg", data=picture("GIF")), "what is called jpeg is none"),
    "PNG as JPEG": (image(format="jpeg", data=picture("PNG")), "what is called jpeg is none"),
    "a format of its own": (image(format="tiff", data=picture("TIFF")), "format 'tiff'"),
    "a broken PNG": (image(format="png", data=picture("PNG")[:12]), "unreadable png"),
    "a damaged PNG": (image(format="png", data=picture("PNG")[:-20] + b"\0" * 20), "unreadable png"),
    "a JPEG cut off": (image(format="jpeg", data=picture("JPEG")[:-200]), "unreadable jpeg"),
    "a huge PNG": (image(format="png", data=picture("PNG", (MAX_SIDE + 1, 2))), "is larger than"),
    "an image without data": (image(format="png"), "what is called png is none"),
}


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_message_is_refused_before_it_is_decoded(data: Any, words: str) -> None:
    with pytest.raises(WireError, match=words):
        check_message(data)


def test_what_is_refused_would_have_reached_a_reader_that_starts_programs() -> None:
    """The reason for the check on images: Pillow takes PostScript, which it hands to another program."""
    with Image.open(io.BytesIO(picture("EPS"))) as opened:
        assert opened.format == "EPS"


GOOD = pack_message(
    Message(MessageType.OBSERVATION, {"images": {"a": RGB[:4, :4]}, "s": np.zeros(3), "words": "go"}, seq=1)
)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8))
def test_whatever_passes_is_a_message(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    try:
        check_message(bytes(data))
    except WireError:
        return
    unpack_message(bytes(data))


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        check_message(data)


def test_a_taken_port_and_an_unknown_host_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BindError, match=rf"--port {port}: 127.0.0.1:{port} cannot be used: Address already in use"):
            bind("127.0.0.1", port)
    with pytest.raises(BindError, match=r"--host no.such.host.invalid"):
        bind("no.such.host.invalid", 0)


@pytest.mark.parametrize(("host", "alone"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_loopback_is_told_from_the_network(host: str, alone: bool) -> None:
    with bind(host, 0) as bound:
        assert is_loopback(bound) is alone


@pytest.mark.parametrize(("error", "traced"), [(ObservationError("no\ncamera"), False), (KeyError("a bug"), True)])
def test_typed_errors_are_logged_in_one_line_and_bugs_with_their_traceback(error: Exception, traced: bool) -> None:
    record = logging.LogRecord("vla_eval", logging.ERROR, "", 0, "step %d", (3,), (type(error), error, None))
    assert OneLine().filter(record)
    assert bool(record.exc_info) is traced
    assert record.getMessage() == ("step 3" if traced else "step 3: no camera")
