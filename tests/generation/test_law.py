import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.generation import SamplingParams, decode_step, generate, init_state, score
from rsft_jax.generation.uncached import HistoryLogits, init_history
from tests.gates import DEFAULT_DRAWS, SLOW_DRAWS, ToyModel, assert_law, assert_rejects
from tests.generation.toys import PROMPT, ToyLogits, count_completions, enumerate_law

TOY = ToyModel(53)
LOGITS = ToyLogits(TOY)
PARAMS = jnp.zeros(())


def _draw(sampling, number=DEFAULT_DRAWS, seed=0):
    # Prompts of three lengths: the law must not depend on what pads them.
    prompts = [[PROMPT], [PROMPT] * 3, [PROMPT] * 2, [PROMPT]]
    return generate(
        jax.random.key(seed), LOGITS, PARAMS, prompts,
        num_candidates=number // 4, sampling=sampling,
    )  # fmt: skip


def _tempered(t):
    return lambda p: p ** (1 / t) / (p ** (1 / t)).sum()


def _top_k(k):
    def transform(p):
        kept = np.zeros_like(p)
        best = np.argsort(-p, kind="stable")[:k]
        kept[best] = p[best]
        return kept / kept.sum()

    return transform


def _top_p(mass):
    def transform(p):
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        kept = np.zeros_like(p)
        kept[order[before < mass]] = p[order[before < mass]]
        return kept / kept.sum()

    return transform


def _min_p(share):
    return lambda p: np.where(p >= share * p.max(), p, 0) / p[p >= share * p.max()].sum()


def _penalised(penalty):
    # All logits are log-probabilities, so never positive: the penalty is an exponent.
    def context(prefix, p):
        p = np.where(np.isin(np.arange(5), prefix), p**penalty, p)
        return p / p.sum()

    return context


def _without(tokens, before=99):
    def context(prefix, p):
        p = np.where(np.isin(np.arange(5), tokens) & (len(prefix) < before), 0, p)
        return p / p.sum()

    return context


BASE = SamplingParams(max_new_tokens=3)
STOPS = dataclasses.replace(BASE, stop_token_ids=(1, 4))
LAWS = {
    "plain": (BASE, {}),
    "temperature 0.5": (
        dataclasses.replace(BASE, temperature=0.5),
        {"transform": _tempered(0.5)},
    ),
    "temperature 2": (dataclasses.replace(BASE, temperature=2.0), {"transform": _tempered(2)}),
    "top-k": (dataclasses.replace(BASE, top_k=3), {"transform": _top_k(3)}),
    "top-p": (dataclasses.replace(BASE, top_p=0.7), {"transform": _top_p(0.7)}),
    "min-p": (dataclasses.replace(BASE, min_p=0.4), {"transform": _min_p(0.4)}),
    "all in order": (
        dataclasses.replace(BASE, temperature=2.0, top_k=4, top_p=0.9, min_p=0.3),
        {"transform": lambda p: _min_p(0.3)(_top_p(0.9)(_top_k(4)(_tempered(2)(p))))},
    ),
    "stop tokens": (dataclasses.replace(BASE, stop_token_ids=(1, 4)), {"stop": (1, 4)}),
    "one token": (SamplingParams(max_new_tokens=1), {"max_new_tokens": 1}),
    "repetition penalty": (
        dataclasses.replace(BASE, repetition_penalty=1.7),
        {"context": _penalised(1.7)},
    ),
    "penalty, then temperature": (
        dataclasses.replace(BASE, repetition_penalty=1.7, temperature=0.6),
        {"context": _penalised(1.7), "transform": _tempered(0.6)},
    ),
    "fewest tokens": (
        dataclasses.replace(STOPS, min_new_tokens=1),
        {"stop": (1, 4), "context": _without((1, 4), before=1)},
    ),
}
# What each law is mistaken for when the transform or the stop rule is forgotten or wrong.
MUTANTS = {
    "plain": {"transform": _tempered(1.1)},
    "temperature 0.5": {"transform": _tempered(0.55)},
    "temperature 2": {"transform": _tempered(1.8)},
    "top-k": {"transform": _top_k(4)},
    "top-p": {"transform": _top_p(0.75)},
    "min-p": {"transform": _min_p(0.35)},
    "all in order": {"transform": lambda p: _tempered(2)(_min_p(0.3)(_top_p(0.9)(_top_k(4)(p))))},
    "stop tokens": {"stop": (1,)},
    "one token": {"transform": _tempered(1.1), "max_new_tokens": 1},
    "repetition penalty": {"context": lambda prefix, p: _penalised(1.7)(prefix[-1:], p)},
    "penalty, then temperature": {
        "context": lambda prefix, p: _penalised(1.7)(prefix, _tempered(0.6)(p)),
    },
    "fewest tokens": {"stop": (1, 4), "context": _without((1, 4), before=2)},
}


