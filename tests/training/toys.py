"""A small decoder, its parameters, and batches with every kind of row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.transformer import Transformer
from rsft_jax.training.batches import Batch, make_batches
from rsft_jax.types import Params

CONFIG = TransformerConfig(
    vocab_size=64,
    d_model=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=32,
    max_length=64,
)


@functools.partial(jax.jit, static_argnames="config")  # one program, not hundreds
def _init(config: TransformerConfig, seed: int) -> Params:
    ids = jnp.zeros((1, 2), jnp.int32)
    params = meta.unbox(Transformer(config).init(jax.random.key(seed), ids, ids))["params"]
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves)
    ]
    return jax.tree.unflatten(structure, moved)


def make_params(config: TransformerConfig = CONFIG, seed: int = 0) -> Params:
    """Parameters in the unrolled layout, with norm scales that are not all 1."""
    return _init(config, seed)


def make_batch(rows: int = 8, seed: int = 0) -> Batch:
    """Rows of unlike prompts, completions and weights, the last one empty."""
    generator = np.random.default_rng(seed)
    prompts = [generator.integers(0, 64, n).tolist() for n in generator.integers(1, 9, rows - 1)]
    texts = [generator.integers(0, 64, n).tolist() for n in generator.integers(1, 14, rows - 1)]
    weights = generator.uniform(0.2, 2.0, rows - 1)
    (batch,) = make_batches(prompts, texts, weights, batch_size=rows, multiple_of=24)
    return jax.tree.map(jnp.asarray, batch)
