"""NNX modules as policies: drawn from, scored and trained as any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsft_jax.generation import SamplingParams, generate, score
from rsft_jax.interop import nnx_policy

LAW = SamplingParams(max_new_tokens=3, temperature=0.8)
KEY = jax.random.key(1)
PROMPTS = [[1, 2], [3]]


class Mean(nnx.Module):
    """Logits from the mean of the embeddings so far: depends on order, length and all tokens."""

    def __init__(self, rngs, drop=0.0):
        self.embed = nnx.Embed(6, 4, rngs=rngs)
        self.head = nnx.Linear(4, 6, rngs=rngs)
        self.drop = nnx.Dropout(drop, rngs=rngs)
        self.scale = nnx.Variable(jnp.float32(3.0))  # state that is not trained

    def __call__(self, tokens):
        count = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.float32)[None, :, None]
        mean = jnp.cumsum(self.embed(tokens), axis=1) / count
        return self.head(self.drop(mean)) * self.scale[...]


def by_hand(module, tokens):
    """The same in NumPy."""
    embedded = np.asarray(module.embed.embedding[...])[tokens]
    mean = np.cumsum(embedded, axis=1) / np.arange(1, tokens.shape[1] + 1)[None, :, None]
    return (mean @ np.asarray(module.head.kernel[...]) + np.asarray(module.head.bias[...])) * 3


@pytest.fixture(scope="module")
def mean():
    module = Mean(nnx.Rngs(0), drop=0.5)
    module.eval()
    return module


def test_a_module_is_a_policy(mean):
    logits_fn, params, _ = nnx_policy(mean)
    out = generate(KEY, logits_fn, params, PROMPTS, num_candidates=4, sampling=LAW)
    np.testing.assert_allclose(
        score(logits_fn, params, PROMPTS, out, sampling=LAW), out.log_probs, atol=1e-5
    )
    tokens = np.asarray(out.tokens)
    for i, j in np.ndindex(2, 4):
        row = np.array([PROMPTS[i] + tokens[i, j].tolist()])
        logits = by_hand(mean, row)[0, len(PROMPTS[i]) - 1 : -1] / 0.8
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(
            out.log_probs[i, j], expected[np.arange(3), tokens[i, j]], atol=1e-5
        )


def test_its_parameters_are_trained_and_the_rest_is_not(mean):
    logits_fn, params, merge = nnx_policy(mean)
    out = generate(KEY, logits_fn, params, PROMPTS, num_candidates=4, sampling=LAW)
    loss = jax.jit(lambda p: -score(logits_fn, p, PROMPTS, out, sampling=LAW).sum())
    gradient = jax.grad(loss)(params)
    assert len(jax.tree.leaves(gradient)) == 3
    before = jnp.array(mean.head.bias[...])
    # The gradient of the bias by differences.
    step = jax.tree_util.tree_map_with_path(
        lambda path, p: jnp.zeros_like(p).at[..., 2].set(1e-2 * ("bias" in str(path))), params
    )
    shifted = [jax.tree.map(lambda p, s, k=k: p + k * s, params, step) for k in (1.0, -1.0)]
    slope = (loss(shifted[0]) - loss(shifted[1])) / 2e-2
    np.testing.assert_allclose(gradient["head"]["bias"][...][2], slope, rtol=1e-2)
    trained = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)
    assert loss(trained) < loss(params)
    module = merge(trained)
    np.testing.assert_array_equal(module.head.bias[...], trained["head"]["bias"][...])
    assert module.scale[...] == 3
    np.testing.assert_array_equal(mean.head.bias[...], before)


def test_the_module_may_change_afterwards():
    module = Mean(nnx.Rngs(0))
    logits_fn, params, _ = nnx_policy(module)
    tokens = jnp.array([[1, 2, 3]])
    before, _ = logits_fn(params, tokens, tokens, None)
    module.scale[...] = jnp.float32(7.0)
    module.head.bias[...] = jnp.ones(6)
    after, _ = logits_fn(params, tokens, tokens, None)
    np.testing.assert_array_equal(after, before)


def test_the_memory_of_the_module_may_be_given_away():
    module = Mean(nnx.Rngs(0))
    logits_fn, params, _ = nnx_policy(module)
    tokens = jnp.array([[1, 2, 3]])
    expected, _ = logits_fn(params, tokens, tokens, None)
    for leaf in jax.tree.leaves(nnx.state(module)):
        leaf.delete()  # as a step of training that donates its state does
    logits, _ = logits_fn(params, tokens, tokens, None)
    np.testing.assert_array_equal(logits, expected)


def test_a_module_with_a_cache_of_its_own(mean):
    def apply(module, tokens, positions, cache):
        if cache is None:
            return module(tokens), None
        shown = (positions >= 0).astype(jnp.float32)
        total = cache + jnp.cumsum(module.embed(tokens), axis=1) * shown[..., None]
        count = (jnp.maximum(positions, 0) + 1).astype(jnp.float32)[..., None]
        logits = module.head(total / count) * module.scale[...]
        last = (positions >= 0).sum(axis=1) - 1
        kept = jnp.take_along_axis(total, jnp.maximum(last, 0)[:, None, None], axis=1)
        return logits, kept

    def empty(rows, length):
        return jnp.zeros((rows, 1, 4))

    plain, cached = nnx_policy(mean), nnx_policy(mean, apply)
    options = {"num_candidates": 4, "sampling": LAW}
    ours = generate(KEY, plain.logits_fn, plain.params, PROMPTS, **options)
    theirs = generate(
        KEY, cached.logits_fn, cached.params, PROMPTS, init_cache=empty, **options
    )  # fmt: skip
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-5)


def test_what_is_no_function_is_refused(mean):
    training = Mean(nnx.Rngs(0), drop=0.5)
    with pytest.raises(ValueError, match="drop is in training mode"):
        nnx_policy(training)
    with pytest.raises(ValueError, match="in training mode"):
        nnx_policy(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"nnx\.Param"):
        nnx_policy(nnx.Dropout(0.0))
    logits_fn, params, _ = nnx_policy(mean)
    tokens = jnp.zeros((1, 2), jnp.int32)
    with pytest.raises(ValueError, match="apply must be given"):
        logits_fn(params, tokens, tokens, jnp.zeros((1, 4)))
