"""Lets a model without a cache be decoded: its cache is the sequence so far."""

from typing import NamedTuple

import jax.numpy as jnp

from rsft_jax.types import Array, Cache, LogitsFn, Params


class HistoryLogits(NamedTuple):
    """A `LogitsFn` with a cache, made from one that reads whole sequences.

    The cache is the tokens of each row, `[B, S]`, and every step evaluates the model on all of
    them: right for tabular and toy models and for networks that have no cache, quadratic in the
    length.

    Attributes:
      logits_fn: called with `cache=None` on whole rows; must be causal.
    """

    logits_fn: LogitsFn

    def __call__(
        self, params: Params, tokens: Array, positions: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """Appends the tokens and returns the logits at their positions."""
        rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]
        columns = jnp.where(positions >= 0, positions, cache.shape[1])
        cache = cache.at[rows, columns].set(tokens, mode="drop")
        everywhere = jnp.broadcast_to(jnp.arange(cache.shape[1], dtype=jnp.int32), cache.shape)
        logits, _ = self.logits_fn(params, cache, everywhere, None)
        return logits[rows, jnp.maximum(positions, 0)], cache


def init_history(rows: int, length: int) -> Cache:
    """An empty history, `[B, S]` int32."""
    return jnp.zeros((rows, length), jnp.int32)
