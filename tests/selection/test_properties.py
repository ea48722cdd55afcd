"""What must hold of every rule's choice, over adversarial rewards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsft_jax.selection import (
    Candidates,
    at_most,
    best_of_n,
    chain,
    density_ratio,
    first_control,
    group_filter,
    importance_resample,
    quantile,
    random_control,
    rso_finite,
    statistical_rejection,
    threshold,
    top_fraction,
    top_k,
    unique,
)

P, N, K = 4, 8, 3
NAN, INF = float("nan"), float("inf")
RULES = {
    "best_of_n": best_of_n(),
    "top_k": top_k(K),
    "top_fraction": top_fraction(0.4),
    "top_fraction_batch": top_fraction(0.4, "batch"),
    "quantile": quantile(0.6),
    "threshold": threshold(0.5),
    "group_filter": group_filter(),
    "unique": unique(),
    "at_most": at_most(K),
    "statistical_rejection": statistical_rejection(0.5),
    "statistical_rejection_bound": statistical_rejection(0.5, max_reward=2.0),
    "density_ratio": density_ratio(log_envelope=0.0),
    "rso_finite": rso_finite(0.5, K),
    "importance_resample": importance_resample(K, 0.5),
    "random_control": random_control(top_k(K)),
    "first_control": first_control(top_k(K)),
    "chain": chain(threshold(-1.0), statistical_rejection(1.0), at_most(K)),
}
EXACT_COUNT = {
    "top_k": K,
    "best_of_n": 1,
    "at_most": K,
    "rso_finite": K,
    "random_control": K,
    "first_control": K,
}
INVARIANT = {  # to a shift of the rewards
    "best_of_n", "top_k", "top_fraction", "top_fraction_batch", "quantile", "group_filter",
    "unique", "at_most", "statistical_rejection", "rso_finite", "random_control", "first_control",
}  # fmt: skip
BY_ORDER = {"best_of_n", "top_k", "top_fraction", "quantile", "threshold", "group_filter"}

# Ties, both zeros, and what is no reward. Eighths: sums with a power of two are exact.
any_reward = st.sampled_from([-2.0, -0.125, -0.0, 0.0, 0.5, 0.5, 1.0, 1.875, NAN, INF, -INF])
huge_reward = st.sampled_from([-3e38, -1e30, -1e-40, 0.0, 1e-40, 1.0, 1e30, 3e38, NAN])
densities = st.sampled_from([-INF, -1e30, -80.0, -1.0, 0.0, 1e4, NAN])


@st.composite
def candidates_of(draw_from, rewards=any_reward):
    def table(values, dtype):
        cells = draw_from(st.lists(values, min_size=P * N, max_size=P * N))
        return np.array(cells).reshape(P, N).astype(dtype)

    return Candidates(
        rewards=table(rewards, np.float32),
        valid=table(st.booleans(), bool),
        log_proposal=table(densities, np.float32),
        log_target=table(densities, np.float32),
        fingerprint=table(st.integers(0, 3), np.uint32),
    )


def scored(candidates):
    return candidates.valid & np.isfinite(candidates.rewards)


def accepted_by(rule, candidates, seed=0):
    return np.asarray(rule.select(jax.random.key(seed), candidates).accepted)


each = pytest.mark.parametrize("name", sorted(RULES))
some = settings(max_examples=40, deadline=None, derandomize=True)


@each
@some
@given(st.one_of(candidates_of(), candidates_of(huge_reward)), st.integers(0, 3))
def test_rule_accepts_a_part_of_what_is_scored_with_finite_weights(name, candidates, seed):
    selection = RULES[name].select(jax.random.key(seed), candidates)
    accepted, known = np.asarray(selection.accepted), scored(candidates)
    assert not (accepted & ~known).any()
    assert np.isfinite(np.asarray(selection.log_weight)[accepted]).all()
    assert (np.asarray(selection.log_weight)[~accepted] == -np.inf).all()
    prob = np.asarray(selection.accept_prob)
    assert ((prob >= 0) & (prob <= 1)).all()
    assert (prob[accepted] > 0).all()
    if name in EXACT_COUNT:
        wanted = np.minimum(known.sum(axis=1), EXACT_COUNT[name])
        np.testing.assert_array_equal(accepted.sum(axis=1), wanted)
    if name == "importance_resample":  # it leaves out what has no weight beside the best
        assert (accepted.sum(axis=1) <= K).all()
        assert (accepted.any(axis=1) == known.any(axis=1)).all()


@pytest.mark.parametrize("name", ["best_of_n", "top_k", "top_fraction", "quantile"])
@some
@given(st.one_of(candidates_of(), candidates_of(huge_reward)))
def test_rule_by_order_accepts_nothing_below_what_it_rejects(name, candidates):
    accepted, known = accepted_by(RULES[name], candidates), scored(candidates)
    # XLA's CPU backend takes a subnormal number for 0.
    rewards = np.where(np.abs(candidates.rewards) < 1e-38, 0, candidates.rewards)
    for reward, took, is_known in zip(rewards, accepted, known):
        if took.any() and (is_known & ~took).any():
            worst, best_left = reward[took].min(), reward[is_known & ~took].max()
            assert worst > best_left if name == "quantile" else worst >= best_left
            tied = is_known & (reward == worst)  # of the equal ones the first
            assert (np.diff(took[tied].astype(int)) <= 0).all()


@pytest.mark.parametrize("name", sorted(INVARIANT))
@some
@given(candidates_of(), st.sampled_from([-4096.0, -1.0, 1024.0]))
def test_rule_is_invariant_to_a_shift_of_the_rewards(name, candidates, shift):
    shifted = candidates.replace(rewards=candidates.rewards + np.float32(shift))
    np.testing.assert_array_equal(
        accepted_by(RULES[name], candidates), accepted_by(RULES[name], shifted)
    )


@pytest.mark.parametrize("name", sorted(BY_ORDER))
@some
@given(candidates_of(), st.permutations(range(N)))
def test_rule_permutes_with_its_candidates_where_nothing_ties(name, candidates, order):
    order = np.array(order)
    rewards = candidates.rewards + np.arange(N, dtype=np.float32) / 1024  # no two equal
    candidates = candidates.replace(rewards=rewards)
    permuted = jax.tree.map(lambda x: x[:, order], candidates)
    np.testing.assert_array_equal(
        accepted_by(RULES[name], permuted), accepted_by(RULES[name], candidates)[:, order]
    )


@each
@some
@given(candidates_of(), st.permutations(range(P)))
def test_rule_permutes_with_its_prompts(name, candidates, order):
    if name == "top_fraction_batch":
        return  # equal rewards of two prompts: the first prompt's win
    order = np.array(order)
    numbered = candidates.replace(prompt_ids=jnp.arange(P))
    permuted = jax.tree.map(lambda x: x[order], numbered)
    np.testing.assert_array_equal(
        accepted_by(RULES[name], permuted), accepted_by(RULES[name], numbered)[order]
    )
