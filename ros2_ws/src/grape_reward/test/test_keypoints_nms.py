import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grape_reward.keypoints.nms import intersection_over_union, suppress


@st.composite
def scored_boxes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    count = draw(st.integers(0, 12))
    side = st.integers(0, 12)
    corners = [[draw(side) for _ in range(4)] for _ in range(count)]
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners], dtype=float)
    scores = np.array([draw(st.sampled_from([0.1, 0.3, 0.5, 0.9])) for _ in range(count)])
    return boxes.reshape(-1, 4), scores, draw(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))


def counted_iou(one: np.ndarray, other: np.ndarray) -> float:
    """By counting the unit squares of whole-numbered boxes."""
    cells = [{(x, y) for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))} for b in (one, other)]
    union = cells[0] | cells[1]
    return len(cells[0] & cells[1]) / len(union) if union else 0.0


def by_brute_force(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: (-scores[index], index)):
        if all(counted_iou(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@given(scored_boxes())
def test_it_is_the_brute_force_one(case: tuple[np.ndarray, np.ndarray, float]) -> None:
    boxes, scores, threshold = case
    assert suppress(boxes, scores, threshold).tolist() == by_brute_force(boxes, scores, threshold)


@given(scored_boxes())
def test_overlap_is_the_counted_one_and_symmetric(case: tuple[np.ndarray, np.ndarray, float]) -> None:
    boxes, _, _ = case
    for one in boxes:
        found = intersection_over_union(one, boxes)
        assert found == pytest.approx([counted_iou(one, other) for other in boxes])
        assert found == pytest.approx([float(intersection_over_union(other, one[None])[0]) for other in boxes])


def test_of_equal_boxes_with_equal_scores_the_first_stays() -> None:
    assert suppress(np.array([[0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]]), np.array([0.5, 0.5, 0.9]), 0.5).tolist() == [
        2,
        0,
    ]
