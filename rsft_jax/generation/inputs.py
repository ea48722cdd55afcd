"""What every way of drawing checks and makes of its arguments."""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.generation.decode import InitCacheFn
from rsft_jax.generation.device import Policy
from rsft_jax.generation.types import Prompts, SamplingParams
from rsft_jax.generation.uncached import HistoryLogits, init_history
from rsft_jax.numerics.checks import check_integer
from rsft_jax.types import Array, LogitsFn, Params, PRNGKey


def masks_of_prompts(allowed: Array | np.ndarray, count: int) -> Array | np.ndarray:
    """`[P, V]` bool from `[V]` or `[P, V]`, on the host if it is there."""
    chex.assert_rank(allowed, {1, 2})
    xp = jnp if isinstance(allowed, jax.Array) else np
    return xp.broadcast_to(allowed.astype(bool), (count, allowed.shape[-1]))


def make_policy(logits_fn: LogitsFn, params: Params, init_cache: InitCacheFn | None) -> Policy:
    """A policy that has a cache, be it the sequence so far."""
    if init_cache is None:
        return Policy(HistoryLogits(logits_fn), params, init_history)
    return Policy(logits_fn, params, init_cache)


def check_request(
    prompts: Prompts,
    num_candidates: int,
    sampling: SamplingParams,
    slots: int | None,
    max_length: int | None,
    *,
    count: str = "num_candidates",
) -> None:
    """Raises ValueError for counts, prompts and lengths that cannot be; `count` names N."""
    check_integer(count, num_candidates)
    if slots is not None:
        check_integer("slots", slots, note="or None")
    try:
        lengths = np.asarray(prompts.lengths)
    except jax.errors.TracerArrayConversionError:
        return  # inside jit there is no value to check
    if lengths.size == 0:
        raise ValueError("prompts must hold at least one prompt, got none")
    width = prompts.tokens.shape[1]
    if lengths.min() < 1 or lengths.max() > width:
        raise ValueError(f"prompt lengths must be in [1, {width}], got {lengths.tolist()}")
    if max_length is not None and (room := max_length - sampling.max_new_tokens) < lengths.max():
        row = int(lengths.argmax())
        raise ValueError(
            f"prompt {row} has {lengths[row]} tokens; with max_new_tokens = "
            f"{sampling.max_new_tokens} a context of {max_length} leaves room for {max(room, 0)}"
        )


def candidate_keys(
    key: PRNGKey,
    prompts: Prompts,
    prompt_ids: Array | np.ndarray | Sequence[int] | None,
    num_candidates: int,
) -> PRNGKey:
    """`[P, N]` keys: `candidate_key(key, prompt_ids[i], j)` for candidate j of prompt i."""
    count = prompts.tokens.shape[0]
    ids = jnp.arange(count) if prompt_ids is None else jnp.asarray(prompt_ids)
    chex.assert_shape(ids, (count,))
    return _candidate_keys(key, ids, num_candidates)


def candidate_key(key: PRNGKey, prompt_id: Array | int, candidate: Array | int) -> PRNGKey:
    """The key of one candidate, which depends on its prompt's identity and its number alone."""
    return jax.random.fold_in(jax.random.fold_in(key, prompt_id), candidate)


@functools.partial(jax.jit, static_argnames="num_candidates")
def _candidate_keys(key: PRNGKey, ids: Array, num_candidates: int) -> PRNGKey:
    """`[P, N]` keys of all candidates."""
    of_prompt = jax.vmap(candidate_key, in_axes=(None, None, 0))
    numbers = jnp.arange(num_candidates)
    return jax.vmap(of_prompt, in_axes=(None, 0, None))(key, ids, numbers)
