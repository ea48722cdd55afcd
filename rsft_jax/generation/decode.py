"""Decoding inside jit: a fixed number of slots, each drawing one completion.

Four pure functions over `DecodeState`: `init_state` makes empty slots, `prefill` runs prompts
through the model once, `insert` puts candidates into slots, `decode` draws tokens until enough
slots are free. A candidate's key depends on its prompt and its number alone and each token folds
its index into it, so that neither the slot, nor the neighbours, nor the padding change a sample.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rsft_jax.generation.law import draw
from rsft_jax.generation.types import SamplingParams
from rsft_jax.types import Array, Cache, LogitsFn, Params, PRNGKey, record

InitCacheFn = Callable[[int, int], Cache]
"""`init_cache(rows, length)`: an empty cache; the rows on the leading axis of every leaf."""


@record
class DecodeState:
    """B slots in the middle of decoding.

    Attributes:
      cache: pytree with the slots on the leading axis.
      last_token: `[B]` int32, the token to feed next.
      position: `[B]` int32, its place in the sequence.
      keys: `[B]` the candidates' keys.
      active: `[B]` bool, whether the slot still draws.
      length: `[B]` int32, tokens drawn so far.
      tokens: `[B, T]` int32 drawn tokens, -1 after the end.
      log_probs: `[B, T]` their log-probabilities in nats, 0 after the end.
      finished: `[B]` bool, whether a stop token ended the completion.
      failed: `[B]` bool, whether the model gave no distribution.
    """

    cache: Cache
    last_token: Array
    position: Array
    keys: PRNGKey
    active: Array
    length: Array
    tokens: Array
    log_probs: Array
    finished: Array
    failed: Array


def init_state(
    key: PRNGKey, init_cache: InitCacheFn, slots: int, prompt_length: int, max_new_tokens: int
) -> DecodeState:
    """Makes `slots` free slots for prompts of up to `prompt_length` tokens."""
    zeros = jnp.zeros(slots, jnp.int32)
    no = jnp.zeros(slots, bool)
    return DecodeState(
        cache=init_cache(slots, prompt_length + max_new_tokens),
        last_token=zeros,
        position=zeros,
        keys=jax.random.split(key, slots),  # placeholders: insert replaces them before any draw
        active=no,
        length=zeros,
        tokens=jnp.full((slots, max_new_tokens), -1, jnp.int32),
        log_probs=jnp.zeros((slots, max_new_tokens)),
        finished=no,
        failed=no,
    )


@functools.partial(jax.jit, static_argnames=("logits_fn", "init_cache"))
def prefill(
    params: Params,
    tokens: Array,
    lengths: Array,
    *,
    logits_fn: LogitsFn,
    init_cache: InitCacheFn,
) -> Cache:
    """Runs each prompt through the model once, all but its last token, which `decode` feeds.

    Args:
      params: parameters of the policy.
      tokens: `[P, T]` int32 prompts, padded on the right.
      lengths: `[P]` int32.
      logits_fn: the policy. Static.
      init_cache: makes its cache. Static.

    Returns:
      A cache of P rows and T columns. No logits are formed: nothing is drawn here.
    """
    rows, width = tokens.shape
    places = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), tokens.shape)
    positions = jnp.where(places < lengths[:, None] - 1, places, -1)
    return logits_fn(params, tokens, positions, init_cache(rows, width))[1]


def insert(
    state: DecodeState,
    prefix: Cache,
    slots: Array,
    sources: Array,
    count: Array,
    last_tokens: Array,
    lengths: Array,
    keys: PRNGKey,
) -> DecodeState:
    """Puts `count` candidates into slots.

    Args:
      state: the slots.
      prefix: cache of prefilled prompts, as `prefill` made it.
      slots: `[B]` int32, the slots to fill, in its first `count` entries.
      sources: `[B]` int32, the row of `prefix` for each.
      count: how many.
      last_tokens: `[B]` int32, the last token of each candidate's prompt.
      lengths: `[B]` int32, the length of each candidate's prompt.
      keys: `[B]` the candidates' keys.

    Returns:
      The state with these slots active and empty of tokens.
    """

    def copy_row(i: Array, cache: Cache) -> Cache:
        # One row after the other, in place: only the rows that change are touched.
        def one(leaf: Array, source: Array) -> Array:
            row = lax.dynamic_slice_in_dim(source, sources[i], 1, axis=0).astype(leaf.dtype)
            start = (slots[i],) + (jnp.zeros_like(slots[i]),) * (leaf.ndim - 1)
            return lax.dynamic_update_slice(leaf, row, start)

        return jax.tree.map(one, cache, prefix)

    cache = lax.fori_loop(0, count, copy_row, state.cache)
    used = jnp.arange(slots.shape[0], dtype=jnp.int32) < count
    # Unused entries point past the end, and the scatter drops them.
    at = jnp.where(used, slots, state.active.shape[0])

    def put(old: Array, new: Array | int | float | bool) -> Array:
        return old.at[at].set(new, mode="drop")

    return DecodeState(
        cache=cache,
        last_token=put(state.last_token, last_tokens),
        position=put(state.position, lengths - 1),
        keys=put(state.keys, keys),
        active=put(state.active, True),
        length=put(state.length, 0),
        tokens=put(state.tokens, -1),
        log_probs=put(state.log_probs, 0.0),
        finished=put(state.finished, False),
        failed=put(state.failed, False),
    )


def decode(
    params: Params,
    state: DecodeState,
    wanted_free: Array | int,
    max_steps: Array | int,
    *,
    logits_fn: LogitsFn,
    sampling: SamplingParams,
) -> tuple[DecodeState, Array]:
    """Draws tokens in all active slots until `wanted_free` slots are free.

    Args:
      params: parameters of the policy.
      state: the slots.
      wanted_free: stop when at least so many slots are free, or none is active.
      max_steps: stop after so many tokens a slot.
      logits_fn: the policy. Static under jit.
      sampling: the law of a token, the stop tokens, and the most tokens. Static under jit.

    Returns:
      The new state, and the number of steps taken.
    """

    def unfinished(carry: tuple[DecodeState, Array]) -> Array:
        state, steps = carry
        busy = jnp.sum(state.active, dtype=jnp.int32)
        return (busy > 0) & (state.active.shape[0] - busy < wanted_free) & (steps < max_steps)

    def step(carry: tuple[DecodeState, Array]) -> tuple[DecodeState, Array]:
        state, steps = carry
        return decode_step(params, state, logits_fn=logits_fn, sampling=sampling), steps + 1

    return lax.while_loop(unfinished, step, (state, jnp.int32(0)))


def decode_step(
    params: Params, state: DecodeState, *, logits_fn: LogitsFn, sampling: SamplingParams
) -> DecodeState:
    """Draws one token in every active slot."""
    positions = jnp.where(state.active, state.position, -1)
    logits, cache = logits_fn(params, state.last_token[:, None], positions[:, None], state.cache)
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.length)
    token, log_prob = draw(keys, logits[:, 0], sampling)
    failed = state.active & (token < 0)
    drawn = state.active & ~failed
    stopped = drawn & jnp.isin(token, jnp.asarray(sampling.stop_token_ids, jnp.int32))
    length = state.length + drawn.astype(jnp.int32)
    rows = jnp.arange(token.shape[0], dtype=jnp.int32)
    column = jnp.where(drawn, state.length, state.tokens.shape[1])
    return DecodeState(
        cache=cache,
        last_token=jnp.where(drawn, token, state.last_token),
        position=state.position + drawn.astype(jnp.int32),
        keys=state.keys,
        active=drawn & ~stopped & (length < sampling.max_new_tokens),
        length=length,
        tokens=state.tokens.at[rows, column].set(token, mode="drop"),
        log_probs=state.log_probs.at[rows, column].set(
            log_prob.astype(state.log_probs.dtype), mode="drop"
        ),
        finished=state.finished | stopped,
        failed=state.failed | failed,
    )
