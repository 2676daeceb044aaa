from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from grape_episode import topics, writer
from grape_episode.bag import BagScan
from grape_episode.episode import CutOffError
from grape_episode.reader import read_episode, read_identity
from grape_episode.recover import recover
from grape_episode.synthetic import episode_messages, make_episode, write_episode
from grape_episode.testing import wait_for
from grape_episode.typestore import typestore
from grape_episode.writer import BagWriter, DiskFullError

EPISODE = make_episode(steps=4)


def serialised(episode=EPISODE):
    return [
        (topic, topics.DATA_TYPES[topic], bytes(typestore().serialize_cdr(message, topics.DATA_TYPES[topic])))
        for topic, _, message in episode_messages(episode)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The MCAP file from which the children take their messages."""
    return next(write_episode(EPISODE, tmp_path_factory.mktemp("whole") / "bag").glob("*.mcap"))


def test_what_was_put_is_there_in_order_after_closing(tmp_path):
    bag = BagWriter(tmp_path / "bag")
    times = [10, 5, 7, 30]  # the clock of the machine may be set back
    for n, (topic, name, data) in enumerate(serialised()):
        assert bag.put(topic, name, data, times[n % 4])
    bag.close()
    records = list(BagScan(tmp_path / "bag" / "bag_0.mcap").records())
    assert [(r.topic, r.type_name, r.data) for r in records] == serialised()
    assert [r.log_time for r in records] == sorted(r.log_time for r in records)
    assert bag.problems == ()
    assert bag.messages == len(records)
    assert read_episode(tmp_path / "bag").complete


def test_a_put_message_is_in_the_file_within_the_flush_interval(tmp_path):
    bag = BagWriter(tmp_path / "bag", flush_seconds=1.0)
    file = tmp_path / "bag" / "bag_0.mcap"
    delays = []
    for topic, name, data in serialised()[:2]:
        size = file.stat().st_size
        put = time.monotonic()
        bag.put(topic, name, data, 1)
        wait_for(lambda size=size: file.stat().st_size > size, "the file to grow", 10)
        delays.append(time.monotonic() - put)
    assert min(delays) < 1.0, delays
    assert read_identity(file) == EPISODE.identity  # a whole chunk, before the file has its end
    bag.close()


CHILD = """
import sys, time
from pathlib import Path
from grape_episode.bag import BagScan
from grape_episode.writer import BagWriter
bag = BagWriter(Path(sys.argv[1]), flush_seconds=0.3)
for topic, name, _, data in list(BagScan(Path(sys.argv[2])).records())[:-1]:
    bag.put(topic, name, data, time.time_ns())
print("put", flush=True)
time.sleep(60)
"""


def test_a_killed_writer_leaves_everything_that_is_older_than_the_flush_interval(tmp_path, whole):
    command = [sys.executable, "-c", CHILD, str(tmp_path / "bag"), str(whole)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"put\n"
        file = tmp_path / "bag" / "bag_0.mcap"
        wait_for(lambda: sum(1 for _ in _whole(file)) == len(serialised()) - 1, "the flush", 10)
        child.send_signal(signal.SIGKILL)
    with pytest.raises(CutOffError):
        read_episode(tmp_path / "bag")
    done = recover(tmp_path / "bag", tmp_path / "saved")
    assert done.messages == len(serialised()) - 1
    saved = read_episode(tmp_path / "saved")
    assert len(saved.steps) == 4
    assert saved.problems == ("no outcome: the recording ended before the episode did",)


def _whole(file):
    try:
        yield from BagScan(file).records()
    except Exception:
        return


def test_too_little_room_is_refused_with_folder_free_and_floor(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "free_bytes", lambda folder: 5_000_000)
    with pytest.raises(DiskFullError, match=f"{tmp_path}/bag: 5 MB free, below the floor of 6 MB"):
        BagWriter(tmp_path / "bag", disk_floor=6_000_000)
    assert not (tmp_path / "bag").exists()
    BagWriter(tmp_path / "bag", disk_floor=5_000_000).close()


def test_the_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path):
    assert writer.free_bytes(tmp_path / "a" / "b" / "c") > 0


def test_a_disk_that_fills_up_ends_the_recording_and_keeps_what_is_there(tmp_path, monkeypatch):
    free = [100_000_000]
    monkeypatch.setattr(writer, "free_bytes", lambda folder: free[0])
    bag = BagWriter(tmp_path / "bag", flush_seconds=0.05, disk_floor=90_000_000)
    messages = serialised()
    for topic, name, data in messages[:6]:
        bag.put(topic, name, data, 1)
    free[0] = 1_000_000
    wait_for(lambda: bag.failed or not bag.put(*messages[6], 1), "the writer to notice", 10)
    assert not bag.put(*messages[7], 1)
    bag.close()
    assert any("recording ended: 1 MB free on the disk, below 45 MB" in line for line in bag.problems)
    assert any("messages dropped" in line for line in bag.problems)
    episode = read_episode(tmp_path / "bag")  # it has its end
    assert not episode.complete
    assert any("recording ended" in line for line in episode.problems)


FULL = """
import resource, sys, time
from pathlib import Path
from grape_episode.bag import BagScan
from grape_episode.writer import BagWriter
messages = list(BagScan(Path(sys.argv[2])).records())
bag = BagWriter(Path(sys.argv[1]), flush_seconds=0.05, compression="none")
for message in messages[:8]:
    bag.put(message.topic, message.type_name, message.data, 1)
file = Path(sys.argv[1]) / "bag_0.mcap"
while bag.messages < 8 or file.stat().st_size < 5000:
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 100, resource.RLIM_INFINITY))
while bag.put(messages[8].topic, messages[8].type_name, messages[8].data, 1):
    time.sleep(0.01)
bag.close()
print(*bag.problems, sep="\\n")
"""


def test_a_write_that_fails_leaves_a_file_that_can_be_recovered(tmp_path, whole):
    command = [sys.executable, "-c", FULL, str(tmp_path / "bag"), str(whole)]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert b"bag_0.mcap: recording ended: File too large" in done.stdout
    assert recover(tmp_path / "bag", tmp_path / "saved").messages >= 8
    assert (tmp_path / "bag" / "metadata.yaml").exists()


def test_a_disk_that_is_too_slow_drops_and_counts_and_never_blocks(tmp_path, monkeypatch):
    topic, name, data = serialised()[0]
    bag = BagWriter(tmp_path / "bag", queue_bytes=10 * len(data), flush_seconds=0.01)
    release = time.monotonic() + 0.5
    monkeypatch.setattr(bag._bag, "flush", lambda: time.sleep(max(0.0, release - time.monotonic())))
    results = []
    while time.monotonic() < release - 0.1:
        begun = time.monotonic()
        results.append(bag.put(topic, name, data, 1))
        assert time.monotonic() - begun < 0.3
        if results.count(False) > 20:
            break
    bag.close()
    assert bag.problems == (f"{topic}: {results.count(False)} messages dropped",)
    assert bag.messages == results.count(True)


def test_an_unknown_type_ends_the_recording_with_its_name(tmp_path):
    bag = BagWriter(tmp_path / "bag")
    bag.put("/x", "nobody/msg/Knows", b"\0\1\0\0", 1)
    bag.close()
    assert bag.failed
    assert "nobody/msg/Knows" in bag.problems[0]
