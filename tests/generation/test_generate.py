import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.generation import (
    Prompts,
    SamplingParams,
    as_prompts,
    generate,
    insert,
    pad_prompts,
    score,
)
from rsft_jax.models import cache_fn, logits_fn
from tests.generation.toys import small_transformer

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
LAW = SamplingParams(max_new_tokens=9, temperature=0.8, stop_token_ids=tuple(range(3, 40, 5)))


@functools.cache
def _model(dtype="float64"):
    return small_transformer(97, dtype)


def _generate(prompts=PROMPTS, *, key=7, num=4, dtype="float64", cached=True, **options):
    model, params = _model(dtype)
    options = {"sampling": LAW} | options
    return generate(
        jax.random.key(key), logits_fn(model), params, prompts, num_candidates=num,
        init_cache=cache_fn(model) if cached else None, **options,
    )  # fmt: skip


def _assert_same(a, b, tolerance=1e-12):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.lengths, b.lengths)
    np.testing.assert_array_equal(a.finished, b.finished)
    np.testing.assert_allclose(a.log_probs, b.log_probs, atol=tolerance)


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield
    _model.cache_clear()


def test_tokens_are_the_same_with_a_cache_without_one_and_through_any_slots(wide):
    whole = _generate()
    _assert_same(whole, _generate(cached=False))
    for slots in (1, 3, 7, 20, 64):
        _assert_same(whole, _generate(slots=slots), tolerance=1e-6)  # slots report float32


def _late(state, prefix, *rest):
    """A refill that starts one position late."""
    return insert(state, prefix.replace(lengths=prefix.lengths + 1), *rest)


def _leak(state, prefix, *rest):
    """A slot that keeps the cache of who was in it before."""
    return insert(state, prefix, *rest).replace(cache=state.cache)


def _same_key(state, prefix, slots, sources, count, keys):
    """A slot whose candidates all have one key."""
    return insert(state, prefix, slots, sources, count, jnp.broadcast_to(keys[:1], keys.shape))


def _unread(state, prefix, *rest):
    """A slot that is told of another prompt than it has the cache of."""
    return insert(state, prefix.replace(last_token=prefix.last_token + 1), *rest)


@pytest.mark.parametrize("mutant", [None, _late, _leak, _same_key, _unread])
def test_a_wrong_refill_is_seen(mutant, monkeypatch):
    law = {"slots": 3, "dtype": "float32"}
    if mutant is None:
        return _assert_same(_generate(dtype="float32"), _generate(**law), tolerance=1e-5)

    def wrong(state, prefix, slots, sources, count, words, *, impl, sharding):
        keys = jax.random.wrap_key_data(jnp.asarray(words), impl=impl)
        return mutant(state, prefix, jnp.asarray(slots), jnp.asarray(sources), count, keys)

    monkeypatch.setattr("rsft_jax.generation.device.compiled_insert", wrong)
    with pytest.raises(AssertionError):
        _assert_same(_generate(dtype="float32"), _generate(**law), tolerance=1e-5)


def test_a_stop_that_drops_the_last_token_is_seen(monkeypatch):
    from rsft_jax.generation import device
    from rsft_jax.generation.decode import decode

    def short(params, state, wanted, most, **options):
        state, steps = decode(
            params, state, wanted, most,
            logits_fn=options["logits_fn"], sampling=options["sampling"],
        )  # fmt: skip
        ended = state.finished & (state.length > 1)
        return state.replace(length=state.length - ended.astype(jnp.int32)), steps

    monkeypatch.setattr(device, "compiled_decode", short)
    with pytest.raises(AssertionError):
        _assert_same(_generate(dtype="float32"), _generate(dtype="float32", slots=20))


def test_tokens_do_not_depend_on_the_other_prompts_their_order_or_padding(wide):
    whole = _generate()
    for order in ([4, 2, 0, 3, 1], [1, 1]):
        some = _generate([PROMPTS[i] for i in order], prompt_ids=jnp.array(order))
        _assert_same(jax.tree.map(lambda leaf, o=order: leaf[jnp.array(o)], whole), some)
    padded = pad_prompts(PROMPTS, width=24)
    garbage = np.where(np.arange(24) >= padded.lengths[:, None], 96, padded.tokens)
    _assert_same(whole, _generate(Prompts(garbage, padded.lengths)))
    _assert_same(whole, _generate(Prompts(garbage, padded.lengths), slots=3), tolerance=1e-6)
    fewer = _generate(num=2)
    _assert_same(jax.tree.map(lambda leaf: leaf[:, :2], whole), fewer)
    many = _generate(PROMPTS * 52, prompt_ids=jnp.arange(260) % 5)  # 1040 rows side by side
    for start in (0, 255):
        some = jax.tree.map(lambda leaf, i=start: leaf[i : i + 5], many)
        _assert_same(whole, some)


