"""Attention in blocks against loops in NumPy, and what its backward pass keeps."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals
from jax.test_util import check_grads

from rsft_jax.models import attention
from rsft_jax.models.attention import (
    ATTENDED,
    cached_attention,
    causal_attention,
)
from rsft_jax.models.remat import save_as

# One block; a block and one token more; four blocks, even and with a shorter last one.
LENGTHS = (1, 7, 65, 256, 259)


def _draw(tokens, rows=2, heads=6, kv_heads=2, width=4, seed=0):
    draw = np.random.default_rng(seed).normal
    shapes = [(rows, tokens, n, width) for n in (heads, kv_heads, kv_heads)]
    return [draw(size=shape) for shape in shapes]


def _segments(tokens, rows=2):
    """Sequences of unlike lengths, their borders inside blocks and across them."""
    generator = np.random.default_rng(1)
    return np.cumsum(generator.random((rows, tokens)) < 0.02, axis=1).astype(np.int32)


def _reference(query, key, value, segments=None):
    """One softmax for each token and head, over the keys that it sees."""
    rows, tokens, heads, width = query.shape
    groups = heads // key.shape[2]
    out = np.zeros(query.shape)
    for b, t, h in np.ndindex(rows, tokens, heads):
        seen = np.arange(tokens) <= t
        if segments is not None:
            seen &= segments[b] == segments[b, t]
        scores = key[b, seen, h // groups] @ query[b, t, h] / np.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ value[b, seen, h // groups]
    return out


def _plain(query, key, value, segments=None):
    """The whole square at once, differentiated by JAX."""
    tokens, groups = query.shape[1], query.shape[2] // key.shape[2]
    key, value = jnp.repeat(key, groups, axis=2), jnp.repeat(value, groups, axis=2)
    scores = jnp.einsum("bthc,bshc->bhts", query, key) / np.sqrt(query.shape[-1])
    seen = jnp.asarray(np.tril(np.ones((tokens, tokens), bool)))[None, None]
    if segments is not None:
        seen = seen & (segments[:, None, :, None] == segments[:, None, None, :])
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshc->bthc", weights, value)


def _value_and_pull(attend, *arrays, segments=None):
    """The output, and the gradients for a cotangent that bfloat16 holds exactly."""
    dout = np.random.default_rng(2).integers(-4, 5, size=arrays[0].shape)

    @jax.jit
    def both(*arrays):
        out, pull = jax.vjp(functools.partial(attend, segments=segments), *arrays)
        return out, *pull(jnp.asarray(dout, out.dtype))

    return both(*arrays)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_blocks_give_the_softmax_over_what_a_token_sees(tokens, packed):
    segments = _segments(tokens) if packed else None
    with jax.enable_x64(True):
        arrays = _draw(tokens)
        out = jax.jit(causal_attention)(*map(jnp.asarray, arrays), segments)
        np.testing.assert_allclose(out, _reference(*arrays, segments), atol=1e-12)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tokens", LENGTHS)
def test_gradient_of_blocks_is_that_of_the_whole_square(tokens, packed):
    segments = _segments(tokens) if packed else None
    with jax.enable_x64(True):
        arrays = list(map(jnp.asarray, _draw(tokens)))
        of_blocks = _value_and_pull(causal_attention, *arrays, segments=segments)
        of_square = _value_and_pull(_plain, *arrays, segments=segments)
        for ours, expected in zip(of_blocks, of_square):
            np.testing.assert_allclose(ours, expected, atol=1e-11)


def test_long_sequences_have_more_blocks(monkeypatch):
    monkeypatch.setattr(attention, "_SMALLEST", 2)
    monkeypatch.setattr(attention, "_LARGEST", 4)  # six blocks, the last of three
    with jax.enable_x64(True):
        arrays = list(map(jnp.asarray, _draw(23)))
        for ours, right in zip(
            _value_and_pull(causal_attention, *arrays), _value_and_pull(_plain, *arrays)
        ):
            np.testing.assert_allclose(ours, right, atol=1e-11)


def test_the_program_does_not_grow_with_the_square():
    def size(tokens):
        arrays = [jax.ShapeDtypeStruct((1, tokens, 2, 4), jnp.float32)] * 3
        gradient = jax.grad(lambda *a: causal_attention(*a).sum(), argnums=(0, 1, 2))
        return len(jax.jit(gradient).lower(*arrays).as_text())

    assert size(1024) < 1.1 * size(256)


def test_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        arrays = list(map(jnp.asarray, _draw(66, rows=1, heads=2, kv_heads=1, width=2)))
        check_grads(causal_attention, arrays, order=1, modes=["rev"], eps=1e-5)


@pytest.mark.parametrize("tokens", [64, 259])
def test_half_precision_is_as_near_as_half_precision_can_be(tokens):
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in _draw(tokens)]
    exact = [np.asarray(x, np.float64) for x in arrays]
    half = _value_and_pull(causal_attention, *arrays)
    with jax.enable_x64(True):
        wide = _value_and_pull(_plain, *map(jnp.asarray, exact))
    for ours, right in zip(half, wide):
        assert ours.dtype == jnp.bfloat16
        # 2^-9 is the rounding of one number; weights and scores are rounded before a product too.
        scale = np.abs(np.asarray(right)).max()
        np.testing.assert_allclose(np.asarray(ours, np.float64), right, atol=2**-6 * scale)


def test_no_array_is_as_large_as_the_square():
    arrays = [jnp.asarray(x, jnp.float32) for x in _draw(512, rows=1)]
    square = 6 * 512 * 512

    def gradient(*arrays):
        return jax.vjp(causal_attention, *arrays)[1](arrays[0])

    def largest(program):
        jaxpr = jax.make_jaxpr(program)(*arrays)
        return max(v.aval.size for e in jaxpr.eqns for v in e.outvars)

    assert largest(gradient) <= square // 4
    assert largest(lambda *arrays: _plain(*arrays)) >= square, "the measure sees a square"


def test_a_cached_token_attends_as_in_the_whole_sequence():
    with jax.enable_x64(True):
        query, key, value = map(jnp.asarray, _draw(9))
        whole = causal_attention(query, key, value)
        keys, values = jnp.transpose(key, (0, 2, 3, 1)), jnp.transpose(value, (0, 2, 1, 3))
        positions = jnp.array([[3, 8], [0, 5]], jnp.int32)
        chosen = jnp.take_along_axis(query, positions[:, :, None, None], axis=1)
        out = cached_attention(chosen, keys, values, positions)
        expected = jnp.take_along_axis(whole, positions[:, :, None, None], axis=1)
        np.testing.assert_allclose(out, expected, atol=1e-12)


def _saved(capsys, f, *args):
    """Types of what the backward pass of `f` gets beside the arguments."""
    print_saved_residuals(f, *args)
    lines = capsys.readouterr().out.splitlines()
    return [line.split(" ")[0] for line in lines if "argument" not in line]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_what_is_kept_is_kept_in_bits_where_a_cpu_would_convert_it(dtype, capsys):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), dtype)
    policy = jax.checkpoint_policies.save_only_these_names("it")

    def f(x):
        return jnp.square(save_as(jnp.sin(x), "it"))

    checkpointed = jax.checkpoint(f, policy=policy)
    assert _saved(capsys, checkpointed, x) == ["f32[3,4]" if dtype == "float32" else "u16[3,4]"]
    plain = jax.vjp(lambda x: jnp.square(jnp.sin(x)), x)
    ours = jax.vjp(checkpointed, x)
    np.testing.assert_array_equal(ours[0], plain[0])
    np.testing.assert_array_equal(ours[1](x)[0], plain[1](x)[0])


def test_the_backward_pass_finds_output_and_log_sums_by_their_name(capsys):
    arrays = [jnp.asarray(x, jnp.float32) for x in _draw(128)]
    policy = jax.checkpoint_policies.save_only_these_names(ATTENDED)
    saved = _saved(capsys, jax.checkpoint(causal_attention, policy=policy), *arrays)
    assert sorted(saved) == ["f32[2,128,6,4]", "f32[2,2,384]"]


def test_examples_in_docstrings_hold():
    result = doctest.testmod(attention, extraglobs={"jnp": jnp})
    assert result.attempted == 5
    assert result.failed == 0
