import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.generation import Completions
from rsft_jax.numerics.round_keys import round_keys
from rsft_jax.rounds import (
    Info,
    OffPolicyError,
    Proposed,
    Scored,
    as_candidates,
    collect,
    run_rounds,
    run_rounds_with,
    select_candidates,
)
from rsft_jax.selection import best_of_n, density_ratio, statistical_rejection, threshold
from tests.gates import assert_law, assert_rejects

CELLS = 4
PROMPTS = 2_000
MANY = 25_000
REWARDS = jnp.array([0.0, 0.3, 0.6, 1.0])
BETA = 0.7


def _propose(key, logits, prompts):
    return jax.random.categorical(key, logits, shape=(prompts, 8))


def _score(prompts, values):
    return REWARDS[values]


def _fit(key, logits, prompts, values, weights):
    """The maximum-likelihood policy of the accepted samples: training to its optimum."""
    mass = jnp.zeros(CELLS).at[values.ravel()].add(weights.ravel())
    return jnp.log(mass / mass.sum()), {"mass": float(mass.sum())}


def _run(key=0, propose=_propose, state=None, **options):
    options = {
        "prompts": lambda t: PROMPTS,
        "score": _score,
        "rule": statistical_rejection(BETA, max_reward=1.0),
        "improve": _fit,
        "num_rounds": 2,
    } | options
    start = jnp.log(jnp.full(CELLS, 1 / CELLS)) if state is None else state
    return run_rounds(jax.random.key(key), start, propose=propose, **options)


def _counts(report):
    chosen = np.asarray(report.collected.completions)[report.collected.selection.accepted]
    return np.bincount(chosen, minlength=CELLS)


def _tilted(power):
    law = np.exp(power * np.asarray(REWARDS) / BETA)
    return law / law.sum()


def test_two_rounds_from_the_current_policy_reach_the_twice_tilted_law():
    many = {"prompts": lambda t: MANY}
    first, second = _run(**many)
    assert_law(_counts(first), _tilted(1))
    # The second round's proposal is the fitted policy, itself a sample: its own law is exact.
    proposal = np.asarray(jax.nn.softmax(first.state))
    once_more = proposal * np.exp(np.asarray(REWARDS) / BETA)
    assert_law(_counts(second), once_more / once_more.sum())
    assert np.abs(np.asarray(jax.nn.softmax(second.state)) - _tilted(2)).max() < 0.01
    # The mutant: samples from the policy before the first round.
    stale = list(
        _run(propose=lambda key, _, prompts: _propose(key, jnp.zeros(CELLS), prompts), **many)
    )
    assert_rejects(_counts(stale[1]), once_more / once_more.sum())
    assert np.abs(np.asarray(jax.nn.softmax(stale[1].state)) - _tilted(2)).max() > 0.05


def test_a_run_continued_after_a_round_is_the_uninterrupted_run():
    whole = list(_run(num_rounds=3))
    again = list(_run(num_rounds=3, first_round=2, state=whole[0].state))
    assert [report.round for report in again] == [2, 3]
    np.testing.assert_array_equal(again[-1].state, whole[-1].state)
    assert (np.asarray(_run(key=1).__next__().state) != np.asarray(whole[0].state)).any()


def test_rounds_do_not_share_randomness():
    first, second = _run(improve=lambda key, state, *_: (state, {}))
    a, b = (np.asarray(r.collected.completions) for r in (first, second))
    assert np.mean(a == b) < 0.3  # a quarter agrees by chance


def test_a_round_that_accepts_nothing_makes_no_update():
    (report,) = _run(rule=threshold(2.0), num_rounds=1, improve=None)
    assert report.num_accepted == 0
    assert report.metrics == {}
    np.testing.assert_array_equal(report.state, np.log(np.full(CELLS, 1 / CELLS, np.float32)))


def test_weights_of_rejected_candidates_are_zero_whatever_their_log_weight():
    collected = collect(
        jax.random.key(0), jnp.zeros(CELLS), 50,
        propose=_propose, score=lambda p, x: jnp.where(x == 1, jnp.nan, REWARDS[x]),
        rule=best_of_n(),
    )  # fmt: skip
    weights = np.asarray(collected.weights)
    accepted = np.asarray(collected.selection.accepted)
    assert (weights[~accepted] == 0).all()
    assert (weights[accepted] == 1).all()
    assert not (np.asarray(collected.completions)[accepted] == 1).any()


def test_the_run_stops_when_sampler_and_trainer_disagree():
    assert next(_run(check=lambda *_: 0.004)).gap == 0.004
    for gap in (0.02, float("nan")):
        with pytest.raises(OffPolicyError, match=r"round 1: .* nats"):
            next(_run(check=lambda *_, gap=gap: gap))


