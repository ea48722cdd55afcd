"""A stream gives the tokens of `generate`, one at a time, by programs that its prompts share."""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.generation import SamplingParams, Speculative, generate, stop_strings, stream
from rsft_jax.models import cache_fn, logits_fn
from tests.generation.toys import small_transformer

MODULE = sys.modules["rsft_jax.generation.stream"]  # the package gives the function that name
VOCAB = 97
PROMPTS = [[1, 2, 3], [4], list(range(5, 75))]
LAWS = {
    "plain": SamplingParams(max_new_tokens=9, stop_token_ids=tuple(range(3, 40, 5))),
    "cut": SamplingParams(max_new_tokens=9, temperature=0.7, top_k=20, top_p=0.9, min_p=0.02),
    "greedy": SamplingParams(max_new_tokens=5, temperature=0.0),
    "context": SamplingParams(
        max_new_tokens=9, stop_token_ids=tuple(range(48)), min_new_tokens=4, repetition_penalty=1.4
    ),
}
ODD = np.arange(VOCAB) % 2 == 1


@functools.cache
def _model():
    return small_transformer(VOCAB, "float32")


def _table(params, tokens, positions, cache):
    """A policy that depends on the last token and its place; it compiles at once."""
    places = positions[..., None].astype(jnp.float32) + jnp.arange(1.0 * VOCAB)[None, None]
    return params[tokens] + jnp.sin(places), cache


def _both(prompt, sampling, *, transformer=False, prompt_id=0, candidate=0, **options):
    """A stream, and the same candidate of `generate`."""
    shared = (jax.random.key(7), _table, jax.random.normal(jax.random.key(1), (VOCAB, VOCAB)))
    if transformer:
        model, params = _model()
        shared = (shared[0], logits_fn(model), params)
        options["init_cache"] = cache_fn(model)
    batch = {"slots": 1} if "stop" in options else {}
    drawn = generate(
        *shared, [prompt], num_candidates=candidate + 1, prompt_ids=[prompt_id],
        sampling=sampling, **batch, **options,
    )  # fmt: skip
    numbers = {"prompt_id": prompt_id, "candidate": candidate}
    streamed = list(stream(*shared, prompt, sampling=sampling, **numbers, **options))
    return streamed, jax.tree.map(lambda leaf: np.asarray(leaf)[0, candidate], drawn)


def _assert_same(streamed, drawn):
    length = drawn.lengths
    assert [s.token for s in streamed] == drawn.tokens[:length].tolist()
    np.testing.assert_allclose([s.log_prob for s in streamed], drawn.log_probs[:length], atol=1e-5)
    assert [s.finished for s in streamed] == [False] * (length - 1) + [bool(drawn.finished)]


@pytest.mark.parametrize("law", LAWS)
def test_tokens_are_those_of_generate_under_any_law(law):
    _assert_same(*_both(PROMPTS[0], LAWS[law]))


def test_tokens_are_those_of_generate_with_a_cache_and_other_padding():
    for prompt in PROMPTS[1:]:
        _assert_same(*_both(prompt, LAWS["context"], transformer=True))


def test_any_candidate_of_any_prompt_can_be_streamed_and_others_differ():
    streams = []
    for prompt_id, candidate in itertools.product((0, 4), (0, 3)):
        streamed, drawn = _both(PROMPTS[0], LAWS["plain"], prompt_id=prompt_id, candidate=candidate)
        _assert_same(streamed, drawn)
        streams.append(tuple(s.token for s in streamed))
    assert len(set(streams)) == 4


def test_masks_and_stop_rules_are_as_in_generate():
    streamed, drawn = _both(PROMPTS[0], LAWS["cut"], allowed_tokens=ODD)
    _assert_same(streamed, drawn)
    assert all(s.token % 2 for s in streamed)
    free, _ = _both(PROMPTS[0], LAWS["cut"])
    third = free[2].token
    stop = stop_strings(lambda ids: " ".join(map(str, ids)) + " ", [f"{third} "])
    streamed, drawn = _both(PROMPTS[0], LAWS["cut"], stop=stop)
    _assert_same(streamed, drawn)
    assert len(streamed) <= 3
    assert streamed[-1].finished


def test_a_policy_that_draws_blocks_is_given_token_by_token():
    from rsft_jax.generation import NgramDraft
    from rsft_jax.generation.uncached import HistoryLogits, init_history

    bigram = lambda params, tokens, positions, cache: (params[tokens], cache)  # noqa: E731
    table = jnp.log(jnp.array([[0.1, 0.9, 0.0], [0.0, 0.1, 0.9], [0.9, 0.1, 0.0]]))
    policy = Speculative(HistoryLogits(bigram), init_history, NgramDraft(1, 3), num_drafts=3)
    law = SamplingParams(max_new_tokens=14)
    shared = (jax.random.key(3), policy, (table, None))
    options = {"sampling": law, "init_cache": policy.init_cache}
    drawn = generate(*shared, [[0, 1, 2]], num_candidates=1, **options)
    tokens = [s.token for s in stream(*shared, [0, 1, 2], **options)]
    assert tokens == np.asarray(drawn.tokens)[0, 0].tolist()
    assert int(drawn.steps[0, 0]) < 14  # some steps gave several


def _stream_of_table(prompt, new_tokens, **options):
    law = SamplingParams(max_new_tokens=new_tokens)
    table = jnp.zeros((VOCAB, VOCAB))
    return stream(jax.random.key(0), _table, table, prompt, sampling=law, **options)


def test_prompts_of_one_padded_length_share_their_programs():
    def programs():
        return MODULE._begin._cache_size() + MODULE._step._cache_size()

    list(_stream_of_table([1], 3))
    before = programs()
    for length, candidate in ((2, 1), (30, 2), (64, 3)):
        list(_stream_of_table(np.arange(length), 3, candidate=candidate))
    assert programs() == before
    list(_stream_of_table(np.arange(65), 3))
    assert programs() == before + 2


def test_a_stream_that_is_left_draws_no_more_than_one_token_ahead(monkeypatch):
    calls = []
    step = MODULE._step
    monkeypatch.setattr(MODULE, "_step", lambda *a, **o: calls.append(0) or step(*a, **o))
    tokens = _stream_of_table([1], 50)
    assert not calls
    list(itertools.islice(tokens, 4))
    tokens.close()
    assert len(calls) == 5


def test_what_cannot_be_is_refused_before_anything_runs():
    for prompt, more, part in [
        ([], {}, "prompt 0 is empty"),
        ([-1], {}, "ids must be >= 0"),
        ([1] * 30, {"max_length": 32}, "a context of 32 leaves room for 24"),
        ([1], {"candidate": -1}, "candidate must be"),
    ]:
        with pytest.raises(ValueError, match=part):
            _stream_of_table(prompt, 8, **more)


def test_a_policy_without_a_distribution_is_an_error_at_its_token():
    def bigram(params, tokens, positions, cache):
        return params[tokens], cache

    table = jnp.log(jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    tokens = stream(
        jax.random.key(0), bigram, table, [0], sampling=SamplingParams(max_new_tokens=9)
    )
    assert [next(tokens).token, next(tokens).token] == [1, 2]
    with pytest.raises(ValueError, match=r"no distribution .* at new token 2"):
        next(tokens)