def _counts_over(union, completions):
    return count_completions(completions, union)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(
    "number", [DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)]
)
def test_generate_follows_the_enumerated_law(name, number):
    sampling, options = LAWS[name]
    law = enumerate_law(TOY, **options)
    mutant = enumerate_law(TOY, **MUTANTS[name])
    cells = dict.fromkeys([*law, *mutant])
    counts = count_completions(_draw(sampling, number), cells)
    assert_law(counts, [law.get(key, 0.0) for key in cells])
    assert_rejects(counts, [mutant.get(key, 0.0) for key in cells])


def test_candidates_of_one_prompt_are_independent_and_none_repeats():
    # 64 equally likely tokens, 12 places: two equal completions have a chance of 1e-12.
    uniform = UniformLogits(64)
    sampling = SamplingParams(max_new_tokens=12)
    drawn = generate(
        jax.random.key(1), uniform, None, [[0]] * 20, num_candidates=5000, sampling=sampling
    )
    again = generate(
        jax.random.key(2), uniform, None, [[0]], num_candidates=5000, sampling=sampling
    )
    rows = np.concatenate(
        [np.asarray(drawn.tokens).reshape(-1, 12), np.asarray(again.tokens).reshape(-1, 12)]
    )
    assert len(np.unique(rows, axis=0)) == len(rows)
    # The next candidate's first token does not depend on this one's.
    first = np.asarray(drawn.tokens)[:, :, 0] // 13
    pairs = np.bincount((first[:, :-1] * 5 + first[:, 1:]).ravel(), minlength=25)
    share = np.array([13, 13, 13, 13, 12]) / 64
    assert_law(pairs, np.outer(share, share).ravel())


class UniformLogits:
    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def __call__(self, params, tokens, positions, cache):
        return jnp.zeros((*tokens.shape, self.vocab_size)), cache


def test_a_slot_that_reuses_a_key_is_seen():
    # The mutant behind the test above: the token's index is not folded into the key.
    sampling = SamplingParams(max_new_tokens=2)
    model = HistoryLogits(UniformLogits(5))
    state = init_state(jax.random.key(0), init_history, 20_000, 1, 2)
    state = state.replace(active=jnp.ones(20_000, bool))
    first = decode_step(None, state, logits_fn=model, sampling=sampling)
    reused = decode_step(
        None, first.replace(length=jnp.zeros(20_000, jnp.int32)),
        logits_fn=model, sampling=sampling,
    )  # fmt: skip
    right = decode_step(None, first, logits_fn=model, sampling=sampling)
    law = np.full(25, 1 / 25)
    assert_law(np.bincount(right.tokens[:, 0] * 5 + right.tokens[:, 1], minlength=25), law)
    assert_rejects(np.bincount(first.tokens[:, 0] * 5 + reused.tokens[:, 0], minlength=25), law)


@pytest.mark.parametrize("name", LAWS)
def test_log_probs_are_those_of_the_declared_law(name):
    sampling, options = LAWS[name]
    law = enumerate_law(TOY, **options)
    drawn = _draw(sampling, 400)
    total = np.asarray(drawn.log_probs.sum(axis=-1)).ravel()
    tokens = np.asarray(drawn.tokens).reshape(len(total), -1)
    expected = [np.log(law[tuple(int(t) for t in row if t >= 0)]) for row in tokens]
    np.testing.assert_allclose(total, expected, atol=1e-5)


@pytest.mark.parametrize("name", LAWS)
def test_score_gives_the_log_probs_of_generate(name):
    sampling, _ = LAWS[name]
    prompts = [[PROMPT], [PROMPT] * 3, [PROMPT] * 2, [PROMPT]]
    drawn = _draw(sampling, 40)
    scored = score(LOGITS, PARAMS, prompts, drawn, sampling=sampling, rows_at_once=7)
    np.testing.assert_allclose(scored, drawn.log_probs, atol=1e-5)


def test_greedy_takes_the_likeliest_token_and_the_lowest_id_of_equals():
    class Tied(UniformLogits):
        def __call__(self, params, tokens, positions, cache):
            logits, cache = super().__call__(params, tokens, positions, cache)
            return logits.at[..., 2].set(1.0).at[..., 4].set(1.0), cache

    sampling = SamplingParams(max_new_tokens=3, temperature=0.0)
    drawn = generate(jax.random.key(0), Tied(6), None, [[1]], num_candidates=2, sampling=sampling)
    assert (drawn.tokens == 2).all()
    assert (drawn.log_probs == 0).all()
    scored = score(Tied(6), None, [[1]], drawn, sampling=sampling)
    assert (scored == 0).all()
