"""`balanced`: how many each group keeps, that any subset may be kept, and that the law stays."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.selection import (
    Candidates,
    Decision,
    Law,
    at_most,
    balanced,
    best_of_n,
    chain,
    make_rule,
    random_control,
    stage_names,
    statistical_rejection,
    threshold,
)
from tests.gates import assert_law, assert_rejects, count_cells

KEY = jax.random.key(3)


def candidates_of(rewards, group, **fields):
    rewards = np.asarray(rewards, np.float32)
    valid = fields.pop("valid", np.ones(rewards.shape, bool))
    return Candidates(rewards=rewards, valid=valid, group=np.asarray(group), **fields)


def kept_of(accepted, scored, group, max_gap):
    """The same numbers by exact fractions, group by group."""
    sizes = {g: int(scored[group == g].sum()) for g in set(group.tolist())}
    counts = {g: int(accepted[group == g].sum()) for g in sizes}
    rates = {g: Fraction(counts[g], n) for g, n in sizes.items() if n}
    cap = min(rates.values()) + Fraction(max_gap).limit_denominator(1000)
    return {
        g: int(sizes[g] * cap) if g in rates and rates[g] > cap else counts[g] for g in sizes
    }, sizes


def test_a_group_above_the_cap_keeps_as_many_as_it_allows():
    rewards = [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [np.nan] * 4]
    candidates = candidates_of(rewards, [7, 7, 5, 1])
    rule = balanced(threshold(1), 0.25)
    selection = rule.select(KEY, candidates)
    # Rates 7/8 and 1/4: the cap is 1/2, so that 4 of 8 stay; the group without scores is left out.
    assert selection.accepted[:2].sum() == 4
    assert selection.accepted[2].tolist() == [True, False, False, False]
    assert stage_names(rule) == ("threshold(1)", "balanced(0.25)")
    stage = np.asarray(selection.rejected_by)
    assert (stage[:2] == 1).sum() == 3
    assert stage[1, 3] == 0
    assert (stage[3] == -2).all()
    prob = np.asarray(selection.accept_prob)
    np.testing.assert_allclose(prob[0], 4 / 7, rtol=1e-6)
    assert prob[2, 0] == 1
    assert prob[1, 3] == 0
    assert rule.law is Law.EXACT
    assert rule.needs == {"group"}
    assert not rule.separable


@pytest.mark.parametrize("max_gap", [0.0, 0.05, 0.1, 0.3, 1.0])
def test_counts_are_those_of_exact_fractions_and_rates_lie_within_the_gap(max_gap):
    random = np.random.default_rng(0)
    rule = balanced(threshold(0.5), max_gap)
    for _ in range(20):
        group = random.integers(-1, 3, 12)
        rewards = random.random((12, 10)) ** (1 + group[:, None])
        valid = random.random((12, 10)) < 0.8
        accepted, selection = valid & (rewards.astype(np.float32) >= 0.5), rule.select(
            KEY, candidates_of(rewards, group, valid=valid)
        )  # fmt: skip
        kept = np.asarray(selection.accepted)
        assert not (kept & ~accepted).any()
        wanted, sizes = kept_of(accepted, valid, group, max_gap)
        assert {g: int(kept[group == g].sum()) for g in sizes} == wanted
        rates = [wanted[g] / sizes[g] for g in sizes]
        thinned = [sizes[g] for g in sizes if wanted[g] < accepted[group == g].sum()]
        allowed = max(max_gap, 1 / min(thinned)) if thinned else max_gap
        assert max(rates) - min(rates) <= allowed + 1e-6


def test_every_subset_of_the_accepted_is_kept_equally_often():
    # Group 0 has 5 accepted of 8 in two prompts, group 1 has 1 of 4: with a gap of 0, 2 of 5 stay.
    rewards = [[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0]]
    candidates = candidates_of(rewards, [0, 0, 1])
    subsets = list(itertools.combinations(range(5), 2))
    keys = jax.random.split(KEY, 20_000)

    def cells(rule):
        kept = np.asarray(jax.vmap(lambda key: rule.select(key, candidates).accepted)(keys))
        assert kept[:, 2].sum() == len(keys)
        of_group = kept[:, :2].reshape(len(keys), 8)[:, np.ravel(rewards[:2]) == 1]
        found = [subsets.index(tuple(np.flatnonzero(row))) for row in of_group]
        return count_cells(np.array(found), len(subsets))

    assert_law(cells(balanced(threshold(1), 0.0)), np.full(len(subsets), 1 / len(subsets)))


def _thinned_by_reward(minimum, max_gap):
    """The planted mutant: keeps the best of a group in place of a random part."""
    real = balanced(threshold(minimum), max_gap)

    def decide(key, candidates, scored):
        kept = real.select(key, candidates).accepted
        same = candidates.group[:, None] == candidates.group[None, :]
        count = jnp.where(same, kept.sum(axis=1)[None, :], 0).sum(axis=1)
        worse = candidates.rewards[:, :, None, None] < candidates.rewards[None, None]
        rank = (worse & same[:, None, :, None]).sum(axis=(2, 3))
        passed = scored & (candidates.rewards >= minimum)
        return Decision(passed & (rank < count[:, None]))

    return make_rule("mutant", decide, law=Law.EXACT, needs={"group"})


def test_within_a_group_what_is_kept_follows_the_inner_law():
    # Six answers with rewards; the two groups' policies differ, and so do their rates.
    reward = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    q = np.array([[0.3, 0.2, 0.2, 0.1, 0.1, 0.1], [0.05, 0.05, 0.1, 0.2, 0.3, 0.3]])
    group, batches = np.array([0, 1, 1, 0]), 6000
    random = np.random.default_rng(1)
    drawn = np.stack([random.choice(6, p=q[g], size=(batches, 3)) for g in group], axis=1)
    keys = jax.random.split(KEY, batches)

    def counts(rule, of_group):
        noise = 1e-4 * random.random(drawn.shape)  # so that the mutant finds no ties
        select = jax.vmap(lambda key, r: rule.select(key, candidates_of_traced(r, group)).accepted)
        kept = np.asarray(select(keys, jnp.asarray(reward[drawn] + noise, jnp.float32)))
        mask = kept & (group == of_group)[None, :, None]
        return count_cells(drawn[mask], 6)

    passed = q * (reward >= 0.4)
    law = passed / passed.sum(axis=1, keepdims=True)
    assert_law(counts(balanced(threshold(0.4), 0.1), 0), law[0])
    assert_law(counts(balanced(threshold(0.4), 0.1), 1), law[1])
    assert_rejects(counts(_thinned_by_reward(0.4, 0.1), 1), law[1])
    tilted = q * np.exp((reward - 1) / 0.5)
    soft = balanced(statistical_rejection(0.5, max_reward=1.001), 0.1)
    assert_law(counts(soft, 1), tilted[1] / tilted[1].sum())


def candidates_of_traced(rewards, group):
    valid = jnp.ones(rewards.shape, bool)
    return Candidates(rewards=rewards, valid=valid, group=jnp.asarray(group))


def test_groups_are_known_by_equality_and_not_by_number():
    random = np.random.default_rng(2)
    rewards, group = random.random((10, 6)), random.integers(0, 3, 10)
    rule = balanced(threshold(0.4), 0.02)
    one = rule.select(KEY, candidates_of(rewards, group))
    other = rule.select(KEY, candidates_of(rewards, np.array([100, -7, 3])[group]))
    assert np.array_equal(one.accepted, other.accepted)


def test_a_wide_gap_changes_nothing_and_the_inner_rule_draws_from_stage_zero():
    random = np.random.default_rng(3)
    candidates = candidates_of(random.random((8, 5)), random.integers(0, 2, 8))
    inner = chain(statistical_rejection(0.3, max_reward=1.0), at_most(2))
    alone = inner.select(jax.random.fold_in(KEY, 0), candidates)
    wide = balanced(inner, 1.0).select(KEY, candidates)
    for field in ("accepted", "log_weight", "accept_prob", "rejected_by"):
        assert np.array_equal(getattr(alone, field), getattr(wide, field)), field


def test_balanced_composes():
    random = np.random.default_rng(4)
    candidates = candidates_of(random.random((9, 4)), random.integers(0, 3, 9))
    assert balanced(statistical_rejection(0.5), 0.1).law is Law.CONSISTENT
    rule = balanced(best_of_n(), 0.1)  # one of each prompt, so that all rates are equal
    assert rule.select(KEY, candidates).accepted.sum() == 9
    tight = balanced(threshold(0.3), 0.0)
    control = random_control(tight).select(KEY, candidates)
    assert np.array_equal(
        control.accepted.sum(axis=1), tight.select(KEY, candidates).accepted.sum(axis=1)
    )


@pytest.mark.parametrize("max_gap", [-0.1, 1.5, float("nan"), "x"])
def test_balanced_refuses_a_gap_that_is_none(max_gap):
    with pytest.raises(ValueError, match=r"max_gap must be in \[0, 1\]"):
        balanced(threshold(0.5), max_gap)


def test_balanced_refuses_groups_of_another_shape():
    with pytest.raises(AssertionError, match=r"candidates\.group"):
        balanced(threshold(0.5), 0.1).select(KEY, candidates_of(np.ones((2, 3)), [0, 1, 1]))
    with pytest.raises(ValueError, match=r"balanced needs group \[P\]"):
        balanced(threshold(0.5), 0.1).select(
            KEY, candidates_of(np.ones((2, 3)), [0, 1]).replace(group=None)
        )
