"""A bag that was cut off, copied up to its last whole chunk. ``python -m grape_episode.recover SRC DST``."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from grape_episode.bag import Bag, BagScan
from grape_episode.episode import CutOffError, EpisodeError
from grape_episode.reader import bag_file, check_first, checked_records


@dataclass(frozen=True)
class Recovery:
    """What was saved: ``messages`` in the new bag ``path``; ``lost_bytes`` at the end of the old file were not."""

    messages: int
    lost_bytes: int
    path: Path


def recover(path: Path, out: Path) -> Recovery:
    """Copies the whole chunks of the bag ``path`` (folder or .mcap file) into the new bag folder ``out``.

    The original is only read. Raises EpisodeError naming the file if there is nothing whole in it, if it is not the
    bag of an episode, or if ``out`` exists; then nothing is left at ``out``."""
    file, out = bag_file(path), Path(out)
    if out.exists():
        raise EpisodeError(f"{out}: exists already; recover writes into a new folder")
    scan = BagScan(file)
    bag: Bag | None = None
    try:
        try:
            for record in checked_records(scan):
                if bag is None:
                    check_first(file, record)
                    bag = Bag(out)
                bag.write(record.topic, record.type_name, record.data, record.log_time)
        except CutOffError:
            pass  # what came before it is whole
        if bag is None:
            raise EpisodeError(f"{file}: nothing to recover: no whole chunk of messages")
        bag.close(scan.notes)
    except KeyError as error:
        shutil.rmtree(out, ignore_errors=True)
        raise EpisodeError(f"{file}: message type {error} is unknown") from error
    except OSError as error:
        shutil.rmtree(out, ignore_errors=True)
        raise EpisodeError(f"{out}: {error.strerror}") from error
    return Recovery(bag.messages, max(0, scan.size - scan.whole), out)


def main(arguments: list[str] | None = None) -> int:
    """One line of JSON; status 1 and one line on stderr where there is nothing to save."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 2:
        print("usage: python -m grape_episode.recover SRC DST", file=sys.stderr)
        return 2
    try:
        done = recover(Path(given[0]), Path(given[1]))
    except EpisodeError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"messages": done.messages, "lost_bytes": done.lost_bytes, "path": str(done.path)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
