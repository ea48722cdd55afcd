"""The rule by which a judge has turned down while the reward rose."""

import math

import pytest

from rsft_jax.metrics import judge_turned

RISING = [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("judges", "patience", "best"),
    [
        ([0, 1, 2, 3, 4], 1, None),  # agrees
        ([0, 1, 2, 3, 2], 1, 3),
        ([0, 1, 2, 3, 2], 2, None),  # one round is not two
        ([0, 1, 3, 2, 2.5], 2, 2),  # below its best for two, though it rises again
        ([0, 3, 2, 2.5, 3.1], 2, None),  # above it again
        ([0, 1, 2, 3, 3], 1, 3),  # level is not above: the first of equals is the best
        ([5, 1, 2, 3, 4], 4, 0),  # the untuned policy's may be the best
    ],
)
def test_by_hand(judges, patience, best):
    assert judge_turned(RISING, judges, patience) == best


def test_a_judge_that_falls_with_the_reward_is_no_turn():
    assert judge_turned([0, 3, 2], [0, 3, 2]) is None
    assert judge_turned([0, 3, 3], [0, 3, 2]) is None
    assert judge_turned([0, 3, 3.1], [0, 3, 2]) == 1


def test_rounds_without_a_figure_say_nothing():
    assert judge_turned([0, 1, 2], [math.nan, 3, 2]) == 1
    assert judge_turned([0, 1, math.nan], [0, 3, 2]) is None
    assert judge_turned([math.nan], [math.nan]) is None
    assert judge_turned([], []) is None


def test_bad_arguments():
    with pytest.raises(ValueError, match="of the same rounds, got 2 and 1"):
        judge_turned([1, 2], [1])
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        judge_turned([1], [1], 0)
