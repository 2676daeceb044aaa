from __future__ import annotations

import json
import random

import pytest

from grape_episode import recover as module
from grape_episode import topics
from grape_episode.bag import Bag, BagScan
from grape_episode.episode import CutOffError, EpisodeError, differences
from grape_episode.reader import read_episode
from grape_episode.recover import recover
from grape_episode.synthetic import episode_messages, make_episode, write_episode
from grape_episode.typestore import typestore

EPISODE = make_episode(seed=5, steps=10, image_size=16)


@pytest.fixture(scope="module")
def chunked(tmp_path_factory):
    """A bag with a chunk for every step, its records, and the offsets at which chunks ended."""
    bag = Bag(tmp_path_factory.mktemp("bags") / "whole")
    ends = {}
    for n, (topic, _, message) in enumerate(episode_messages(EPISODE)):
        name = topics.DATA_TYPES[topic]
        bag.write(topic, name, bytes(typestore().serialize_cdr(message, name)), n)
        if topic in (topics.EPISODE, topics.GATE_STATUS):
            bag.flush()
            ends[bag.messages] = bag.bytes_safe
    bag.close()
    return bag.file, list(BagScan(bag.file).records()), ends


def offsets(size, ends):
    spread = [round(size * n / 24) for n in range(24)]
    random.seed(0)
    return sorted({*spread, *ends, *(end - 1 for end in ends), *random.sample(range(size), 6), size - 1, size - 8})


def test_every_cut_gives_a_prefix_of_whole_chunks_or_a_refusal(chunked, tmp_path):
    file, records, ends = chunked
    data = file.read_bytes()
    refused = []
    cuts = offsets(len(data), list(ends.values()))
    assert len(cuts) > 30
    for cut in cuts:
        source = tmp_path / f"cut{cut}" / "bag_0.mcap"
        source.parent.mkdir()
        source.write_bytes(data[:cut])
        with pytest.raises(EpisodeError, match=r"bag_0\.mcap: (cut off|is empty|is not)"):
            read_episode(source)
        out = tmp_path / f"saved{cut}"
        try:
            done = recover(source.parent, out)
        except EpisodeError as error:
            refused.append(cut)
            assert str(error).startswith(str(source))
            assert not out.exists()
        else:
            promised = max((count for count, end in ends.items() if end <= cut), default=1)
            saved = list(BagScan(next(out.glob("*.mcap"))).records())
            assert done.messages == len(saved) >= promised
            assert saved == records[: len(saved)]
            assert 0 <= done.lost_bytes < cut
            episode = read_episode(out)
            assert differences(episode.steps, EPISODE.steps[: len(episode.steps)]) == []
            if len(saved) < len(records):
                assert not episode.complete
        assert source.read_bytes() == data[:cut]
    # all are saved from the first flush, which holds the identity, on
    assert max(refused) < min(ends.values())


def test_damage_in_the_middle_keeps_what_came_before(chunked, tmp_path):
    file, records, ends = chunked
    data = bytearray(file.read_bytes())
    half = sorted(ends.items())[5]
    data[half[1] + 200] ^= 0xFF
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(data)
    with pytest.raises(CutOffError):
        read_episode(broken)
    done = recover(broken, tmp_path / "out")
    assert done.messages == half[0]
    assert list(BagScan(tmp_path / "out" / "out_0.mcap").records()) == records[: half[0]]


def test_a_whole_bag_is_copied_with_the_remarks_of_its_recorder(tmp_path):
    bag = write_episode(make_episode(steps=3), tmp_path / "bag")
    done = recover(bag, tmp_path / "copy")
    assert done.lost_bytes == 0
    assert read_episode(done.path).complete


def test_it_never_writes_over_anything(tmp_path):
    bag = write_episode(make_episode(steps=1), tmp_path / "bag")
    for out in (bag, tmp_path):
        with pytest.raises(EpisodeError, match="exists already"):
            recover(bag, out)


def test_the_command_line(chunked, tmp_path, capsys):
    file, _, _ = chunked
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(file.read_bytes()[:-100])
    assert module.main([str(cut), str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["messages"] > 0
    assert module.main([str(cut), str(tmp_path / "out")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert module.main([]) == 2
