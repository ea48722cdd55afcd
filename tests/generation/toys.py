"""Policies for tests: tables whose completions can be enumerated, and a small Transformer."""

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

    A row is the prompt (ids of 5 and more, any number) and then tokens 0 to 4.
    """

    def __init__(self, toy: ToyModel):
        self.rows = [jnp.log(jnp.asarray(r, jnp.float32)).reshape(-1, 5) for r in toy.rows]

    def __call__(self, params, tokens, positions, cache):
        completion = tokens < 5
        # The place within the completion, and the prefix before it read as a number in base 5.
        place = jnp.cumsum(completion, axis=1)
        prefix = jnp.zeros(tokens.shape[:1], jnp.int32)
        logits = []
        for t in range(tokens.shape[1]):
            inside = completion[:, t]
            prefix = jnp.where(inside, prefix * 5 + tokens[:, t], prefix)
            options = [jnp.take(rows, prefix % len(rows), axis=0) for rows in self.rows]
            stacked = jnp.stack([*options, options[-1]])
            logits.append(stacked[jnp.minimum(place[:, t], 3), jnp.arange(tokens.shape[0])])
        out = jnp.stack(logits, axis=1) + params
        # The vocabulary has room for the prompt's tokens, which are never drawn.
        return jnp.pad(out, ((0, 0), (0, 0), (0, 5)), constant_values=-jnp.inf), cache


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
    ids = jnp.zeros((1, 4), jnp.int32)
    params = nn.unbox(model.init(jax.random.key(0), ids, jnp.arange(4)[None]))["params"]
    return model, jax.tree.map(lambda leaf: (leaf * 2).astype(dtype), params)
