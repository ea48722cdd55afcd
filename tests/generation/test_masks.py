"""What `generate` is given beside its law: allowed tokens, stop strings, the policy's own law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.generation import (
    Context,
    SamplingParams,
    check_completions,
    generate,
    sampling_logits,
    score,
    stop_strings,
)
from tests.gates import DEFAULT_DRAWS, ToyModel, assert_law, assert_rejects
from tests.generation.toys import PROMPT, ToyLogits, count_completions, enumerate_law

TOY = ToyModel(53)
LOGITS, PARAMS = ToyLogits(TOY), jnp.zeros(())
BASE = SamplingParams(max_new_tokens=3)


def _draw(num, prompts=((PROMPT,),), sampling=BASE, **options):
    prompts = [list(prompt) for prompt in prompts]
    return generate(
        jax.random.key(5), LOGITS, PARAMS, prompts, num_candidates=num, sampling=sampling,
        **options,
    )  # fmt: skip


def _only(allowed):
    def context(prefix, p):
        p = np.where(allowed[:5], p, 0)
        return p / p.sum()

    return context


def test_allowed_tokens_may_differ_from_prompt_to_prompt():
    allowed = np.ones((2, 10), bool)
    allowed[0, [1, 3]] = allowed[1, [0]] = False
    drawn = _draw(DEFAULT_DRAWS // 2, [[PROMPT], [PROMPT] * 2], allowed_tokens=allowed)
    for row in range(2):
        law = enumerate_law(TOY, context=_only(allowed[row]))
        of_prompt = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], drawn)
        counts = count_completions(of_prompt, law)
        assert_law(counts, list(law.values()))
    # The mutant: the mask of the other prompt.
    everything = enumerate_law(TOY)
    wrong = enumerate_law(TOY, context=_only(allowed[0]))
    of_second = jax.tree.map(lambda leaf: leaf[1:], drawn)
    assert_rejects(
        count_completions(of_second, everything), [wrong.get(k, 0.0) for k in everything]
    )


def test_slots_masks_and_penalties_give_the_same_as_one_program():
    sampling = SamplingParams(
        max_new_tokens=3, stop_token_ids=(2,), min_new_tokens=1, repetition_penalty=1.5
    )
    allowed = np.ones((3, 10), bool)
    allowed[0, 3] = allowed[2, 0] = False
    prompts = [[PROMPT], [PROMPT] * 3, [PROMPT] * 2]
    options = {"sampling": sampling, "allowed_tokens": allowed, "policy_log_probs": True}
    whole = _draw(40, prompts, **options)
    for slots in (1, 7, 64):
        some = _draw(40, prompts, slots=slots, **options)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(some)):
            np.testing.assert_allclose(a, b, atol=1e-6)
    scored = score(
        LOGITS, PARAMS, prompts, whole, sampling=sampling, allowed_tokens=allowed, rows_at_once=16
    )
    np.testing.assert_allclose(scored, whole.log_probs, atol=1e-5)
    raw = score(LOGITS, PARAMS, prompts, whole, sampling=SamplingParams(max_new_tokens=1))
    np.testing.assert_allclose(raw, whole.policy_log_probs, atol=1e-5)
    assert np.abs(np.asarray(raw) - np.asarray(scored)).max() > 0.1


def test_a_mask_over_all_tokens_fails_the_prompt_and_names_it():
    allowed = np.ones((2, 10), bool)
    allowed[1] = False
    drawn = _draw(2, [[PROMPT], [PROMPT]], allowed_tokens=allowed)
    assert drawn.failed.tolist() == [[False, False], [True, True]]
    with pytest.raises(ValueError, match="prompt 1, candidate 0, at new token 0; 2 of 4"):
        check_completions(drawn)


@pytest.mark.parametrize("slots", [3, 64])
def test_stop_strings_end_a_completion_with_the_token_that_completes_one(slots):
    words = ["a", "bc", "d", "ef", "g"]

    def decode(ids):
        return "".join(words[i] for i in ids)

    stop = stop_strings(decode, ["cd", "fa"])
    free, cut = _draw(300, slots=slots), _draw(300, slots=slots, stop=stop)
    ended = 0
    for whole, n, short, finished, log_probs in zip(
        np.asarray(free.tokens[0]), np.asarray(cut.lengths[0]), np.asarray(cut.tokens[0]),
        np.asarray(cut.finished[0]), np.asarray(cut.log_probs[0]),
    ):  # fmt: skip
        text = decode(whole)
        expected = min([text.find(s) for s in ("cd", "fa") if s in text], default=None)
        assert finished == (expected is not None)
        ended += finished
        # One word may hold more than the last letter of a string; shorter never.
        assert all(s not in decode(short[: n - 1]) for s in ("cd", "fa"))
        assert (short[:n] == whole[:n]).all()
        assert (short[n:] == -1).all()
        assert (log_probs[n:] == 0).all()
        assert finished == any(s in decode(short[:n]) for s in ("cd", "fa"))
    assert 0 < ended < 300


def test_a_law_that_needs_a_context_refuses_without_one():
    for sampling in (
        SamplingParams(max_new_tokens=3, repetition_penalty=2.0),
        SamplingParams(max_new_tokens=3, min_new_tokens=1),
    ):
        with pytest.raises(ValueError, match="need a context"):
            sampling_logits(jnp.zeros((1, 5)), sampling)
    with pytest.raises(ValueError, match=r"needs context\.seen"):
        sampling_logits(
            jnp.zeros((1, 5)),
            SamplingParams(max_new_tokens=3, repetition_penalty=2.0),
            Context(jnp.zeros(1, jnp.int32)),
        )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("min_new_tokens", 5, r"min_new_tokens must be in \[0, 4\] \(max_new_tokens\), got 5"),
        ("min_new_tokens", -1, "min_new_tokens must be in"),
        (
            "repetition_penalty",
            0.0,
            r"repetition_penalty must be in \(0, inf\) .*, got 0.0",
        ),
        ("repetition_penalty", float("nan"), "repetition_penalty must be in"),
    ],
)
def test_sampling_params_refuse(field, value, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**({"max_new_tokens": 4} | {field: value}))


def test_stop_strings_refuse_none_and_the_empty_one():
    for strings in ([], ["a", ""]):
        with pytest.raises(ValueError, match="stop strings must be one or more, none empty"):
            stop_strings(str, strings)
    with pytest.raises(ValueError, match="stop needs slots"):
        _draw(2, stop=stop_strings(str, ["a"]))
