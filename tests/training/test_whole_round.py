"""Whole rounds on a policy whose law is a table: draw, score, select, fine-tune to the optimum.

Every completion of three tokens out of five is enumerated, and so is the law that each round must
reach: q exp(r / beta) after the first, and q exp(2 r / beta) after the second, because its
candidates come from the policy that the first has trained.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rsft_jax.generation import SamplingParams, generate
from rsft_jax.rounds import run_rounds
from rsft_jax.selection import statistical_rejection
from rsft_jax.training import (
    all_parameters,
    create_train_state,
    fine_tune,
    make_optimizer,
    make_train_step,
)
from rsft_jax.training.batches import make_batches
from tests.gates import assert_law, assert_rejects, tv_bound

VOCABULARY, LENGTH, BETA = 5, 3, 0.7
COMPLETIONS = np.array(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
REWARDS = np.random.default_rng(3).uniform(size=len(COMPLETIONS))
PART = all_parameters()
STEPS = 400
TX = make_optimizer(learning_rate=0.1, schedule="cosine", total_steps=STEPS)


class Table(nn.Module):
    """Logits for each of the 31 prefixes, after a prompt of one token."""

    def setup(self):
        self.embedder = nn.Embed(31, VOCABULARY)

    def hidden(self, tokens, positions):
        wide = jnp.pad(tokens, ((0, 0), (0, LENGTH)))  # however few columns there are
        first, second = jnp.clip(wide[:, 1:3], 0, VOCABULARY - 1).T
        places = [jnp.zeros_like(first), 1 + first, 6 + VOCABULARY * first + second]
        places = jnp.stack(places + places[-1:] * LENGTH, axis=1)[:, : tokens.shape[1]]
        return jax.nn.one_hot(places, 31)

    def head(self, hidden):
        return hidden @ self.embedder.embedding


MODEL = Table()
STEP = make_train_step(MODEL, PART)


def logits(params, tokens, positions, cache):
    hidden = MODEL.apply({"params": params}, tokens, positions, method="hidden")
    return MODEL.apply({"params": params}, hidden, method="head"), cache


def law(params):
    """The probability of each completion, in float64."""
    table = np.asarray(params["embedder"]["embedding"], np.float64)
    rows = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    first, second, third = COMPLETIONS.T
    return rows[0, first] * rows[1 + first, second] * rows[6 + 5 * first + second, third]


def tilted(probs, power=1):
    mass = probs * np.exp(power * REWARDS / BETA)
    return mass / mass.sum()


def codes(completions):
    return np.asarray(completions.tokens) @ VOCABULARY ** np.arange(LENGTH)[::-1]


def rounds(number, stale=None):
    """Two rounds from `number` candidates each; `stale` holds the sampler at those parameters."""
    start = {"embedder": {"embedding": 0.7 * jax.random.normal(jax.random.key(1), (31, 5))}}

    def propose(key, params, prompts):
        return generate(
            key, logits, stale or params, prompts, num_candidates=number // len(prompts),
            sampling=SamplingParams(max_new_tokens=LENGTH),
        )  # fmt: skip

    def improve(key, params, prompts, completions, weights):
        # A row for each completion, weighted by how often it was accepted: the same loss.
        mass = np.bincount(codes(completions).ravel(), np.asarray(weights).ravel(), len(REWARDS))
        seen = np.flatnonzero(mass)
        (batch,) = make_batches([[0]] * len(seen), COMPLETIONS[seen], mass[seen], batch_size=128)
        state, frozen = create_train_state(MODEL, PART, params, TX)
        *_, (after, _) = fine_tune(state, frozen, [batch] * STEPS, STEP)
        return PART.export(after.params, frozen), {}

    reports = run_rounds(
        jax.random.key(0), start, prompts=lambda t: [[0]] * 4, propose=propose,
        score=lambda prompts, completions: REWARDS[codes(completions)],
        rule=statistical_rejection(BETA, max_reward=1.0), improve=improve, num_rounds=2,
    )  # fmt: skip
    return start, list(reports)


def accepted(report):
    chosen = codes(report.collected.completions)[np.asarray(report.collected.selection.accepted)]
    return np.bincount(chosen, minlength=len(REWARDS))


def distance(p, q):
    return 0.5 * np.abs(p - q).sum()


@pytest.mark.parametrize("number", [100_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
def test_two_rounds_reach_the_twice_tilted_law(number):
    start, (first, second) = rounds(number)
    begin, middle, end = (law(params) for params in (start, first.state, second.state))
    # Each round accepts the law of its own policy, tilted once.
    assert_law(accepted(first), tilted(begin))
    assert_law(accepted(second), tilted(middle))
    # Fine-tuning reaches what was accepted.
    for report, probs in ((first, middle), (second, end)):
        counts = accepted(report)
        assert distance(probs, counts / counts.sum()) < 0.0009
    # The first round's error is tilted once more on its way: at most by exp(1 / beta).
    sizes = [accepted(report).sum() for report in (first, second)]
    bounds = [tv_bound(len(REWARDS), size) + 0.0009 for size in sizes]
    reached = distance(end, tilted(begin, 2))
    assert reached < bounds[1] + np.exp(1 / BETA) * bounds[0]
    assert reached < 0.25 * distance(tilted(begin), tilted(begin, 2))


def test_candidates_of_a_stale_policy_are_caught():
    start, (first, second) = rounds(60_000)
    _, (_, stale) = rounds(60_000, stale=start)
    assert_rejects(accepted(stale), tilted(law(first.state)))
    twice = tilted(law(start), 2)
    assert distance(law(stale.state), twice) > 3 * distance(law(second.state), twice)
