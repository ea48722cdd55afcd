"""The law of what each rule accepts, against enumeration, and a mutant that each test must see."""

import itertools
import math

import jax
import numpy as np
import pytest

from rsft_jax.selection import (
    Candidates,
    at_most,
    best_of_n,
    chain,
    correct,
    density_ratio,
    first_control,
    group_filter,
    importance_resample,
    random_control,
    rso_finite,
    statistical_rejection,
    threshold,
    top_fraction,
    top_k,
    unique,
)
from tests.gates import (
    DEFAULT_DRAWS,
    SLOW_DRAWS,
    ToyModel,
    assert_law,
    assert_rate,
    assert_rejects,
    count_cells,
    rate_p_value,
)

BETA = 0.5
# 125 strings: what the policy draws, what another model would, and a reward with ties.
Q = ToyModel(0).joint.ravel()
TARGET = ToyModel(1).joint.ravel()
REWARD = np.round(4 * np.random.default_rng(2).normal(size=Q.size)) / 4
CELLS = Q.size


@pytest.fixture(
    params=[DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)],
    ids=["default", "slow"],
)
def draws(request):
    return request.param


def normalized(weights):
    return weights / weights.sum()


def run(rule, draws, per_prompt, *, rewards=REWARD, one=False, first_only=False, seed=0):
    """Feeds a rule with draws from Q until it has accepted enough; gives outcomes and proposals.

    With `one`, a single one of each prompt's accepted candidates counts, taken by an independent
    coin, since several of one prompt need not be independent. With `first_only`, candidate 0 alone.
    """
    random = np.random.default_rng(seed)
    prompts = max(1, min(2**20 // per_prompt, 2 * draws // min(per_prompt, 4)))
    outcomes, proposed, batch = [], 0, 0
    while sum(map(len, outcomes)) < draws:
        index = random.choice(CELLS, p=Q, size=(prompts, per_prompt))
        candidates = Candidates(
            rewards=rewards[index].astype(np.float32),
            valid=np.ones(index.shape, bool),
            log_proposal=np.log(Q)[index].astype(np.float32),
            log_target=np.log(TARGET)[index].astype(np.float32),
            fingerprint=index.astype(np.uint32),
        )
        accepted = np.array(rule.select(jax.random.key(1000 * seed + batch), candidates).accepted)
        if first_only:
            index, accepted = index[:, :1], accepted[:, :1]
        if one:
            order = np.where(accepted, random.random(index.shape), -1)
            accepted &= order == order.max(axis=1, keepdims=True)
        outcomes.append(index[accepted])
        proposed, batch = proposed + index.size, batch + 1
        assert batch < 100, "the rule accepts next to nothing"
    return np.concatenate(outcomes), proposed


def counts_of(*inputs, **options):
    return count_cells(run(*inputs, **options)[0], CELLS)


TILTED = normalized(Q * np.exp(REWARD / BETA))


def test_statistical_rejection_with_a_bound_draws_the_tilted_target(draws):
    rule = statistical_rejection(BETA, max_reward=float(REWARD.max()))
    outcomes, proposed = run(rule, draws, 4)
    assert_law(count_cells(outcomes, CELLS), TILTED)
    rate = Q @ np.exp((REWARD - REWARD.max()) / BETA)
    assert_rate(len(outcomes), proposed, rate)
    mutant = statistical_rejection(1.1 * BETA, max_reward=float(REWARD.max()))
    assert_rejects(counts_of(mutant, DEFAULT_DRAWS, 4), TILTED)


def test_statistical_rejection_with_the_prompts_maximum_has_the_law_it_states(draws):
    rule = statistical_rejection(BETA)
    outcomes, proposed = run(rule, draws, 2, first_only=True)
    highest = np.maximum(REWARD[:, None], REWARD[None, :])
    accept = np.exp((REWARD[:, None] - highest) / BETA) @ Q
    assert_law(count_cells(outcomes, CELLS), normalized(Q * accept))
    assert_rate(len(outcomes), proposed, Q @ accept)
    # It is not the target, and is labelled accordingly.
    assert_rejects(count_cells(outcomes, CELLS), TILTED)


def test_statistical_rejection_repairs_a_bound_that_was_too_low():
    rule = statistical_rejection(BETA, max_reward=0.0)
    candidates = Candidates(
        rewards=np.repeat(REWARD[:, None], 64, axis=1), valid=np.ones((CELLS, 64), bool)
    )
    selection = rule.select(jax.random.key(0), candidates)
    accepted = np.asarray(selection.accepted)
    # Accepted with A and weighing w, y counts A w, which must be exp((r - bound) / beta).
    repaired = selection.accept_prob * np.exp(np.asarray(selection.log_weight))
    wanted = np.exp(REWARD / BETA)[:, None].repeat(64, axis=1)
    np.testing.assert_allclose(repaired[accepted], wanted[accepted], rtol=1e-6)
    above = REWARD > 0
    assert accepted[above].all()
    assert (np.asarray(selection.log_weight)[accepted & ~above[:, None]] == 0).all()
    mutant = np.asarray(selection.accept_prob)  # without the weight
    assert not np.allclose(mutant[accepted], wanted[accepted], rtol=1e-3)


def best_law(n):
    up_to = np.array([Q[r >= REWARD].sum() for r in REWARD])
    below = np.array([Q[r > REWARD].sum() for r in REWARD])
    return (up_to**n - below**n) * Q / (up_to - below)


@pytest.mark.parametrize(
    "n",
    [1, 2, 8, pytest.param(4, marks=pytest.mark.slow), pytest.param(64, marks=pytest.mark.slow)],
)
def test_best_of_n_has_its_closed_form_with_ties(n, draws):
    assert_law(counts_of(best_of_n(), draws, n), best_law(n))
    if n > 1:
        mutant = counts_of(best_of_n(), DEFAULT_DRAWS, n - 1, seed=1)
        if n < 64:  # 63 for 64 differs by too little for any such test
            assert_rejects(mutant, best_law(n))
        divergence = best_law(n) @ np.log(best_law(n) / Q)
        assert divergence <= math.log(n) - (n - 1) / n


def test_top_k_has_the_law_of_order_statistics(draws):
    # All triples, and which of each are the two best, by counting who must not be beaten by two.
    weight = Q[:, None, None] * Q[None, :, None] * Q[None, None, :]
    first, second, third = np.meshgrid(REWARD, REWARD, REWARD, indexing="ij", sparse=True)
    ahead = np.stack(  # how many come before each: better, or equal and of lower index
        [
            (second > first) * 1 + (third > first),
            (first >= second) * 1 + (third > second),
            (first >= third) * 1 + (second >= third),
        ]
    )
    law = sum(
        (weight * (ahead[place] < 2) / 2).sum(axis=tuple({0, 1, 2} - {place})) for place in range(3)
    )
    assert_law(counts_of(top_k(2), draws, 3, one=True), law)
    assert_law(counts_of(top_fraction(2 / 3), draws, 3, one=True, seed=2), law)
    assert_rejects(counts_of(top_k(1), DEFAULT_DRAWS, 3), law)


def test_top_k_states_its_law_in_the_docstring():
    n, k = 3, 2
    up_to = np.array([Q[r >= REWARD].sum() for r in REWARD])
    same = np.array([Q[r == REWARD].sum() for r in REWARD])
    stated = np.zeros(CELLS)
    for m in range(n):
        for e in range(n - m):
            ways = math.factorial(n - 1) / (
                math.factorial(m) * math.factorial(e) * math.factorial(n - 1 - m - e)
            )
            chance = ways * (1 - up_to) ** m * same**e * (up_to - same) ** (n - 1 - m - e)
            stated += chance * np.clip((k - m) / (e + 1), 0, 1)
    stated *= Q * n / k
    assert stated.sum() == pytest.approx(1)
    assert_law(counts_of(top_k(2), DEFAULT_DRAWS, 3, one=True), stated)


MINIMUM = 0.5
assert (REWARD == MINIMUM).any(), "the minimum must have mass, or > is as good as >="


def test_threshold_conditions_on_the_event_ties_included(draws):
    law = normalized(Q * (REWARD >= MINIMUM))
    outcomes, proposed = run(threshold(MINIMUM), draws, 4)
    assert_law(count_cells(outcomes, CELLS), law)
    assert_rate(len(outcomes), proposed, Q[REWARD >= MINIMUM].sum())
    assert_rejects(counts_of(threshold(MINIMUM + 1e-3), DEFAULT_DRAWS, 4), law)


def test_correct_draws_the_posterior(draws):
    verdict = (REWARD > 0.3).astype(float)
    law = normalized(Q * verdict)
    assert_law(counts_of(correct(), draws, 4, rewards=verdict), law)
    assert_law(counts_of(correct(), DEFAULT_DRAWS, 4, rewards=2 * verdict - 1), law)
    assert_rejects(counts_of(threshold(0.0), DEFAULT_DRAWS, 4, rewards=verdict), law)


SUPREMUM = float(np.log(TARGET / Q).max())


def test_density_ratio_under_a_true_envelope_draws_the_target(draws):
    outcomes, proposed = run(density_ratio(log_envelope=SUPREMUM + 1e-6), draws, 4)
    assert_law(count_cells(outcomes, CELLS), TARGET)
    assert_rate(len(outcomes), proposed, math.exp(-SUPREMUM - 1e-6))
    assert_rejects(counts_of(density_ratio(log_envelope=0.0), DEFAULT_DRAWS, 4), TARGET)


def test_density_ratio_at_envelope_one_draws_the_smaller_of_both(draws):
    law = normalized(np.minimum(TARGET, Q))
    outcomes, proposed = run(density_ratio(log_envelope=0.0), draws, 4)
    assert_law(count_cells(outcomes, CELLS), law)
    assert_rate(len(outcomes), proposed, np.minimum(TARGET, Q).sum())
    assert_rejects(counts_of(density_ratio(log_envelope=0.5), DEFAULT_DRAWS, 4), law)


def test_density_ratio_for_a_rate_has_the_law_of_its_estimated_envelope(draws):
    rate = 0.6
    one, other = (TARGET / Q)[:, None], (TARGET / Q)[None, :]
    larger, smaller = np.maximum(one, other), np.minimum(one, other)
    unclipped = (one + other) / (2 * rate)
    envelope = np.where(unclipped >= larger, unclipped, smaller / (2 * rate - 1))
    law = normalized(Q * (np.minimum(1, one / envelope) @ Q))
    outcomes, proposed = run(density_ratio(rate=rate), draws, 2, first_only=True)
    assert_law(count_cells(outcomes, CELLS), law)
    assert_rate(len(outcomes), proposed, rate)
    assert_rejects(counts_of(density_ratio(rate=0.8), DEFAULT_DRAWS, 2, first_only=True), law)
    # With many candidates the envelope is that of the population, and so is the law.
    many = normalized(np.minimum(TARGET, _envelope(0.6) * Q))
    assert_law(counts_of(density_ratio(rate=rate), DEFAULT_DRAWS, 2**18), many)


def _envelope(rate):
    from scipy import optimize

    return optimize.brentq(lambda m: np.minimum(TARGET / m, Q).sum() - rate, 1e-3, 1e3)


def test_at_most_keeps_the_law_of_what_it_is_given(draws):
    rejected = statistical_rejection(BETA, max_reward=float(REWARD.max()))
    assert_law(counts_of(chain(rejected, at_most(1)), draws, 8), TILTED)
    # The best of the accepted would not.
    assert_rejects(counts_of(chain(rejected, best_of_n()), DEFAULT_DRAWS, 8), TILTED)


def test_at_most_behind_top_k_with_ties_is_another_law():
    # Of three with one 1 and two 0s, top_k(2) takes the 1 and the first 0: the 1 is in front of
    # it with chance 1/3, though it is one of two.
    verdicts = np.eye(3)  # the three places that the 1 can have
    candidates = Candidates(rewards=verdicts, valid=np.ones(verdicts.shape, bool))
    two = np.asarray(top_k(2).select(jax.random.key(0), candidates).accepted)
    first = np.asarray(chain(top_k(2), at_most(1)).select(jax.random.key(0), candidates).accepted)
    assert verdicts[two].mean() == pytest.approx(1 / 2)
    assert verdicts[first].mean() == pytest.approx(1 / 3)


def test_chain_of_exact_rules_has_the_law_of_both(draws):
    rule = chain(threshold(-0.5), statistical_rejection(BETA, max_reward=float(REWARD.max())))
    law = normalized(Q * np.exp(REWARD / BETA) * (REWARD >= -0.5))
    assert_law(counts_of(rule, draws, 4), law)
    assert_rejects(counts_of(threshold(-0.5), DEFAULT_DRAWS, 4), law)


def test_control_of_a_fixed_count_draws_the_proposal():
    assert_law(counts_of(random_control(top_k(2)), DEFAULT_DRAWS, 6, one=True), Q)
    assert_rejects(counts_of(top_k(2), DEFAULT_DRAWS, 6, one=True), Q)
    # Where the count depends on the rewards it does not quite, as its docstring says.
    control = random_control(threshold(MINIMUM))
    assert_rejects(counts_of(control, DEFAULT_DRAWS, 2), Q)


def test_control_of_drawing_that_stops_draws_the_proposal(draws):
    """Two accepted are wanted, and nothing is drawn behind the second."""
    accept = REWARD >= 0  # about half
    random = np.random.default_rng(7)

    def counts_of_control(control, number):
        index = random.choice(CELLS, p=Q, size=(number, 40))
        reached = np.cumsum(accept[index], axis=1)
        assert (reached[:, -1] >= 2).all()
        drawn = (reached < 2) | ((reached == 2) & accept[index])
        candidates = Candidates(rewards=REWARD[index].astype(np.float32), valid=drawn)
        accepted = np.asarray(control.select(jax.random.key(0), candidates).accepted)
        assert (accepted.sum(axis=1) == 2).all()
        return np.bincount(index[accepted], minlength=CELLS)

    assert_law(counts_of_control(first_control(threshold(0.0)), draws // 2), Q)
    # Where the candidates run out it is only near, as its docstring says.
    few = random.choice(CELLS, p=Q, size=(DEFAULT_DRAWS, 2))
    candidates = Candidates(rewards=REWARD[few].astype(np.float32), valid=np.ones(few.shape, bool))
    accepted = first_control(threshold(0.0)).select(jax.random.key(0), candidates).accepted
    assert_rejects(np.bincount(few[np.asarray(accepted)], minlength=CELLS), Q)
    # By coin among those drawn, the last of which is always an accepted one, it is another law.
    assert_rejects(counts_of_control(random_control(threshold(0.0)), DEFAULT_DRAWS // 2), Q)


# Laws given one group of candidates: which subset is accepted.

GROUP = np.array([0.0, 0.4, 0.4, -0.3, 0.7])


def subset_counts(rule, draws, rewards=GROUP, seed=0):
    """Counts of each accepted subset, as a bit mask, over many prompts with the same group."""
    counts = np.zeros(2 ** len(rewards), np.int64)
    for batch in range(-(-draws // 200_000)):
        shape = (200_000, len(rewards))
        candidates = Candidates(
            rewards=np.broadcast_to(rewards.astype(np.float32), shape), valid=np.ones(shape, bool)
        )
        accepted = np.asarray(rule.select(jax.random.key(1000 * seed + batch), candidates).accepted)
        counts += np.bincount(accepted @ (1 << np.arange(len(rewards))), minlength=len(counts))
    return counts


def subset_law(size, chances):
    """Probabilities by bit mask from a dict of sets."""
    law = np.zeros(2**size)
    for subset, chance in chances.items():
        law[sum(1 << i for i in subset)] += chance
    return law


def rso_chances(rewards, beta, num, stop=True):
    """Exact law of RSO's Algorithm 1: pass by pass, coin by coin."""
    chances = {}

    def a_pass(accepted, chance):
        left = [i for i in range(len(rewards)) if i not in accepted]
        if len(accepted) >= num or not left:
            chances[accepted] = chances.get(accepted, 0) + chance
            return
        bound = max(rewards[i] for i in left)

        def coin(place, taken, chance):
            if chance == 0:
                return
            if place == len(left) or (stop and len(taken) == num):
                a_pass(taken, chance)
                return
            accept = math.exp((rewards[left[place]] - bound) / beta)
            coin(place + 1, taken | {left[place]}, chance * accept)
            coin(place + 1, taken, chance * (1 - accept))

        coin(0, accepted, chance)

    a_pass(frozenset(), 1.0)
    return chances


def test_finite_rso_has_the_law_of_algorithm_1(draws):
    law = subset_law(5, rso_chances(GROUP, BETA, 3))
    assert_law(subset_counts(rso_finite(BETA, 3), draws), law)
    assert_rejects(subset_counts(rso_finite(1.1 * BETA, 3), DEFAULT_DRAWS), law)
    # Public copies that lost the inner `break` accept more than they were asked for.
    no_break = subset_law(5, rso_chances(GROUP, BETA, 3, stop=False))
    assert_rejects(subset_counts(rso_finite(BETA, 3), DEFAULT_DRAWS), no_break)


def plackett_luce(weights, num):
    chances = {}
    for order in itertools.permutations(range(len(weights)), num):
        chance, left = 1.0, sum(weights)
        for i in order:
            chance, left = chance * weights[i] / left, left - weights[i]
        subset = frozenset(order)
        chances[subset] = chances.get(subset, 0) + chance
    return chances


def test_importance_resampling_takes_one_after_another_by_weight(draws):
    law = subset_law(5, plackett_luce(np.exp(GROUP / BETA), 2))
    assert_law(subset_counts(importance_resample(2, BETA), draws), law)
    assert_rejects(subset_counts(importance_resample(2, 1.1 * BETA), DEFAULT_DRAWS), law)


def test_importance_resampling_of_one_has_the_law_it_states(draws):
    weight = np.exp(REWARD / BETA)
    law = 2 * Q * ((weight[:, None] / (weight[:, None] + weight[None, :])) @ Q)
    assert_law(counts_of(importance_resample(1, BETA), draws, 2), law)
    # Two candidates are far from the target that many would reach.
    assert_rejects(counts_of(importance_resample(1, BETA), DEFAULT_DRAWS, 2), TILTED)


def test_importance_resampling_with_replacement_counts_the_draws():
    share = normalized(np.exp(GROUP / BETA))
    law = np.zeros(2**5)
    for drawn in itertools.product(range(5), repeat=3):
        law[sum(1 << i for i in set(drawn))] += share[list(drawn)].prod()
    rule = importance_resample(3, BETA, replace=True)
    assert_law(subset_counts(rule, DEFAULT_DRAWS), law)
    assert_rejects(subset_counts(importance_resample(3, BETA), DEFAULT_DRAWS), law)
    shape = (10_000, 5)
    candidates = Candidates(
        rewards=np.broadcast_to(GROUP.astype(np.float32), shape), valid=np.ones(shape, bool)
    )
    selection = rule.select(jax.random.key(0), candidates)
    weights = np.exp(np.asarray(selection.log_weight))
    np.testing.assert_allclose(weights.sum(axis=1), 3, rtol=1e-6)
    np.testing.assert_allclose(selection.accept_prob[0], 1 - (1 - share) ** 3, rtol=1e-5)


@pytest.mark.parametrize(
    "rule",
    [importance_resample(2, BETA), statistical_rejection(BETA), random_control(at_most(2))],
    ids=["importance_resample", "statistical_rejection", "random_control"],
)
def test_accept_prob_is_how_often_a_candidate_is_accepted(rule):
    shape = (100_000, 5)
    candidates = Candidates(
        rewards=np.broadcast_to(GROUP.astype(np.float32), shape), valid=np.ones(shape, bool)
    )
    selection = rule.select(jax.random.key(3), candidates)
    gap = np.asarray(selection.accepted, float) - np.asarray(selection.accept_prob, float)
    # Six standard errors, for the variance that any gap with this mean probability has at most.
    assert (np.abs(gap.mean(axis=0)) < 6 * 0.5 / math.sqrt(len(gap))).all()
    mutant = gap + 0.02 * np.asarray(selection.accept_prob)
    assert not (np.abs(mutant.mean(axis=0)) < 6 * 0.5 / math.sqrt(len(gap))).all()


def test_control_takes_every_subset_alike(draws):
    subsets = {frozenset(s): 1 / 10 for s in itertools.combinations(range(5), 2)}
    law = subset_law(5, subsets)
    assert_law(subset_counts(random_control(top_k(2)), draws), law)
    assert_rejects(subset_counts(importance_resample(2, 50.0), 1_000_000), law)  # almost uniform
    # Three reach the threshold.
    subsets = {frozenset(s): 1 / 10 for s in itertools.combinations(range(5), 3)}
    assert_law(subset_counts(random_control(threshold(0.4)), DEFAULT_DRAWS), subset_law(5, subsets))


def test_control_accepts_as_many_as_its_rule_with_the_same_key():
    random = np.random.default_rng(0)
    candidates = Candidates(rewards=random.normal(size=(500, 8)), valid=np.ones((500, 8), bool))
    rule = chain(statistical_rejection(1.0), at_most(4))
    for seed in range(3):
        key = jax.random.key(seed)
        count = rule.select(key, candidates).accepted.sum(axis=1)
        assert len(set(count.tolist())) > 1
        control = random_control(rule).select(key, candidates)
        assert np.array_equal(control.accepted.sum(axis=1), count)
        assert not np.array_equal(control.accepted, rule.select(key, candidates).accepted)


def test_control_tosses_coins_of_its_own():
    candidates = Candidates(rewards=np.zeros((5000, 8)), valid=np.ones((5000, 8), bool))
    coin = statistical_rejection(1.0, max_reward=math.log(2))  # accepts each with 1/2
    accepted = np.asarray(coin.select(jax.random.key(0), candidates).accepted)
    control = np.asarray(random_control(coin).select(jax.random.key(0), candidates).accepted)
    # c of 8 chosen at random meet c of 8 in c / 8 of the cases: E c^2 / (8 E c) = 18 / 32. With
    # the rule's own coins the smallest of them would be those that it accepted: all.
    assert 0.54 < (accepted & control).sum() / control.sum() < 0.585


def test_group_filter_keeps_a_prompt_as_often_as_it_says():
    rate, n, prompts = 0.4, 4, DEFAULT_DRAWS
    verdicts = np.random.default_rng(0).random((prompts, n)) < rate
    candidates = Candidates(rewards=verdicts, valid=np.ones(verdicts.shape, bool))
    kept = group_filter(0, 1).select(jax.random.key(0), candidates).accepted
    count = int(np.asarray(kept).all(axis=1).sum())
    assert count * n == int(np.asarray(kept).sum()), "a group is kept or dropped whole"
    assert_rate(count, prompts, 1 - rate**n - (1 - rate) ** n)
    mutant = int(verdicts.any(axis=1).sum())  # drops the all-fail groups alone
    assert rate_p_value(mutant, prompts, 1 - rate**n - (1 - rate) ** n) < 2e-8


def test_unique_keeps_each_outcome_as_often_as_it_says():
    n, prompts = 6, 50_000
    index = np.random.default_rng(0).choice(CELLS, p=Q, size=(prompts, n))
    candidates = Candidates(
        rewards=np.zeros(index.shape), valid=np.ones(index.shape, bool), fingerprint=index
    )
    accepted = np.asarray(unique().select(jax.random.key(0), candidates).accepted)
    counts = count_cells(index[accepted], CELLS)
    for cell in range(CELLS):
        assert_rate(counts[cell], prompts, 1 - (1 - Q[cell]) ** n, alarm=2e-8 / CELLS)
    largest = int(Q.argmax())
    everything = (index == largest).sum()  # as if no copy were dropped
    assert rate_p_value(min(everything, prompts), prompts, 1 - (1 - Q[largest]) ** n) < 2e-8