def test_another_key_prompt_or_candidate_gives_other_tokens(wide):
    whole = np.asarray(_generate().tokens)
    assert (whole != np.asarray(_generate(key=8).tokens)).any()
    same = np.asarray(_generate([PROMPTS[0], PROMPTS[0]]).tokens)
    assert (same[0] != same[1]).any()
    assert len(np.unique(whole[0], axis=0)) == 4


def test_generate_is_the_same_under_jit_and_vmap_over_keys(wide):
    model, params = _model()
    prompts = pad_prompts(PROMPTS)

    def run(key):
        return generate(
            key, logits_fn(model), params, prompts, num_candidates=2, sampling=LAW,
            init_cache=cache_fn(model),
        )  # fmt: skip

    keys = jax.random.split(jax.random.key(1), 3)
    batched = jax.vmap(run)(keys)
    for i in range(3):
        _assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], batched), run(keys[i]))
        _assert_same(jax.jit(run)(keys[i]), run(keys[i]))


def test_what_ends_a_completion_is_reported():
    drawn = _generate(dtype="float32")
    tokens, lengths = np.asarray(drawn.tokens), np.asarray(drawn.lengths)
    assert 0 < np.mean(drawn.finished) < 1
    for row, length, finished in zip(
        tokens.reshape(-1, 9), lengths.ravel(), np.asarray(drawn.finished).ravel()
    ):
        stops = np.isin(row[:length], LAW.stop_token_ids)
        assert not stops[:-1].any()  # it ends at the first stop token, which it contains
        assert stops[-1] == finished
        assert finished or length == 9
        assert (row[length:] == -1).all()
    after = np.arange(9) >= lengths[..., None]
    assert (np.asarray(drawn.log_probs)[after] == 0).all()
    assert not np.asarray(drawn.failed).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-10)])
