"""Which bags a run takes: whole ones of the serving policy, once, when enough have come."""

from __future__ import annotations

from pathlib import Path

from grape_episode.synthetic import make_episode, write_episode
from grape_trainer.watch import Watch


def bag(folder: Path, name: str, adapter: str = "") -> str:
    return str(
        write_episode(make_episode(seed=1, steps=2, episode_id=name, adapter_id=adapter), folder / name).resolve()
    )


def test_bags_are_due_in_number_and_used_once(tmp_path: Path) -> None:
    folder, ledger = tmp_path / "bags", tmp_path / "runs/watched.jsonl"
    folder.mkdir()
    watch = Watch(folder, ledger, 2)
    one = bag(folder, "one")
    bag(folder, "other", "f" * 64)
    assert watch.due("") == () and watch.look("").fresh == (one,)
    two = bag(folder, "two")
    assert watch.due("") == (one, two)
    watch.tried((one, two))
    assert watch.due("") == (), "no adapter came of them"
    three, four = bag(folder, "three"), bag(folder, "four")
    assert watch.due("") == tuple(sorted((one, two, three, four)))
    watch.trained((one, two, three, four))
    assert watch.due("") == () and Watch(folder, ledger, 1).due("") == (), "after a restart, too"
    assert len(Watch(folder, ledger, 1).due("f" * 64)) == 1


def test_a_bag_that_is_still_recorded_or_was_cut_off_is_left_alone(tmp_path: Path) -> None:
    whole = bag(tmp_path, "one")
    file = next(Path(whole).glob("*.mcap"))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    watch = Watch(tmp_path, tmp_path / "ledger", 1)
    assert watch.look("").unfinished == (whole,) and watch.due("") == ()
    file.write_bytes(content)
    assert watch.due("") == (whole,)
