"""Drafted tokens leave the law, and everything else, as it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.generation import (
    Frontier,
    ModelDraft,
    NgramDraft,
    SamplingParams,
    Speculative,
    generate,
    generate_accepted,
    score,
)
from rsft_jax.generation.uncached import HistoryLogits, init_history
from rsft_jax.models import cache_fn, logits_fn
from rsft_jax.selection import threshold
from tests.gates import DEFAULT_DRAWS, SLOW_DRAWS, ToyModel, assert_law, assert_rejects
from tests.generation.test_law import LAWS, TOY
from tests.generation.toys import (
    PROMPT,
    ToyLogits,
    count_completions,
    enumerate_law,
    small_transformer,
)

TARGET, OTHER = ToyLogits(TOY), ToyLogits(ToyModel(7))
PARAMS = (jnp.zeros(()), jnp.zeros(()))
MODEL = ModelDraft(HistoryLogits(OTHER), init_history)
LOOKUP = NgramDraft(1, 10)
PROMPTS = [[PROMPT], [PROMPT] * 3, [PROMPT] * 2, [PROMPT]]


def _policy(draft=MODEL, num=2, verification="block"):
    return Speculative(HistoryLogits(TARGET), init_history, draft, num, verification)


def _draw(policy, number, sampling, **options):
    return generate(
        jax.random.key(11), policy, PARAMS, PROMPTS, num_candidates=number // 4,
        sampling=sampling, init_cache=policy.init_cache, **options,
    )  # fmt: skip


POLICIES = {
    "model, block": _policy(),
    "model, token": _policy(verification="token"),
    "one draft": _policy(num=1),
    "more drafts than tokens": _policy(num=4),
    "lookup": _policy(LOOKUP),
}


# Laws that cut or shift what a draft may be; the others are drafted in the slow suite.
_VARIANT = pytest.mark.variant
_MARKS = {"all in order": (), "top-p": _VARIANT, "penalty, then temperature": _VARIANT}


@pytest.mark.parametrize(
    ("name", "law"),
    [
        pytest.param(name, "stop tokens", marks=() if name == "lookup" else _VARIANT)
        for name in POLICIES
    ]
    + [
        pytest.param("model, block", name, marks=_MARKS.get(name, pytest.mark.slow))
        for name in LAWS
        if name != "stop tokens"
    ],
)
@pytest.mark.parametrize(
    "number", [DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)]
)
def test_drafts_leave_the_law(name, law, number):
    sampling, options = LAWS[law]
    expected = enumerate_law(TOY, **options)
    drawn = _draw(POLICIES[name], number, sampling)
    counts = count_completions(drawn, expected)
    assert_law(counts, list(expected.values()))
    assert (np.asarray(drawn.steps) <= np.asarray(drawn.lengths)).all()


class KeepsAll(ModelDraft):
    """A mutant: says that its proposals were drawn uniformly."""

    def propose(self, *arguments):
        tokens, logits, cache = super().propose(*arguments)
        return tokens, jnp.zeros_like(logits), cache


class StartsLate(ModelDraft):
    """A mutant: the draft's law is taken one position late."""

    def propose(self, *arguments):
        tokens, logits, cache = super().propose(*arguments)
        return tokens, jnp.roll(logits, 1, axis=1), cache


@pytest.mark.parametrize("kind", [KeepsAll, StartsLate])
def test_a_draft_that_lies_about_its_law_is_seen(kind):
    sampling, options = LAWS["stop tokens"]
    expected = enumerate_law(TOY, **options)
    policy = _policy(kind(HistoryLogits(OTHER), init_history))
    counts = count_completions(_draw(policy, DEFAULT_DRAWS, sampling), expected)
    assert_rejects(counts, list(expected.values()))


def test_slots_masks_and_penalties_go_with_drafts():
    sampling = SamplingParams(
        max_new_tokens=3, stop_token_ids=(2,), min_new_tokens=1, repetition_penalty=1.5
    )
    allowed = np.ones((4, 10), bool)
    allowed[0, 3] = allowed[2, 0] = False
    options = {"sampling": sampling, "allowed_tokens": allowed, "policy_log_probs": True}
    whole = _draw(_policy(), 160, **options)
    for slots in (1, 7):
        some = _draw(_policy(), 160, slots=slots, **options)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(some)):
            np.testing.assert_allclose(a, b, atol=1e-6)
    again = score(
        TARGET, PARAMS[0], PROMPTS, whole, sampling=sampling, allowed_tokens=allowed,
        rows_at_once=32,
    )  # fmt: skip
    np.testing.assert_allclose(again, whole.log_probs, atol=1e-5)
    raw = score(TARGET, PARAMS[0], PROMPTS, whole, sampling=SamplingParams(max_new_tokens=1))
    np.testing.assert_allclose(raw, whole.policy_log_probs, atol=1e-5)


