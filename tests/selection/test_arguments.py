"""What rules refuse, with the name, the range and the value in the message."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.selection import (
    Candidates,
    Law,
    at_most,
    chain,
    density_ratio,
    group_filter,
    importance_resample,
    make_rule,
    quantile,
    rso_finite,
    statistical_rejection,
    threshold,
    top_fraction,
    top_k,
)


def refused(*words):
    """Expects a ValueError whose message has all of these words, in this order."""
    return pytest.raises(ValueError, match=".*".join(re.escape(word) for word in words))


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf"), "1"])
def test_beta_out_of_range_is_refused(beta):
    for make in (
        statistical_rejection,
        lambda beta: rso_finite(beta, 1),
        lambda beta: importance_resample(1, beta),
    ):
        with refused("beta", repr(beta)):
            make(beta)
        if not isinstance(beta, str):
            with refused("beta"):
                make(np.array([1.0, beta]))


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_count_that_is_no_count_is_refused(k):
    for make in (top_k, at_most, lambda k: rso_finite(1.0, k), lambda k: importance_resample(k, 1)):
        with refused(repr(k)):
            make(k)


def test_more_than_there_are_candidates_is_refused_with_both_values():
    for rule in (top_k(9), rso_finite(1.0, 9), importance_resample(9, 1.0)):
        with refused("9", "8"):
            rule.select(
                jax.random.key(0),
                Candidates(rewards=jnp.zeros((3, 8)), valid=jnp.ones((3, 8), bool)),
            )


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: threshold(NAN), "minimum must be a number, not NaN, got nan"),
        (lambda: statistical_rejection(1.0, max_reward=NAN), "max_reward must be a finite number"),
        (lambda: statistical_rejection(1.0, max_reward=INF), "max_reward must be a finite number"),
        (lambda: density_ratio(), "log_envelope=None, rate=None"),
        (lambda: density_ratio(log_envelope=0.0, rate=0.5), "log_envelope=0.0, rate=0.5"),
        (lambda: density_ratio(log_envelope=NAN), "log_envelope must be a finite number"),
        (lambda: density_ratio(rate=0.0), r"rate must be in (0, 1), got 0.0"),
        (lambda: density_ratio(rate=NAN), r"rate must be in (0, 1), got nan"),
        (lambda: density_ratio(rate=1.5), r"rate must be in (0, 1), got 1.5"),
        (lambda: top_fraction(0.0), r"fraction must be in (0, 1], got 0.0"),
        (lambda: top_fraction(1.01), r"fraction must be in (0, 1], got 1.01"),
        (lambda: top_fraction(NAN), r"fraction must be in (0, 1], got nan"),
        (lambda: top_fraction("x"), r"fraction must be in (0, 1], got 'x'"),
        (lambda: top_fraction(0.5, "world"), "got 'world'"),
        (
            lambda: top_fraction(0.5, axis_name="x"),
            "axis_name must be None with scope=\"prompt\", got 'x'",
        ),
        (lambda: quantile(-0.1), r"level must be in [0, 1], got -0.1"),
        (lambda: quantile(NAN), r"level must be in [0, 1], got nan"),
        (lambda: group_filter(1.0, 0.0), "minimum must be < maximum, got 1.0 and 0.0"),
        (lambda: group_filter(NAN, 1.0), "minimum must be a number, not NaN, got nan"),
        (lambda: chain(), "at least one rule"),
        (lambda: make_rule("r", None, law=Law.EXACT, places={"last"}), "got ['last']"),
    ],
)
def test_bad_argument_is_refused(make, words):
    with refused(words):
        make()
