"""What is not known of a candidate is no verdict: log-probabilities, cuts, partial credit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.selection import (
    Candidates,
    Law,
    chain,
    correct,
    density_ratio,
    finished,
    num_partial,
    stage_names,
    threshold,
    top_k,
)

KEY = jax.random.key(0)
INF, NAN = np.inf, np.nan
#                        known  p = 0  p unknown   q unknown   q cannot have drawn it
LOG_TARGET = np.array([[0.0, -INF, NAN, INF, 0.0, 0.0, 0.0]])
LOG_PROPOSAL = np.array([[0.0, 0.0, 0.0, 0.0, NAN, -INF, INF]])
UNKNOWN = [-1, 0, -2, -2, -2, -2, -2]


def _candidates(rewards, **fields):
    rewards = np.asarray(rewards, np.float32)
    return Candidates(rewards=rewards, valid=np.ones(rewards.shape, bool), **fields)


@pytest.mark.parametrize("rule", [density_ratio(log_envelope=0.0), density_ratio(rate=0.9)])
def test_an_unknown_log_probability_is_no_verdict(rule):
    candidates = _candidates(np.zeros((1, 7)), log_target=LOG_TARGET, log_proposal=LOG_PROPOSAL)
    selection = rule.select(KEY, candidates)
    assert selection.rejected_by.tolist() == [UNKNOWN]
    assert jnp.isfinite(selection.accept_prob).all()
    behind = chain(threshold(-1.0), rule, top_k(1)).select(KEY, candidates)
    assert behind.rejected_by.tolist() == [[-1, 1, *UNKNOWN[2:]]]


def test_the_rate_is_of_those_that_are_known():
    # 50 of 100 are unknown: half of the others are wanted, and not half of all.
    random = np.random.default_rng(0)
    log_target = random.normal(size=(1, 100))
    log_target[:, ::2] = NAN
    candidates = _candidates(np.zeros((1, 100)), log_target=log_target, log_proposal=log_target * 0)
    prob = np.asarray(density_ratio(rate=0.5).select(KEY, candidates).accept_prob)
    assert prob.sum() == pytest.approx(25, abs=0.01)


def test_partial_credit_is_not_correct_and_is_counted():
    rewards = [[1.0, 0.965, 0.5, 0.01, 0.0, NAN], [-1.0, 1.0, 1.0, 0.0, -1.0, INF]]
    candidates = _candidates(rewards)
    accepted = correct().select(KEY, candidates).accepted
    assert accepted.tolist() == [[True] + [False] * 5, [False, True, True] + [False] * 3]
    assert num_partial(candidates).tolist() == [3, 0]
    half = correct(0.5)
    assert half.select(KEY, candidates).accepted[0].tolist() == [True] * 3 + [False] * 3
    assert num_partial(candidates, 0.5).tolist() == [1, 0]
    assert stage_names(correct()) + stage_names(half) == ("correct", "correct(0.5)")
    with pytest.raises(ValueError, match="minimum must be a finite number, got nan"):
        correct(NAN)


def test_finished_is_a_rule_and_a_filter_in_front_of_others():
    ended = np.array([[True, False, True, False]])
    candidates = _candidates([[0.1, 0.9, NAN, 0.5]], finished=ended)
    assert finished().law is Law.EXACT
    assert finished().select(KEY, candidates).rejected_by.tolist() == [[-1, 0, -2, 0]]
    best = chain(finished(), top_k(1)).select(KEY, candidates)
    assert best.accepted.tolist() == [[True, False, False, False]]
    with pytest.raises(ValueError, match=r"finished needs finished \[P, N\]"):
        finished().select(KEY, _candidates([[0.1]]))