def test_a_draft_equal_to_the_policy_is_always_kept():
    policy = _policy(ModelDraft(HistoryLogits(TARGET), init_history), num=3)
    drawn = _draw(policy, 400, SamplingParams(max_new_tokens=3))
    assert (drawn.steps == 1).all()
    assert (_draw(_policy(num=3), 400, SamplingParams(max_new_tokens=3)).steps > 1).any()


def test_a_draft_equal_to_the_policy_stays_so_from_block_to_block():
    # Only if its cache too holds the last token of a block that was kept whole.
    model, params = small_transformer(61, "float32")
    draft = ModelDraft(logits_fn(model), cache_fn(model))
    policy = Speculative(logits_fn(model), cache_fn(model), draft, 3)
    drawn = generate(
        jax.random.key(2), policy, (params, params), [[1, 2, 3], [4]], num_candidates=5,
        sampling=SamplingParams(max_new_tokens=12), init_cache=policy.init_cache,
    )  # fmt: skip
    assert (drawn.steps == 3).all()


@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_with_key_value_caches_a_rejected_draft_leaves_no_trace(temperature):
    with jax.enable_x64(True):
        model, params = small_transformer(61)
        # A draft that agrees with the policy often and not always.
        near = jax.tree.map(
            lambda leaf: leaf + 0.004 * np.cos(np.arange(leaf.size) * 3.7).reshape(leaf.shape),
            params,
        )
        law = SamplingParams(max_new_tokens=12, temperature=temperature, stop_token_ids=(3, 40))
        prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
        draft = ModelDraft(logits_fn(model), cache_fn(model))
        for policy, drafts in (
            (Speculative(logits_fn(model), cache_fn(model), draft, 3), near),
            (Speculative(logits_fn(model), cache_fn(model), NgramDraft(1, 61), 3), None),
        ):
            drawn = generate(
                jax.random.key(2), policy, (params, drafts), prompts, num_candidates=5,
                sampling=law, init_cache=policy.init_cache, slots=4,
            )  # fmt: skip
            # The log-probabilities come from the cache; scoring has none.
            again = score(logits_fn(model), params, prompts, drawn, sampling=law)
            np.testing.assert_allclose(again, drawn.log_probs, atol=1e-6)
            if drafts is not None:
                kept = np.asarray(drawn.lengths).sum() / np.asarray(drawn.steps).sum()
                assert 1.2 < kept < 4
            if temperature == 0:
                plain = generate(
                    jax.random.key(2), logits_fn(model), params, prompts, num_candidates=5,
                    sampling=law, init_cache=cache_fn(model),
                )  # fmt: skip
                np.testing.assert_array_equal(plain.tokens, drawn.tokens)


def test_early_stop_takes_drafts():
    policy = _policy()
    out = generate_accepted(
        jax.random.key(0), policy, PARAMS, PROMPTS, num_accepted=2, max_candidates=30, slots=6,
        reward=lambda prompts, tokens: np.array([float(t.sum()) for t in tokens]),
        rule=threshold(5.0), sampling=SamplingParams(max_new_tokens=3),
        init_cache=policy.init_cache,
    )  # fmt: skip
    assert (out.selection.accepted.sum(axis=1) == 2).all()


def test_lookup_proposes_what_followed_the_last_time():
    draft = NgramDraft(2, 12)
    cache = draft.init_cache(3, 12)
    rows = jnp.array([[1, 2, 3, 4, 1, 2], [1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6]])
    places = jnp.broadcast_to(jnp.arange(6), rows.shape)
    cache = draft.write(None, rows[:, :5], places[:, :5], cache)
    tokens, logits, _ = draft.propose(
        None,
        Frontier(None, rows[:, 5], jnp.full(3, 5), None),
        cache,
        3,
        SamplingParams(max_new_tokens=4),
    )
    assert tokens.tolist() == [[3, 4, 1], [1, -1, -1], [-1, -1, -1]]
    np.testing.assert_array_equal(jnp.exp(logits).sum(axis=-1), np.asarray(tokens) >= 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _policy(num=0), "num_drafts must be an integer >= 1, got 0"),
        (lambda: _policy(verification="none"), r"verification must be one of .*, got 'none'"),
        (lambda: NgramDraft(0, 5), "size must be an integer >= 1, got 0"),
        (
            lambda: dataclasses.replace(_policy(), num_drafts=-1),
            "num_drafts must be an integer",
        ),
    ],
)
def test_speculation_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
