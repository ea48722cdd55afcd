"""Aliases and the few protocols by which the parts of the library meet.

Letters used for shapes everywhere: B rows, P prompts, N candidates per prompt, G draft tokens,
T tokens, V vocabulary, D width.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, dataclass_transform

import chex
import jax
import numpy as np

_T = TypeVar("_T")

Array = jax.Array
"""A JAX array, traced or not. Public functions take NumPy arrays wherever they take these."""
PRNGKey = chex.PRNGKey
"""A typed key, as made by `jax.random.key`."""
Numeric = chex.Numeric
"""A scalar or an array; may be traced."""
Params = Any
"""A pytree of parameters."""
Cache = Any
"""A pytree whose every leaf has the rows (B) on its leading axis, or None for no cache."""


class LogitsFn(Protocol):
    """A causal language model as one pure function.

    With a cache, `tokens` are the new tokens of each row and `positions` their places in the
    sequence; the function writes the new keys and values at these places and attends to every
    place up to and including its own. A negative position marks padding: nothing is written, and
    the logits there mean nothing. With `cache=None`, `tokens` are whole sequences from position 0
    and nothing is kept.

    A function that is an object may have a method `prepare(params) -> params`: `generate` calls it
    once and gives its result to every call, so that work which is the same for all tokens (rounding
    weights, laying them out) is done once. With a method `draw_block` it draws several tokens in
    one step; see `rsft_jax.generation.Speculative`. With a method
    `logits_at(params, tokens, positions, columns[B, C]) -> [B, C, V]` it gives the logits of whole
    sequences at some columns alone, which `score` asks for.

    Args:
      params: pytree of parameters, or what `prepare` made of it.
      tokens: `[B, T]` int32 token ids.
      positions: `[B, T]` int32, the place of each token in its sequence; negative for padding.
      cache: pytree with the rows on the leading axis of every leaf, or None.

    Returns:
      `[B, T, V]` next-token logits, and the updated cache (None when none was given).
    """

    def __call__(
        self, params: Params, tokens: Array, positions: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """Computes logits and the updated cache."""
        ...


class RewardFn(Protocol):
    """Scores texts. NaN means "could not be scored" and is never treated as a value.

    Args:
      prompts: P prompt texts.
      completions: P lists of N completion texts.

    Returns:
      `[P, N]` float rewards.
    """

    def __call__(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> np.ndarray:
        """Scores every completion."""
        ...


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[_T]) -> type[_T]:
    """Makes a result type: a frozen, keyword-only dataclass that is a pytree.

    The same as `chex.dataclass(frozen=True, kw_only=True, mappable_dataclass=False)`, in a form
    whose fields type checkers see.
    """
    return chex.dataclass(frozen=True, kw_only=True, mappable_dataclass=False)(cls)
