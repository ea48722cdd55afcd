"""Keys and uniforms: one key a row, and uniforms that are strict at 0 and fine near it."""

import jax
import jax.numpy as jnp

from rsft_jax.types import Array, PRNGKey


def check_key(key: PRNGKey) -> None:
    """Raises ValueError unless `key` is one typed key, as made by `jax.random.key`."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape != ():
        raise ValueError(
            "key must be a single typed key, as made by jax.random.key(seed); "
            f"got {getattr(key, 'dtype', type(key).__name__)} of shape {getattr(key, 'shape', ())}"
        )


def row_keys(key: PRNGKey, rows: int) -> PRNGKey:
    """Returns `[rows]` keys, the i-th being `fold_in(key, i)`.

    So what a row draws does not depend on how many others there are. (This holds for the default
    threefry keys; JAX's `rbg` keys do not promise the same bits under vmap.)
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))


def unit_uniform(bits: Array) -> Array:
    """Maps `[...]` uint32 bits to float32 uniforms in [0, 1), multiples of 2^-24.

    >>> unit_uniform(jnp.array([0, 2**32 - 1], jnp.uint32)).tolist()
    [0.0, 0.9999999403953552]
    """
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def log_uniform(bits: Array) -> Array:
    """Maps `[..., 2]` uint32 bits to float32 log u of a uniform u in [0, 1) with 64 bits.

    A float32 uniform has steps of 2^-23 or 2^-24, so that an acceptance probability of 2^-12 is
    off by up to 2^-11 of itself, and one of 2^-26 is never (or much too often) met. Here u keeps
    24 significant bits down to about 2^-40 and is compared by its logarithm. u stays below 1, so
    `log u < 0` always; u = 0 gives -inf, which is not below log A = -inf: what has probability 0
    is never accepted.

    >>> log_uniform(jnp.zeros(2, jnp.uint32)).tolist()
    -inf
    """
    high = bits[..., 0].astype(jnp.float32) * jnp.float32(2.0**-32)
    low = bits[..., 1].astype(jnp.float32) * jnp.float32(2.0**-64)
    return jnp.log(jnp.minimum(high + low, jnp.float32(1 - 2.0**-24)))
