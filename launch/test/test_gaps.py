"""Lost control ticks, counted from the stamps of the steps."""

from grape.gaps import Tick, gaps


def ticks(*stamps: float, episode: str = "e", seqs: tuple[int, ...] = ()) -> list[Tick]:
    seqs = seqs or (0,) * len(stamps)
    return [Tick(episode, i, round(s * 1e9), "", q) for i, (s, q) in enumerate(zip(stamps, seqs, strict=True))]


def test_a_steady_run_lost_nothing() -> None:
    got = gaps(ticks(0.0, 0.2, 0.41, 0.6, seqs=(0, 0, 1, 1)), 0.2)
    assert got.lost_ticks == 0 and got.swaps == 1 and got.steps == 4 and 1.0 < got.longest < 1.1


def test_every_missing_tick_counts() -> None:
    assert gaps(ticks(0.0, 0.2, 0.8, 1.0), 0.2).lost_ticks == 2
    assert gaps(ticks(0.0, 0.31), 0.2).lost_ticks == 1


def test_the_time_between_episodes_is_no_gap() -> None:
    assert gaps([*ticks(0.0, 0.2), *ticks(9.0, 9.2, episode="f", seqs=(3, 3))], 0.2).lost_ticks == 0
    assert gaps([], 0.2).steps == 0
