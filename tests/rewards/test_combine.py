"""The weighted sum: its arithmetic, its terms, and what it refuses."""

import numpy as np
import pytest

from rsft_jax.rewards import from_text_score, weighted_sum

PROMPTS = ["a", "b"]
COMPLETIONS = [["", "x"], ["xx", "xxx"]]


def constant(values):
    return lambda prompts, completions: np.asarray(values)


def test_weighted_sum_is_the_sum_by_hand():
    reward = weighted_sum(
        {"length": (from_text_score(len), 2.0), "other": (constant([[1, 2], [3, 4]]), -0.5)}
    )
    np.testing.assert_array_equal(reward(PROMPTS, COMPLETIONS), [[-0.5, 1.0], [2.5, 4.0]])


def test_weighted_sum_scores_once_when_the_terms_are_kept():
    calls = []

    def counted(prompts, completions):
        calls.append(1)
        return np.ones((2, 2))

    reward = weighted_sum({"counted": (counted, 3), "length": (from_text_score(len), 1)})
    terms = reward.terms(PROMPTS, COMPLETIONS)
    total = reward.combine(terms)
    assert list(terms) == ["counted", "length"]
    assert len(calls) == 1
    np.testing.assert_array_equal(total, reward(PROMPTS, COMPLETIONS))


@pytest.mark.parametrize("weight", [1.0, -1.0, 0.0])
def test_weighted_sum_is_nan_where_any_term_is(weight):
    broken = constant([[np.nan, 1.0], [np.inf, 1.0]])
    reward = weighted_sum({"good": (from_text_score(len), 1.0), "broken": (broken, weight)})
    total = reward(PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(np.isnan(total), [[True, False], [True, False]])


def test_weighted_sum_names_the_term_of_a_wrong_shape():
    # Without the check, shape (1, 2) would spread over both prompts in silence.
    reward = weighted_sum({"flat": (constant([[1.0, 2.0]]), 1.0)})
    with pytest.raises(ValueError, match=r"reward term flat must have the shape .* got \(1, 2\)"):
        reward(PROMPTS, COMPLETIONS)


def test_combine_refuses_other_terms():
    reward = weighted_sum({"length": (from_text_score(len), 1.0)})
    with pytest.raises(ValueError, match=r"terms must be \['length'\], got \['size'\]"):
        reward.combine({"size": np.ones((1, 1))})


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "at least one reward"),
        ({"a": (len, float("nan"))}, "weight of reward term a must be finite, got nan"),
        ({"a": (len, float("inf"))}, "must be finite"),
        ({"a": (len, "1")}, "must be a number, got '1'"),
        ({"a": (len, True)}, "must be a number, got True"),
        ({"a": (3, 1.0)}, "reward term a must be a function, got 3"),
    ],
)
def test_weighted_sum_refuses_bad_terms(terms, message):
    with pytest.raises(ValueError, match=message):
        weighted_sum(terms)
