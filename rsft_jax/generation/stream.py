"""One completion, token by token: for whoever shows a text while it is drawn.

Two programs: one begins (prompt through the model, one slot), one draws a token. Both depend on the
padded length of the prompt and not on the prompt, so that the turns of a chat share them.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.generation.decode import (
    DecodeState,
    InitCacheFn,
    decode_step,
    init_state,
    insert,
    prefill,
)
from rsft_jax.generation.device import Policy
from rsft_jax.generation.inputs import (
    candidate_key,
    check_request,
    make_policy,
    masks_of_prompts,
)
from rsft_jax.generation.types import Prompts, SamplingParams, StopFn, pad_prompts
from rsft_jax.numerics.checks import check_integer
from rsft_jax.types import Array, Cache, LogitsFn, Params, PRNGKey

_SMALLEST = 64  # width of the shortest prompts; the wider ones are powers of two


class StreamedToken(NamedTuple):
    """A token of a completion that is being drawn.

    Attributes:
      token: its id.
      log_prob: in nats, under the law that it was drawn from.
      finished: whether it ended the completion: a stop token, or what `stop` looks for. If the last
        one did not, the completion was cut at `max_new_tokens`.
    """

    token: int
    log_prob: float
    finished: bool


def stream(
    key: PRNGKey,
    logits_fn: LogitsFn,
    params: Params,
    prompt: Sequence[int] | np.ndarray,
    *,
    sampling: SamplingParams,
    init_cache: InitCacheFn | None = None,
    prompt_id: int = 0,
    candidate: int = 0,
    max_length: int | None = None,
    allowed_tokens: Array | np.ndarray | None = None,
    stop: StopFn | None = None,
) -> Iterator[StreamedToken]:
    """Draws one completion and gives each token as soon as it is there.

    The law and the random numbers are those of `generate`: the tokens are its candidate `candidate`
    of the prompt with the identity `prompt_id`, from the same key. So what was seen in a stream can
    be drawn again in a batch, and the other way round.

    The prompt is padded to a power of two, at least 64: prompts of the same padded length and law
    share two compiled programs. While the caller looks at a token, the device draws the next; one
    that nobody asks for is dropped.

    Args:
      key: random key, consumed.
      logits_fn: the policy; static and hashable.
      params: its parameters.
      prompt: token ids, at least one.
      sampling: the law. Static.
      init_cache, max_length: as in `generate`.
      prompt_id: identity of the prompt, for the key.
      candidate: number of the completion, for the key; at least 0.
      allowed_tokens: `[V]` bool tokens that may be drawn; by default all.
      stop: `stop(tokens[t]) -> n` ends the completion with its n-th token; see `stop_strings`.

    Returns:
      An iterator over the tokens, the stop token included. The prompt goes through the model when
      the first token is asked for.

    Raises:
      ValueError: for a bad argument, or a prompt that leaves no room for `max_new_tokens`; and from
        the iterator, where the policy gives no distribution to draw from.

    Example:
      >>> bigram = lambda params, tokens, positions, cache: (params[tokens], cache)
      >>> table = jnp.log(jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
      >>> law = SamplingParams(max_new_tokens=9, stop_token_ids=(0,))
      >>> for token, log_prob, finished in stream(jax.random.key(0), bigram, table, [0],
      ...                                         sampling=law):
      ...     print(token, log_prob, finished)
      1 0.0 False
      2 0.0 False
      0 0.0 True
    """
    tokens = [int(i) for i in np.asarray(prompt).reshape(-1)]
    prompts = pad_prompts([tokens], width=_width(len(tokens), sampling, max_length))
    check_integer("candidate", candidate, 0)
    check_request(prompts, 1, sampling, None, max_length)
    allowed = None
    if allowed_tokens is not None:
        chex.assert_rank(allowed_tokens, 1)
        allowed = masks_of_prompts(allowed_tokens, 1)
    own_key = candidate_key(key, prompt_id, candidate)
    policy = make_policy(logits_fn, params, init_cache)
    return _tokens(policy, prompts, own_key[None], allowed, sampling, stop)


def _width(length: int, sampling: SamplingParams, max_length: int | None) -> int:
    """Columns for a prompt, no more than the context has.

    >>> [_width(n, SamplingParams(max_new_tokens=8), 200) for n in (1, 64, 65, 150)]
    [64, 64, 128, 192]
    """
    width = max(_SMALLEST, 1 << (length - 1).bit_length())
    return width if max_length is None else min(width, max_length - sampling.max_new_tokens)


def _tokens(
    policy: Policy,
    prompts: Prompts,
    keys: PRNGKey,
    allowed: Array | np.ndarray | None,
    sampling: SamplingParams,
    stop: StopFn | None,
) -> Iterator[StreamedToken]:
    policy = policy.prepared()
    step = functools.partial(
        _step, policy.params, logits_fn=policy.logits_fn, sampling=sampling
    )  # fmt: skip
    cache, state = step(*_begin(
        policy.params, *prompts, allowed, keys,
        logits_fn=policy.logits_fn, init_cache=policy.init_cache, sampling=sampling,
    ))  # fmt: skip
    shown, going = 0, True
    while going:
        following = step(cache, state)  # the device works on it while the host reads this one
        seen = _read(state)
        if seen.failed:
            raise ValueError(
                "the policy gave no distribution (NaN, +inf or all tokens masked) at new token "
                f"{seen.length}"
            )
        end = None if stop is None else stop(seen.tokens[: seen.length])
        kept = seen.length if end is None else end
        finished, going = seen.finished or end is not None, seen.active and end is None
        for place in range(shown, kept):
            last = finished and place == kept - 1
            yield StreamedToken(int(seen.tokens[place]), float(seen.log_probs[place]), last)
        shown = kept
        cache, state = following


class _Seen(NamedTuple):
    """What the host knows of the one slot."""

    length: int
    active: bool
    finished: bool
    failed: bool
    tokens: np.ndarray
    log_probs: np.ndarray


def _read(state: DecodeState) -> _Seen:
    """Waits until the state is there."""
    names = _Seen._fields
    values = jax.device_get([getattr(state, name) for name in names])
    row = dict(zip(names, (value[0] for value in values)))
    flags = {name: bool(row[name]) for name in ("active", "finished", "failed")}
    return _Seen(**{**row, **flags, "length": int(row["length"])})


@functools.partial(jax.jit, static_argnames=("logits_fn", "init_cache", "sampling"))
def _begin(
    params: Params,
    tokens: Array,
    lengths: Array,
    allowed: Array | None,
    keys: PRNGKey,
    *,
    logits_fn: LogitsFn,
    init_cache: InitCacheFn,
    sampling: SamplingParams,
) -> tuple[Cache, DecodeState]:
    """One slot with the prompt in it, its cache apart."""
    prefix = prefill(
        params, tokens, lengths, allowed,
        logits_fn=logits_fn, init_cache=init_cache, sampling=sampling,
    )  # fmt: skip
    new_tokens = sampling.max_new_tokens
    empty = init_state(keys[0], init_cache, 1, tokens.shape[1], new_tokens, like=prefix)
    slot = jnp.zeros(1, jnp.int32)
    return _apart(insert(empty, prefix, slot, slot, jnp.int32(1), keys))


@functools.partial(
    jax.jit, static_argnames=("logits_fn", "sampling"), donate_argnames="cache"
)  # the cache alone is large: the rest stays, for the host to read while the next step runs
def _step(
    params: Params,
    cache: Cache,
    state: DecodeState,
    *,
    logits_fn: LogitsFn,
    sampling: SamplingParams,
) -> tuple[Cache, DecodeState]:
    """`decode_step`; where the completion has ended, nothing is drawn."""
    whole = _with_cache(state, cache)
    return _apart(decode_step(params, whole, logits_fn=logits_fn, sampling=sampling))


def _apart(state: DecodeState) -> tuple[Cache, DecodeState]:
    return state.cache, _with_cache(state, None)


def _with_cache(state: DecodeState, cache: Cache) -> DecodeState:
    return state.replace(cache=cache)  # pyright: ignore[reportAttributeAccessIssue]