def test_score_agrees_with_the_sampler(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        _model.cache_clear()
        model, params = _model(dtype)
        drawn = _generate(dtype=dtype)
        scored = score(logits_fn(model), params, PROMPTS, drawn, sampling=LAW)
        np.testing.assert_allclose(scored, drawn.log_probs, atol=tolerance)
        raw = score(
            logits_fn(model), params, PROMPTS, drawn, sampling=SamplingParams(max_new_tokens=1)
        )
        assert np.abs(np.asarray(raw) - np.asarray(drawn.log_probs)).max() > 0.01
    _model.cache_clear()


def test_score_forms_no_logits_at_prompts_of_a_policy_that_can_leave_them_out(wide):
    model, params = _model()
    drawn = _generate()
    policy, calls = logits_fn(model), []

    class Watched:
        def __call__(self, params, tokens, positions, cache):
            raise AssertionError("all logits were asked for")

        def logits_at(self, params, tokens, positions, columns):
            calls.append((tokens.shape, columns.shape))
            return policy.logits_at(params, tokens, positions, columns)

    def everywhere(params, tokens, positions, cache):  # has no `logits_at`
        return policy(params, tokens, positions, cache)

    scored = [score(each, params, PROMPTS, drawn, sampling=LAW) for each in (Watched(), everywhere)]
    np.testing.assert_allclose(scored[0], scored[1], atol=1e-10, rtol=0)
    assert calls == [((8, 5 + 9), (8, 9))]
    # The whole logits, of which it is a part, at any columns and not only at a completion's.
    tokens = jnp.asarray([[1, 2, 3, 4], [5, 6, 7, 8]], jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(4, dtype=jnp.int32), tokens.shape)
    columns = jnp.asarray([[3, 0], [1, 1]], jnp.int32)
    some = policy.logits_at(params, tokens, positions, columns)
    all_ = policy(params, tokens, positions, None)[0]
    expected = jnp.take_along_axis(all_, columns[..., None], axis=1)
    np.testing.assert_allclose(some, expected, atol=1e-10, rtol=0)


def test_bfloat16_cache_keeps_the_law_of_its_own_logits():
    model, params = _model("bfloat16")
    drawn = _generate(dtype="bfloat16")
    scored = score(logits_fn(model), params, PROMPTS, drawn, sampling=LAW)
    np.testing.assert_allclose(scored, drawn.log_probs, atol=0.1)
    _assert_same(drawn, _generate(dtype="bfloat16", slots=3), tolerance=1e-6)


def test_a_row_without_a_law_is_flagged_and_the_others_go_on():
    class Broken:
        def __call__(self, params, tokens, positions, cache):
            logits = jnp.zeros((*tokens.shape, 6))
            bad = (tokens[:, :1] == 1) & (positions == 2)
            return jnp.where(bad[..., None], params, logits), cache

    for poison in (jnp.nan, -jnp.inf, jnp.inf):
        drawn = generate(
            jax.random.key(0), Broken(), jnp.float32(poison), [[0, 2], [1, 2], [0]],
            num_candidates=2, sampling=SamplingParams(max_new_tokens=4),
        )  # fmt: skip
        assert drawn.failed.tolist() == [[False] * 2, [True] * 2, [False] * 2]
        assert drawn.lengths.tolist() == [[4, 4], [1, 1], [4, 4]]
        assert (drawn.tokens[1, :, 1:] == -1).all()
        assert np.isfinite(drawn.log_probs).all()
        assert not drawn.finished.any()


def test_slots_are_refilled_and_the_host_is_told():
    seen = []
    drawn = _generate(dtype="float32", slots=3, on_progress=seen.append)
    assert seen[-1].completions == seen[-1].total == 20
    assert seen[-1].tokens == int(drawn.lengths.sum())
    assert all(a.tokens <= b.tokens for a, b in itertools.pairwise(seen))
    # Refilled slots are nearly always busy; batches of three would wait for their longest.
    lengths = np.asarray(drawn.lengths).ravel()
    waiting = sum(max(lengths[i : i + 3]) * 3 for i in range(0, 20, 3))
    assert seen[-1].slot_steps < waiting
    assert seen[-1].tokens / seen[-1].slot_steps > 0.85
    assert seen[-1].programs == 2  # a block of prompts, a step of three slots


def test_when_nothing_waits_fewer_slots_go_on_and_every_program_is_compiled_once():
    compiled = []
    model, params = _model("float32")

    class Counted:
        def __call__(self, params, tokens, positions, cache):
            compiled.append(tokens.shape)
            return logits_fn(model)(params, tokens, positions, cache)

    counted, seen = Counted(), []
    law = SamplingParams(max_new_tokens=40, stop_token_ids=tuple(range(3, 40, 5)))
    for _ in range(2):
        drawn = generate(
            jax.random.key(1), counted, params, PROMPTS, num_candidates=8, sampling=law,
            init_cache=cache_fn(model), slots=40, on_progress=seen.append,
        )  # fmt: skip
    assert compiled == [(5, 5), (40, 1), (10, 1)]
    assert seen[-1].programs == 3
    assert seen[-1].slot_steps < 40 * int(drawn.lengths.max())
    _assert_same(drawn, _generate(key=1, num=8, dtype="float32", sampling=law), tolerance=1e-5)


def test_second_call_of_a_shape_compiles_nothing():
    traces = []

    class Counted:
        def __call__(self, params, tokens, positions, cache):
            traces.append(tokens.shape)
            return jnp.zeros((*tokens.shape, 6)) + params, cache

    counted = Counted()
    sampling = SamplingParams(max_new_tokens=3)
    for slots in (None, 2):
        for seed in range(3):
            generate(
                jax.random.key(seed), counted, jnp.float32(seed), [[0, 1], [2]],
                num_candidates=2, sampling=sampling, slots=slots,
            )  # fmt: skip
            if seed == 0:
                first = len(traces)
        assert len(traces) == first


def test_prompts_come_in_three_forms():
    full = np.array([[1, 2], [3, 4]])
    for form in (full, jnp.array(full), full.tolist(), Prompts(full, np.array([2, 2]))):
        prompts = as_prompts(form)
        np.testing.assert_array_equal(prompts.tokens, full)
        np.testing.assert_array_equal(prompts.lengths, [2, 2])
    assert pad_prompts([[1], [2, 3]], multiple_of=4).tokens.shape == (2, 4)
    assert pad_prompts([[1], [2, 3]], width=5).tokens.shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[1, -2]]}, "holds the id -2"),
        ({"num": 0}, "num_candidates must be an integer >= 1, got 0"),
        ({"slots": 0}, "slots must be an integer >= 1 or None, got 0"),
        ({"max_length": 13}, "prompt 2 has 5 tokens.*a context of 13 leaves room for 4"),
        ({"on_progress": print}, "on_progress needs slots"),
        ({"prompts": Prompts(np.ones((2, 3), int), np.array([1, 4]))}, r"in \[1, 3\]"),
    ],
)
def test_generate_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        _generate(dtype="float32", **options)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_new_tokens", 0, "max_new_tokens must be an integer >= 1, got 0"),
        ("temperature", -1.0, r"temperature must be in \[0, inf\) \(0 is greedy\), got -1.0"),
        ("temperature", float("nan"), "temperature must be in"),
        ("top_k", -1, "top_k must be an integer >= 0"),
        ("top_p", 0.0, r"top_p must be in \(0, 1\] \(1 is off\), got 0.0"),
        ("top_p", 1.5, r"top_p must be in \(0, 1\]"),
        ("min_p", 1.5, r"min_p must be in \[0, 1\]"),
        ("stop_token_ids", (-1,), "stop_token_ids must be an integer >= 0 each"),
    ],
)
def test_sampling_params_refuse(field, value, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**({"max_new_tokens": 4} | {field: value}))
