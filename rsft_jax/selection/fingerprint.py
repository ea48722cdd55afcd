"""Fingerprints: equal for completions that count as the same, different otherwise."""

import hashlib
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.types import Array


def token_fingerprint(tokens: Array, lengths: Array) -> Array:
    """Hashes the tokens of each completion to 32 bits.

    Depends on the first `lengths` tokens and nothing else: not on padding, not on T. The chance
    that two different completions of a prompt meet is 2^-32 a pair: 5e-7 among 64. Not made to
    withstand someone who looks for a collision.

    Args:
      tokens: `[P, N, T]` integers.
      lengths: `[P, N]` tokens that count.

    Returns:
      `[P, N]` uint32.

    Example:
      >>> tokens = jnp.array([[[5, 6, 0], [5, 6, 9], [6, 5, 0]]])
      >>> a, b, c = token_fingerprint(tokens, jnp.array([[2, 2, 2]]))[0].tolist()
      >>> a == b, a == c
      (True, False)
    """
    tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
    chex.assert_rank(tokens, 3)
    chex.assert_shape(lengths, tokens.shape[:2])
    place = jax.lax.broadcasted_iota(jnp.uint32, tokens.shape, 2)
    # A sum of one hash per place and token: parallel in T, and padding adds nothing to it.
    hashes = _mix(_mix(place + jnp.uint32(0x9E3779B9)) ^ tokens.astype(jnp.uint32))
    inside = place < lengths.astype(jnp.uint32)[:, :, None]
    total = jnp.where(inside, hashes, jnp.uint32(0)).sum(axis=-1, dtype=jnp.uint32)
    return _mix(total ^ _mix(lengths.astype(jnp.uint32)))


def text_fingerprint(
    texts: Sequence[Sequence[str]], *, normalize: Callable[[str], str] = str.strip
) -> np.ndarray:
    """Hashes each text to 32 bits, on the host.

    Args:
      texts: P lists of N completions.
      normalize: maps a text to what counts, such as its equations alone (RFT's "path") or its
        words in lower case.

    Returns:
      `[P, N]` uint32, the same on every machine and in every process.

    Example:
      >>> a, b = text_fingerprint([["3+4=7 ", "3+4=7"]])[0]
      >>> bool(a == b)
      True
    """

    def digest(text: str) -> int:
        data = normalize(text).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")

    return np.array([[digest(text) for text in row] for row in texts], np.uint32)


def _mix(word: Array) -> Array:
    """MurmurHash3's finaliser: every bit of a uint32 changes every other with chance 1/2."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)
