"""Policies for tests: tables whose completions can be enumerated, and a small Transformer."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rsft_jax.models import Transformer, TransformerConfig
from tests.gates import ToyModel

PROMPT = 7  # a token outside of the toy vocabulary, so that a prompt cannot be a completion


class ToyLogits:
    """T53 as a `LogitsFn` without a cache: the law of a token given all tokens after the prompt.

    A row is the prompt (ids of 5 and more, any number) and then tokens 0 to 4. A law is that of
    the prefix, of which no place sees more than the last two tokens: one row of one table, so that
    there is next to nothing to compile.
    """

    def __init__(self, toy: ToyModel):
        laws = np.concatenate([r.reshape(-1, 5) for r in toy.rows])  # of 0, 1 and 2 tokens before
        # The vocabulary has room for the prompt's tokens, which are never drawn.
        self.table = np.full((1 + 5 + 25, 10), -np.inf, np.float32)
        self.table[:, :5] = np.log(laws)

    def __call__(self, params, tokens, positions, cache):
        place = jnp.cumsum(tokens < 5, axis=1)
        one = 1 + tokens
        two = 6 + 5 * jnp.roll(tokens, 1, axis=1) + tokens
        row = jnp.where(place == 0, 0, jnp.where(place == 1, one, two))
        return jnp.asarray(self.table)[row] + params, cache


def enumerate_law(
    toy, transform=lambda p: p, stop=(), max_new_tokens=3, context=lambda prefix, p: p
):
    """Every completion and its probability.

    `context` maps the next-token law given the prefix, `transform` what comes of it.
    """
    law, open_ = {}, {(): 1.0}
    for _ in range(max_new_tokens):
        longer = {}
        for prefix, mass in open_.items():
            for token, prob in enumerate(transform(context(prefix, toy.next_law(prefix)))):
                if mass * prob > 0:
                    target = law if token in stop else longer
                    target[(*prefix, token)] = mass * prob
        open_ = longer
    return law | open_


def count_completions(completions, law):
    """Counts in the order of `law`, whose keys are all completions that can be."""
    tokens = np.asarray(completions.tokens).reshape(-1, completions.tokens.shape[-1])
    lengths = np.asarray(completions.lengths).ravel()
    assert (tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] == -1).all()
    codes = (np.where(tokens < 0, 5, tokens) * 6 ** np.arange(tokens.shape[1])).sum(axis=1)
    index = {}
    for i, key in enumerate(law):
        padded = (*key, *itertools.repeat(5, tokens.shape[1] - len(key)))
        index[sum(t * 6**i for i, t in enumerate(padded))] = i
    values, number = np.unique(codes, return_counts=True)
    counts = np.zeros(len(law), np.int64)
    for value, n in zip(values, number):
        assert value in index, f"a completion that cannot be: code {value}"
        counts[index[value]] += n
    return counts


def small_transformer(vocab_size, dtype="float64"):
    """A model of two layers and its parameters, large enough for a law that is not flat."""
    config = TransformerConfig(
        vocab_size=vocab_size, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
        d_ff=48, dtype=jnp.dtype(dtype),
    )  # fmt: skip
    model = Transformer(config)
    return model, _init(model, dtype)


@functools.partial(jax.jit, static_argnames=("model", "dtype"))  # one program, not hundreds
def _init(model, dtype):
    ids = jnp.zeros((1, 4), jnp.int32)
    params = nn.unbox(model.init(jax.random.key(0), ids, jnp.arange(4)[None]))["params"]
    return jax.tree.map(lambda leaf: (leaf * 2).astype(dtype), params)
