import json
import threading
from datetime import UTC, datetime

import pytest

from grape_episode.reader import read_episode
from grape_episode.synthetic import make_episode, write_episode
from grape_reward.reviews import REVIEWS, ReviewError, add_review, read_reviews, review_of
from grape_reward.score import score_episode

NOON = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def test_the_last_word_counts_and_none_is_lost(tmp_path):
    assert review_of(tmp_path, "e") is None
    first = add_review(tmp_path, "e", "yes", "ana", "it lies there", NOON)
    second = add_review(tmp_path, "e", "no", "ben", "")
    assert read_reviews(tmp_path) == (first, second) and review_of(tmp_path, "e") == second
    assert (first.when, first.indicator, second.indicator) == ("2026-01-31T12:00:00Z", 1, 0)
    assert str(first) == "yes, by ana on 2026-01-31T12:00:00Z: it lies there"


def test_a_recording_is_never_written_to_and_its_score_hears_of_the_review(tmp_path):
    bag = write_episode(make_episode(1, steps=8, success=False, episode_id="e"), tmp_path / "e")
    before = {path.name: path.read_bytes() for path in bag.iterdir()}
    assert score_episode(read_episode(bag)).success == 0
    add_review(bag, "e", "yes", "ana", "the camera was blocked")
    assert {path.name: path.read_bytes() for path in bag.iterdir() if path.name != REVIEWS} == before
    score = score_episode(read_episode(bag))
    assert score.success == 1 and score.outcome == "success" and score.review.startswith("yes, by ana on 2")


def test_everybody_who_decides_at_the_same_time_gets_a_line(tmp_path):
    threads = [
        threading.Thread(target=add_review, args=(tmp_path, "e", "yes", f"person {n}", "x" * 500)) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {review.who for review in read_reviews(tmp_path)} == {f"person {n}" for n in range(20)}


def test_a_line_written_by_hand_without_a_line_break_stays_whole(tmp_path):
    first = add_review(tmp_path, "e", "yes", "ana", "", NOON)
    (tmp_path / REVIEWS).write_text(json.dumps(first.model_dump()))
    second = add_review(tmp_path, "e", "no", "ben", "")
    assert read_reviews(tmp_path) == (first, second)


WHOLE = '{"episode_id": "e", "success": "yes", "who": "a", "when": "2026-01-31T12:00:00Z", "note": ""}'


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "line 2: no JSON"),
        ("[]", "line 2: "),
        (
            '{"episode_id": "e", "success": "maybe", "who": "a", "when": "2026-01-31T12:00:00Z", "note": ""}',
            "success: ",
        ),
        (WHOLE.replace('"yes"', '"maybe"'), "success: "),
        (WHOLE.replace('"a"', '" "'), "who: "),
        (WHOLE.replace("2026-01-31T12:00:00Z", "today"), "when: "),
        (WHOLE.replace(', "note": ""', ""), "note: "),
    ],
)
def test_a_damaged_file_decides_nothing_and_is_not_added_to(tmp_path, line, named):
    add_review(tmp_path, "e", "yes", "ana", "", NOON)
    with (tmp_path / REVIEWS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ReviewError, match=rf"{REVIEWS}: .*{named}"):
        review_of(tmp_path, "e")
    before = (tmp_path / REVIEWS).read_bytes()
    with pytest.raises(ReviewError):
        add_review(tmp_path, "e", "no", "ben", "")
    assert (tmp_path / REVIEWS).read_bytes() == before


def test_reviews_of_another_episode_and_by_nobody_are_refused(tmp_path):
    add_review(tmp_path, "e", "yes", "ana", "")
    with pytest.raises(ReviewError, match="is about e, the bag holds f"):
        review_of(tmp_path, "f")
    with pytest.raises(ReviewError, match="who: "):
        add_review(tmp_path, "e", "yes", " ", "")
    with pytest.raises(ReviewError, match="nowhere"):
        add_review(tmp_path / "nowhere", "e", "yes", "ana", "")
