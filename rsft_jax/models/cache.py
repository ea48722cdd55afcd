"""The key-value cache of a `Transformer`: its shape, and how new tokens are written.

Shapes: B rows, T tokens, S columns, K key-value heads, C head width.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rsft_jax.models.config import TransformerConfig
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.types import Array, Cache


def or_wide_on_cpu(dtype: Any, config: TransformerConfig) -> Any:
    """A dtype, and by default that of the model, float32 or wider on a CPU."""
    if dtype is not None:
        return dtype
    return wide_dtype(config.dtype) if jax.default_backend() == "cpu" else config.dtype


def init_cache(config: TransformerConfig, rows: int, length: int) -> Cache:
    """Makes an empty cache: per layer the keys `[B, K, C, S]` and the values `[B, K, S, C]`.

    Keys are stored with the columns last, the form in which a decoding step multiplies them
    (measured on XLA:CPU in float32: 23 ms a step against 32 ms with the head width last).
    Nothing has to be cleared before a row is used again: column s always holds position s, and a
    query at position t reads the columns up to t alone.
    """
    keys = (rows, config.num_kv_heads, config.head_dim, length)
    values = (rows, config.num_kv_heads, length, config.head_dim)
    dtype = or_wide_on_cpu(config.cache_dtype, config)
    return tuple(
        {"key": jnp.zeros(keys, dtype), "value": jnp.zeros(values, dtype)}
        for _ in range(config.num_layers)
    )


def write_cache(
    cache: dict[str, Array], key: Array, value: Array, positions: Array
) -> dict[str, Array]:
    """Stores `[B, T, K, C]` keys and values of one layer in the columns of their positions."""
    # Padding goes to a column past the end, which the scatter drops.
    columns = jnp.where(positions >= 0, positions, cache["value"].shape[2])
    rows = jnp.arange(key.shape[0], dtype=jnp.int32)[:, None]
    index = (rows, slice(None), slice(None), columns), (rows, slice(None), columns)
    return {
        name: cache[name].at[at].set(new.astype(cache[name].dtype), mode="drop")
        for name, at, new in zip(("key", "value"), index, (key, value))
    }
