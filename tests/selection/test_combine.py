"""What `chain` does with its stages, and what a rule of one's own gets from `make_rule`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.selection import (
    Candidates,
    Decision,
    Law,
    Selection,
    SelectionRule,
    at_most,
    best_of_n,
    chain,
    density_ratio,
    group_filter,
    make_rule,
    random_control,
    stage_names,
    statistical_rejection,
    threshold,
    top_fraction,
    top_k,
    unique,
)

KEY = jax.random.key(0)


def candidates_of(rewards, **fields):
    rewards = np.asarray(rewards, np.float32)
    return Candidates(rewards=rewards, valid=np.ones(rewards.shape, bool), **fields)


def test_chain_names_the_stage_that_rejected():
    rule = chain(threshold(1.0), chain(unique(), top_k(2)), at_most(1))
    assert stage_names(rule) == ("threshold(1)", "unique", "top_k(2)", "at_most(1)")
    candidates = candidates_of(
        [[0.0, 3.0, 3.0, 2.0, 1.0, np.nan]], fingerprint=np.array([[1, 2, 2, 3, 4, 5]])
    )
    selection = rule.select(KEY, candidates)
    assert selection.rejected_by.tolist() == [[0, -1, 1, 3, 2, -2]]
    assert selection.accepted.tolist() == [[False, True, False, False, False, False]]


def test_chain_gives_later_stages_what_the_earlier_accepted():
    candidates = candidates_of([[0.0, 1.0, 2.0, 3.0]])
    below = make_rule("below", lambda key, c, scored: Decision(c.rewards < 2.5), law=Law.EXACT)
    best_of_rest = chain(below, best_of_n()).select(KEY, candidates)
    assert best_of_rest.accepted.tolist() == [[False, False, True, False]]
    nothing = chain(best_of_n(), below).select(KEY, candidates)
    assert not nothing.accepted.any()
    assert nothing.rejected_by.tolist() == [[0, 0, 0, 1]]


def test_chain_adds_weights_and_multiplies_probabilities_of_the_stages_reached():
    rewards = np.array([[2.0, 1.0, 0.0, -1.0]])
    candidates = candidates_of(
        rewards, log_proposal=np.zeros((1, 4)), log_target=np.array([[0.5, -0.5, 0.0, 0.0]])
    )
    rule = chain(statistical_rejection(1.0, max_reward=1.0), density_ratio(log_envelope=0.0))
    for seed in range(20):
        key = jax.random.key(seed)
        selection = rule.select(key, candidates)
        accept_first = np.minimum(1, np.exp(rewards - 1))
        accept_second = np.minimum(1, np.exp(candidates.log_target))
        reached = np.asarray(selection.rejected_by) != 0
        wanted = np.where(reached, accept_first * accept_second, accept_first)
        np.testing.assert_allclose(selection.accept_prob, wanted, rtol=1e-6)
        assert bool(selection.accepted[0, 0])
        assert selection.log_weight[0, 0] == pytest.approx(1.0 + 0.5)
        passed = np.asarray(selection.accepted)
        assert np.array_equal(np.isfinite(selection.log_weight), passed)


def test_chain_of_one_and_stages_with_one_key_are_different_draws():
    candidates = candidates_of(np.zeros((200, 8)))
    half = statistical_rejection(1.0, max_reward=np.log(2.0))
    selection = chain(half, half).select(KEY, candidates)
    # With one key for both stages the second would accept all that the first did: a half.
    assert 0.2 < float(selection.accepted.mean()) < 0.3


@pytest.mark.parametrize(
    ("rules", "law"),
    [
        ((threshold(0.0), at_most(2)), Law.EXACT),
        ((threshold(0.0), statistical_rejection(1.0)), Law.CONSISTENT),
        ((statistical_rejection(1.0), group_filter(), at_most(2)), Law.HEURISTIC),
        ((at_most(4), top_k(2)), Law.EXACT),
        ((top_k(3), top_k(2)), Law.EXACT),
        ((best_of_n(), at_most(2)), Law.EXACT),
        ((top_k(1), at_most(2)), Law.EXACT),
    ],
)
def test_chain_reports_the_weakest_law(rules, law):
    assert chain(*rules).law is law
    assert chain(chain(*rules), best_of_n()).law is law


@pytest.mark.parametrize(
    "rule",
    [
        chain(top_k(2), at_most(1)),
        chain(top_fraction(0.5), threshold(0.0), at_most(1)),
        chain(chain(threshold(0.0), top_k(2)), chain(threshold(0.0), at_most(1))),
        chain(chain(at_most(4), top_k(2)), at_most(1)),
    ],
)
def test_chain_that_cuts_by_place_what_broke_ties_by_place_is_not_exact(rule):
    # The law itself: test_at_most_behind_top_k_with_ties_is_another_law.
    assert rule.law is Law.HEURISTIC


def test_chain_needs_what_its_stages_need_and_refuses_before_the_first():
    rule = chain(threshold(0.0), unique(), density_ratio(log_envelope=0.0))
    assert rule.needs == {"fingerprint", "log_proposal", "log_target"}
    assert random_control(rule).needs == rule.needs
    ran = []
    spy = make_rule("spy", lambda key, c, scored: Decision(ran.append(1) or scored), law=Law.EXACT)
    with pytest.raises(ValueError, match="needs fingerprint"):
        chain(spy, unique()).select(KEY, candidates_of([[0.0]]))
    assert not ran


def test_chain_takes_a_rule_that_is_a_plain_function():
    def odd(key, candidates):
        place = jnp.arange(candidates.rewards.shape[1])
        accepted = candidates.valid & (place % 2 == 1)[None, :]
        return Selection(
            accepted=accepted,
            log_weight=jnp.zeros(accepted.shape),
            accept_prob=accepted.astype(jnp.float32),
        )

    rule = SelectionRule(odd, Law.EXACT)
    assert stage_names(rule) == ("odd",)
    chained = chain(rule, at_most(1))
    assert stage_names(chained) == ("odd", "at_most(1)")
    selection = chained.select(KEY, candidates_of([[0.0, np.nan, 0.0, 1.0, 0.0, 1.0]]))
    # The plain function would take the unscored one; the chain does not.
    assert selection.rejected_by.tolist() == [[0, -2, 0, -1, 0, 1]]


def test_settings_may_be_traced_so_that_one_compilation_sweeps_them():
    candidates = candidates_of(np.random.default_rng(0).normal(size=(4, 8)))
    betas = jnp.array([0.1, 1.0, 10.0, 0.0, -1.0, jnp.nan])

    def probabilities(beta):
        return statistical_rejection(beta).select(KEY, candidates).accept_prob

    swept = jax.jit(jax.vmap(probabilities))(betas)
    for beta, probs in zip(betas[:3].tolist(), swept):
        np.testing.assert_allclose(probs, probabilities(beta), rtol=1e-5)
    assert not swept[3:].any(), "a beta that is none accepts nothing"
    counts = jax.vmap(lambda m: threshold(m).select(KEY, candidates).accepted.sum())(betas)
    assert counts[-1] == 0


def test_gradient_through_the_weights_is_finite():
    candidates = candidates_of([[0.0, 3.0, np.nan, 1.0]])

    def total(bound):
        selection = statistical_rejection(1.0, max_reward=bound).select(KEY, candidates)
        return jnp.where(selection.accepted, selection.log_weight, 0.0).sum()

    assert jnp.isfinite(jax.grad(total)(1.0))
