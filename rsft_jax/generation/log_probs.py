"""Log-probabilities of given completions, by the law that `generate` draws from."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.generation.inputs import masks_of_prompts
from rsft_jax.generation.law import Context, log_prob
from rsft_jax.generation.types import Completions, Prompts, SamplingParams, as_prompts
from rsft_jax.types import Array, LogitsFn, Params


def score(
    logits_fn: LogitsFn,
    params: Params,
    prompts: Prompts | Array,
    completions: Completions,
    *,
    sampling: SamplingParams,
    allowed_tokens: Array | np.ndarray | None = None,
    rows_at_once: int = 8,
) -> Array:
    """Log-probability of every token of given completions under a policy.

    For the policy that drew them this is `completions.log_probs` up to rounding (1e-4 nats a token
    in float32); with `SamplingParams(max_new_tokens=...)` alone it is the policy's own law,
    untransformed. The sum over T is log q(y | x), stop token included.

    The whole sequence is evaluated at once, without a cache, `rows_at_once` rows a time so that
    the logits of all rows never exist together. Of a policy that has `logits_at` (see `LogitsFn`;
    the Transformer has it) only logits that predict a token of a completion are formed.

    Args:
      logits_fn: the policy; called with `cache=None`. Static and hashable.
      params: its parameters.
      prompts: P prompts, in any form that `generate` takes.
      completions: P x N completions.
      sampling: the law of a token; its largest length plays no part. Static.
      allowed_tokens: `[V]` or `[P, V]` bool, as `generate` was given.
      rows_at_once: rows a call; bounds the memory to rows x (prompt + completion) x V logits, with
        `logits_at` to rows x completion x V.

    Returns:
      `[P, N, T]` nats; 0 after the end of a completion.

    Example:
      >>> from rsft_jax.generation import generate
      >>> coin = lambda params, tokens, positions, cache: (params[tokens], cache)
      >>> table = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
      >>> law = SamplingParams(max_new_tokens=2)
      >>> out = generate(jax.random.key(0), coin, table, [[0]], num_candidates=3, sampling=law)
      >>> bool(jnp.allclose(score(coin, table, [[0]], out, sampling=law), out.log_probs))
      True
    """
    prompts = as_prompts(prompts)
    count, candidates, length = completions.tokens.shape
    rows = count * candidates
    repeated = np.arange(rows) // candidates
    prompt_tokens, prompt_lengths = jnp.asarray(prompts.tokens), jnp.asarray(prompts.lengths)
    tokens = jnp.asarray(completions.tokens).reshape(rows, length)
    lengths = jnp.asarray(completions.lengths).reshape(rows)
    allowed = None if allowed_tokens is None else masks_of_prompts(allowed_tokens, count)
    parts = []
    for first in range(0, rows, rows_at_once):
        # The last block repeats its last row rather than change its shape and compile again.
        block = np.minimum(np.arange(first, first + rows_at_once), rows - 1)
        scored = _score_rows(
            params,
            prompt_tokens[repeated[block]],
            prompt_lengths[repeated[block]],
            tokens[block],
            lengths[block],
            None if allowed is None else allowed[repeated[block]],
            logits_fn=logits_fn,
            sampling=sampling,
        )
        parts.append(scored[: rows - first])
    return jnp.concatenate(parts).reshape(count, candidates, length)


@functools.partial(jax.jit, static_argnames=("logits_fn", "sampling"))
def _score_rows(
    params: Params,
    prompts: Array,
    prompt_lengths: Array,
    completions: Array,
    lengths: Array,
    allowed: Array | None,
    *,
    logits_fn: LogitsFn,
    sampling: SamplingParams,
) -> Array:
    joined = join(prompts, prompt_lengths, completions)
    positions = jnp.arange(joined.sequence.shape[1], dtype=jnp.int32)
    positions = jnp.broadcast_to(positions, joined.sequence.shape)
    logits_at = getattr(logits_fn, "logits_at", functools.partial(_logits_at, logits_fn))
    before = logits_at(params, joined.sequence, positions, joined.columns - 1)
    return log_probs_of_rows(before, joined, lengths, allowed, sampling=sampling)


class Joined(NamedTuple):
    """Prompts with a completion each, as the rows that a model reads.

    Attributes:
      sequence: `[B, S]` int32; a completion follows its prompt at once, and padding (of any ids)
        stands at the end of a row alone.
      columns: `[B, T]` int32 where the tokens of the completion stand; there are S at least.
    """

    sequence: Array
    columns: Array


def join(prompts: Array, prompt_lengths: Array, completions: Array) -> Joined:
    """Puts `[B, T]` completions, padded with -1, behind `[B, L]` prompts of `[B]` lengths."""
    rows, length = completions.shape
    columns = prompt_lengths[:, None] + jnp.arange(length, dtype=jnp.int32)[None, :]
    sequence = jnp.pad(prompts, ((0, 0), (0, length)))
    each_row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    return Joined(sequence.at[each_row, columns].set(jnp.maximum(completions, 0)), columns)


def log_probs_of_rows(
    before: Array,
    joined: Joined,
    lengths: Array,
    allowed: Array | None,
    *,
    sampling: SamplingParams,
) -> Array:
    """Log-probabilities of completions, from the logits that a policy has before each token.

    Args:
      before: `[B, T, V]` logits at the columns before those of the tokens.
      joined: the rows.
      lengths: `[B]` int32 of the completions.
      allowed: `[B, V]` bool, or None for all tokens.
      sampling: the law. Static.

    Returns:
      `[B, T]` nats; 0 after the end of a completion.
    """
    places = jnp.arange(joined.columns.shape[1], dtype=jnp.int32)[None, :]
    inside = places < lengths[:, None]
    context = Context(
        length=jnp.broadcast_to(places, inside.shape),
        seen=_seen_before(joined.sequence, joined.columns, before.shape[-1], sampling),
        allowed=None if allowed is None else allowed[:, None, :],
    )
    tokens = jnp.take_along_axis(joined.sequence, joined.columns, axis=1)
    log_probs = log_prob(before, tokens, sampling, context)
    return jnp.where(inside, log_probs, jnp.zeros((), before.dtype))


def _logits_at(
    logits_fn: LogitsFn, params: Params, tokens: Array, positions: Array, columns: Array
) -> Array:
    """`[B, C, V]` logits at `[B, C]` columns, of a policy that gives those at all of them."""
    logits, _ = logits_fn(params, tokens, positions, None)
    return jnp.take_along_axis(logits, columns[:, :, None], axis=1)


def _seen_before(
    sequence: Array, columns: Array, vocab_size: int, sampling: SamplingParams
) -> Array | None:
    """`[B, T, V]` bool, which tokens stand in a row before each of the columns `[B, T]`."""
    if sampling.repetition_penalty == 1:
        return None
    rows = jnp.arange(sequence.shape[0], dtype=jnp.int32)[:, None]
    places = jnp.broadcast_to(jnp.arange(sequence.shape[1], dtype=jnp.int32), sequence.shape)
    never = jnp.full((sequence.shape[0], vocab_size), sequence.shape[1], jnp.int32)
    first = never.at[rows, sequence].min(places)
    return first[:, None, :] < columns[:, :, None]
