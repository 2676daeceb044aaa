import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from grape_policy.codec import ActionCodec, NormStats, gripper_opening, gripper_value
from grape_policy.config import GRIPPERS, ConfigError

CODEC = ActionCodec(32000)
STATS = NormStats(
    {"a": {"action": {"q01": [-0.1] * 5 + [0.2, 0.0], "q99": [0.3] * 5 + [0.2, 1.0], "mask": [True] * 6 + [False]}}}
)
unit = st.floats(-1.0, 1.0, allow_nan=False)


@given(unit)
def test_decoding_is_within_a_bin_of_what_was_encoded(value: float) -> None:
    token = CODEC.encode(value)
    assert 31744 <= token <= 31999
    assert abs(CODEC.decode(token) - value) <= 2.0 / 255 + 1e-12


@given(unit, unit)
def test_higher_values_have_lower_ids(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert CODEC.encode(high) <= CODEC.encode(low)


@given(st.integers(31745, 31999))
def test_a_decoded_token_encodes_to_itself(token: int) -> None:
    assert CODEC.encode(CODEC.decode(token)) == token


def test_the_ends_and_foreign_tokens() -> None:
    assert CODEC.encode([-5.0, 5.0]).tolist() == [31999, 31744]
    # Two ids share the topmost bin centre; ids of text give an end of the range.
    assert CODEC.decode(31744) == CODEC.decode(31745) == pytest.approx(254 / 255)
    assert CODEC.decode(17) == pytest.approx(254 / 255)
    assert CODEC.decode(32001) == pytest.approx(-254 / 255)


@given(arrays(float, 7, elements=st.floats(-0.1, 0.2)))
def test_normalising_and_back(action: np.ndarray) -> None:
    action[5] = 0.2  # constant in the statistics
    assert np.allclose(STATS.unnormalise(STATS.normalise(action)), action, atol=1e-7)


def test_a_constant_dimension_becomes_zero_and_the_gripper_is_not_scaled() -> None:
    normalised = STATS.normalise([0.0, 0.0, 0.0, 0.0, 0.0, 7.0, 1.0])
    assert normalised[5] == 0.0
    assert normalised[6] == 1.0


def test_constant_is_what_the_minimum_and_maximum_say() -> None:
    """A dimension that is nearly always 0 has equal percentiles and is no constant."""
    action = {"q01": [-1.0] * 5 + [0.0, 0.0], "q99": [1.0] * 5 + [0.0, 1.0], "min": [-2.0] * 7, "max": [2.0] * 7}
    action["min"][0] = action["max"][0] = 0.5
    normalised = NormStats({"a": {"action": action}}).normalise([0.5] * 5 + [1.0, 0.5])
    assert normalised.tolist() == pytest.approx([0.0, 0.5, 0.5, 0.5, 0.5, 1.0, 0.0], abs=1e-7)


def test_the_grippers_conventions_meet_in_the_opening() -> None:
    """0.25 open, as each convention says it; OPENVLA.md: LIBERO's environments take -1 for open, +1 for closed."""
    said = {"open_is_one": 0.25, "closed_is_one": 0.75, "minus_one_open": 0.5}
    assert said.keys() == GRIPPERS.keys()
    for convention, value in said.items():
        action = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, value])
        opening = gripper_opening(action[None], convention)
        assert np.array_equal(opening[0, :6], action[:6])
        assert opening[0, 6] == pytest.approx(0.25, abs=1e-15)
        assert action[6] == value  # the argument is left alone


@given(arrays(float, (3, 7), elements=st.floats(-1.0, 2.0)), st.sampled_from(list(GRIPPERS)))
def test_a_grippers_value_comes_back(actions: np.ndarray, convention: str) -> None:
    assert np.allclose(gripper_value(gripper_opening(actions, convention), convention), actions, atol=1e-12)


@given(arrays(float, 7, elements=st.floats(-1.0, 2.0)))
def test_openvlas_own_convention_changes_no_bit(action: np.ndarray) -> None:
    assert np.array_equal(gripper_opening(action, "open_is_one"), action)


def test_unknown_keys_and_broken_statistics_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'b' is unknown.*'a'"):
        STATS.of("b")
    with pytest.raises(ConfigError, match=r"where: k: action\.q01"):
        NormStats({"k": {"action": {"q01": [1.0], "q99": [1.0] * 7}}}, "where")
    with pytest.raises(ConfigError, match="where: k"):
        NormStats({"k": {}}, "where")