def test_candidates_know_what_completions_know():
    shape = (2, 3)
    completions = Completions(
        tokens=jnp.zeros((*shape, 4), jnp.int32),
        lengths=jnp.full(shape, 4),
        log_probs=jnp.full((*shape, 4), -0.5),
        finished=jnp.ones(shape, bool),
        failed=jnp.array([[True, False, False], [False, False, False]]),
    )
    candidates = as_candidates(completions, jnp.zeros(shape))
    np.testing.assert_array_equal(candidates.valid, ~completions.failed)
    np.testing.assert_allclose(candidates.log_proposal, -2.0)
    assert as_candidates(object(), jnp.zeros(shape)).log_proposal is None


def test_densities_that_are_told_reach_the_rule():
    log_q, log_p = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.9, 0.1]]))
    found = collect(
        jax.random.key(0), None, None, rule=density_ratio(log_envelope=0.0),
        propose=lambda *_: Proposed(jnp.zeros((1, 2)), None, log_q),
        score=lambda *_: Scored(jnp.zeros((1, 2)), log_target=log_p),
    )  # fmt: skip
    np.testing.assert_allclose(found.selection.accept_prob, [[1.0, 0.2]], rtol=1e-6)


def test_what_was_not_drawn_is_no_candidate():
    shape = (1, 2)
    completions = Completions(
        tokens=jnp.zeros((*shape, 4), jnp.int32),
        lengths=jnp.array([[4, 0]]),
        log_probs=jnp.zeros((*shape, 4)),
        finished=jnp.zeros(shape, bool),
        failed=jnp.zeros(shape, bool),
    )
    assert as_candidates(completions, jnp.ones(shape)).valid.tolist() == [[True, False]]


def test_rounds_with_the_usual_way_to_collect_are_the_usual_rounds():
    rule = statistical_rejection(BETA, max_reward=1.0)
    usual = functools.partial(collect, propose=_propose, score=_score, rule=rule)
    start = jnp.log(jnp.full(CELLS, 1 / CELLS))
    ours = list(
        run_rounds_with(
            jax.random.key(0), start, prompts=lambda t: PROMPTS, collect=usual, improve=_fit,
            num_rounds=3, first_round=2,
        )
    )  # fmt: skip
    theirs = list(_run(num_rounds=3, first_round=2, rule=rule))
    assert [report.round for report in ours] == [2, 3]
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a.state, b.state)
        np.testing.assert_array_equal(a.collected.completions, b.collected.completions)
        assert a.metrics == b.metrics
    assert set(ours[0].seconds) == {"generate", "train"}
    assert set(theirs[0].seconds) == {"generate", "score", "select", "train"}


def test_collect_jits_and_vmaps_over_seeds_and_hyperparameters():
    def accepted(key, beta):
        collected = collect(
            key, jnp.zeros(CELLS), 16,
            propose=_propose, score=_score, rule=statistical_rejection(beta, max_reward=1.0),
        )  # fmt: skip
        return collected.selection.accepted

    keys = jax.random.split(jax.random.key(0), 5)
    betas = jnp.linspace(0.2, 1.0, 5)
    batched = jax.jit(jax.vmap(accepted))(keys, betas)
    for i in range(5):
        np.testing.assert_array_equal(batched[i], accepted(keys[i], betas[i]))


def test_a_report_carries_what_was_said_of_drawing_and_of_scoring():
    plain, told = (
        list(_run(propose=propose, score=score))
        for propose, score in (
            (_propose, _score),
            (
                lambda key, state, n: Proposed(_propose(key, state, n), {"drawn": n}),
                lambda prompts, x: Scored(_score(prompts, x), "best first"),
            ),
        )
    )
    assert [report.info for report in plain] == [Info(), Info()]
    assert [report.info for report in told] == [Info({"drawn": PROMPTS}, "best first")] * 2
    for a, b in zip(plain, told):
        np.testing.assert_array_equal(a.state, b.state)
        np.testing.assert_array_equal(a.collected.completions, b.collected.completions)


def test_candidates_that_are_there_are_selected_as_their_round_did():
    rule = statistical_rejection(BETA, max_reward=1.0)
    for report in _run(rule=rule):
        keys = round_keys(jax.random.key(0), report.round)
        again = select_candidates(keys.collect, report.collected.candidates, rule)
        np.testing.assert_array_equal(again.accepted, report.collected.selection.accepted)
        # The mutant: the key of drawing.
        wrong = rule.select(keys.propose, report.collected.candidates)
        assert (np.asarray(wrong.accepted) != np.asarray(again.accepted)).any()
