"""Keys and uniforms: one key a row, and uniforms that are strict at 0 and fine near it."""

import functools
import math

import jax
import jax.extend.random
import jax.numpy as jnp

from rsft_jax.types import Array, PRNGKey


def is_typed(key: object) -> bool:
    """Whether `key` is a typed key, or an array of them, and not raw words."""
    return isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def check_key(key: PRNGKey) -> None:
    """Raises ValueError unless `key` is one typed key, as made by `jax.random.key`."""
    if not is_typed(key) or key.shape != ():
        raise ValueError(
            "key must be a single typed key, as made by jax.random.key(seed), "
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

    Example:
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

    Example:
      >>> log_uniform(jnp.zeros(2, jnp.uint32)).tolist()
      -inf
    """
    high = bits[..., 0].astype(jnp.float32) * jnp.float32(2.0**-32)
    low = bits[..., 1].astype(jnp.float32) * jnp.float32(2.0**-64)
    return jnp.log(jnp.minimum(high + low, jnp.float32(1 - 2.0**-24)))


def unrolled_key(key: PRNGKey) -> PRNGKey:
    """Returns the key for a generator of the same bits that is some ten times faster on a CPU.

    JAX's threefry is a rolled loop there, whose rounds each write an array. This one is a straight
    line of arithmetic, which XLA fuses with what uses the bits. Same algorithm, same counters, so
    `jax.random.normal(unrolled_key(key), shape)` equals `jax.random.normal(key, shape)`.
    A key of another generator is returned as it is.

    Raises:
      ValueError: if `key` is not a typed key.
    """
    check_key(key)
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_unrolled_threefry())


def numbered_key(key: PRNGKey, number: Array) -> PRNGKey:
    """Returns the key of a number under a base key, for one draw from each of very many.

    Unlike `fold_in` it costs no hash: a threefry key's low word is raised by the number. Threefry
    promises independent streams for distinct keys however they are related, which is how
    counter-based generators are meant to be numbered. The base key must be used for nothing else.
    For other generators this is `fold_in`.

    Args:
      key: a typed key, consumed.
      number: a uint32 scalar; the keys of 2^32 numbers differ.

    References:
      Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011), section 2.
    """
    if "threefry2x32" not in str(jax.random.key_impl(key)):
        return jax.random.fold_in(key, number)
    high, low = jax.random.key_data(key)
    words = jnp.stack([high, low + number])
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(key))


def threefry_2x32(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Encrypts a 64-bit counter with a 64-bit key by twenty rounds of threefry.

    Args:
      key: two uint32 arrays.
      counter: two uint32 arrays that broadcast with them.

    Returns:
      Two uint32 arrays of random bits.

    References:
      Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011), section 4.
    """
    parity = key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA)
    schedule = (key[0], key[1], parity)
    x, y = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = ((y << jnp.uint32(turn)) | (y >> jnp.uint32(32 - turn))) ^ x
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def counter_bits(key: PRNGKey, counter: Array) -> Array:
    """Returns `[..., 2]` uint32 bits of threefry keys, one or `[...]`, at `[...]` counters."""
    words = jax.random.key_data(key)
    pair = threefry_2x32((words[..., 0], words[..., 1]), (jnp.zeros_like(counter), counter))
    return jnp.stack(pair, axis=-1)


def _counters(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The high and low words of 0, 1, 2, ... in an array of this shape."""
    size = math.prod(shape)
    if size >= 2**32:
        raise ValueError(f"at most 2^32 - 1 random words per key, got shape {shape}")
    low = jax.lax.iota(jnp.uint32, size).reshape(shape)
    return jnp.zeros_like(low), low


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(threefry_2x32((key[0], key[1]), _counters(shape)), axis=-1)


def _fold_in(key: Array, data: Array | int) -> Array:
    low = jnp.asarray(data).astype(jnp.uint32)
    return jnp.stack(threefry_2x32((key[0], key[1]), (jnp.zeros_like(low), low)), axis=-1)


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    high, low = threefry_2x32((key[0], key[1]), _counters(shape))
    if bit_width == 64:
        return (high.astype(jnp.uint64) << jnp.uint64(32)) | low.astype(jnp.uint64)
    narrow = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[bit_width]
    return (high ^ low).astype(narrow)


def _seed(seed: Array) -> Array:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


@functools.cache
def _unrolled_threefry():
    return jax.extend.random.define_prng_impl(
        key_shape=(2,),
        seed=_seed,
        split=_split,
        random_bits=_random_bits,
        fold_in=_fold_in,
        name="threefry2x32_unrolled",
        tag="ufry",
    )
