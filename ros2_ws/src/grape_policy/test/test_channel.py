import json
import socket
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grape_policy.channel import HEADER_LIMIT, Channel, ChannelClosed, ChannelError

TYPES = st.sampled_from(["<i4", "<f4", "<f8", "|u1", "<u8"])
ARRAYS = TYPES.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))
JSON = st.dictionaries(st.text().filter(lambda key: key != "arrays"), st.text() | st.integers() | st.none())


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    pair = tuple(Channel(end) for end in socket.socketpair())
    yield pair
    for channel in pair:
        channel.close()


@given(JSON, st.lists(ARRAYS, max_size=3))
def test_what_is_sent_arrives_bit_for_bit(header: dict, arrays: list) -> None:
    first, second = (Channel(end) for end in socket.socketpair())
    first.send(header, arrays)
    got, there = second.receive()
    first.close()
    second.close()
    assert got == header
    for one, other in zip(arrays, there, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def test_a_frame_larger_than_the_sockets_buffer_and_one_that_is_not_contiguous(ends: tuple[Channel, Channel]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    sender = threading.Thread(target=lambda: [ends[0].send({"n": n}, [frame[:, ::-1]]) for n in range(3)])
    sender.start()
    for n in range(3):
        header, (there,) = ends[1].receive()
        assert header == {"n": n}
        np.testing.assert_array_equal(there, frame[:, ::-1])
        there += 1  # the receiver's own
    sender.join(10.0)


def test_many_senders_do_not_mix_their_messages(ends: tuple[Channel, Channel]) -> None:
    def send(which: int) -> None:
        for _ in range(20):
            ends[0].send({"which": which}, [np.full(50_000, which, np.uint8)])

    senders = [threading.Thread(target=send, args=(which,)) for which in range(3)]
    for sender in senders:
        sender.start()
    for _ in range(60):
        header, (there,) = ends[1].receive()
        assert (there == header["which"]).all()


def test_the_end_of_the_other_side_is_told_to_sender_and_receiver(ends: tuple[Channel, Channel]) -> None:
    ends[0].close()
    with pytest.raises(ChannelClosed):
        ends[1].receive()
    with pytest.raises(ChannelClosed):
        ends[1].send({}, [np.zeros(10**6)])


def test_closing_wakes_the_own_receiver(ends: tuple[Channel, Channel]) -> None:
    told = threading.Event()

    def receive() -> None:
        with pytest.raises(ChannelClosed):
            ends[0].receive()
        told.set()

    threading.Thread(target=receive, daemon=True).start()
    ends[0].close()
    assert told.wait(5.0)


def test_a_message_that_breaks_off_is_an_end() -> None:
    raw, end = socket.socketpair()
    raw.sendall(struct.pack("<I", 50) + b'{"arrays"')
    raw.close()
    with pytest.raises(ChannelClosed):
        Channel(end).receive()


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        json.dumps({"arrays": [["|O", [1]]]}).encode(),
        json.dumps({"arrays": [["<f4", [-1]]]}).encode(),
        json.dumps({"arrays": [["<f4", [2**40]]]}).encode(),
        json.dumps({"arrays": [["no type", [1]]]}).encode(),
        b" " * (HEADER_LIMIT + 1),
    ],
)
def test_other_bytes_are_no_message(header: bytes) -> None:
    raw, end = socket.socketpair()
    threading.Thread(target=raw.sendall, args=(struct.pack("<I", len(header)) + header[:1000],)).start()
    with pytest.raises(ChannelError):
        Channel(end).receive()
    raw.close()
