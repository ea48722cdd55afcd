"""The law of one token: logits transformed as `SamplingParams` says, and one draw from it.

`decode` draws with it and `score` evaluates it, so that both have the same log-probabilities.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsft_jax.generation.types import SamplingParams
from rsft_jax.sampling.categorical import greedy_token, sample_categorical_with_log_prob
from rsft_jax.sampling.transforms import (
    allow_tokens,
    min_p,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
)
from rsft_jax.types import Array, PRNGKey


class Context(NamedTuple):
    """What the law of a token depends on, besides the logits.

    Attributes:
      length: `[...]` int32 tokens of the completion before this one.
      seen: `[..., V]` bool tokens of the prompt and the completion so far; None without a
        repetition penalty.
      allowed: `[..., V]` bool tokens that may be drawn; None for all.
    """

    length: Array
    seen: Array | None = None
    allowed: Array | None = None


class Frontier(NamedTuple):
    """Where B rows stand: their last token is known and not yet fed to the policy.

    Attributes:
      keys: `[B]` keys, for what is drawn next alone.
      token: `[B]` int32 the last token of each row.
      position: `[B]` int32 its place; negative for a slot without a row.
      context: `[B]` of the next token.
    """

    keys: PRNGKey
    token: Array
    position: Array
    context: Context


class Block(NamedTuple):
    """What one step adds to each row: K tokens at most.

    Attributes:
      tokens: `[B, K]` int32, -1 behind the last; none at all where there is no law.
      log_probs: `[B, K]` nats under the sampling law.
      policy_log_probs: `[B, K]` nats under the policy itself, or None.
    """

    tokens: Array
    log_probs: Array
    policy_log_probs: Array | None


def sampling_logits(
    logits: Array, sampling: SamplingParams, context: Context | None = None
) -> Array:
    """Applies the transforms of `SamplingParams`, in the order it states, to `[..., V]` logits.

    Args:
      logits: the policy's.
      sampling: the law. Static.
      context: needed for a repetition penalty, `min_new_tokens` and a mask of allowed tokens.

    Returns:
      `[..., V]` logits of the law.

    Raises:
      ValueError: if the law needs a context and there is none.
    """
    logits = temperature(_before_temperature(logits, sampling, context), sampling.temperature)
    if sampling.temperature == 0:
        return logits  # one token is left
    if sampling.top_k:
        logits = top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = top_p(logits, sampling.top_p)
    if sampling.min_p > 0:
        logits = min_p(logits, sampling.min_p)
    return logits


def draw(
    keys: PRNGKey, logits: Array, sampling: SamplingParams, context: Context | None = None
) -> tuple[Array, Array]:
    """Draws one token per row from the sampling law, one key a row.

    Args:
      keys: `[B]` typed keys, each used for this draw alone.
      logits: `[B, V]` the policy's logits.
      sampling: the law. Static.
      context: `[B]` where the rows stand; see `sampling_logits`.

    Returns:
      `[B]` int32 tokens, -1 where there is no distribution (NaN, or all tokens masked), and
      `[B]` log-probabilities in nats under the sampling law.
    """
    if sampling.temperature == 0:
        token = greedy_token(_before_temperature(logits, sampling, context))
        return token, jnp.zeros(token.shape, logits.dtype)
    logits = sampling_logits(logits, sampling, context)
    # Two uniforms a row: the second keeps the probabilities of rare tokens exact.
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,), logits.dtype))(keys)
    return sample_categorical_with_log_prob(uniform, logits)


def log_prob(
    logits: Array, tokens: Array, sampling: SamplingParams, context: Context | None = None
) -> Array:
    """Log-probability in nats of `[...]` tokens under the sampling law of `[..., V]` logits."""
    return log_softmax_at(sampling_logits(logits, sampling, context), tokens)


def log_softmax_at(logits: Array, tokens: Array) -> Array:
    """Log-softmax of `[..., V]` logits at `[...]` tokens, in nats."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _before_temperature(logits: Array, sampling: SamplingParams, context: Context | None) -> Array:
    if context is None:
        if sampling.repetition_penalty != 1 or sampling.min_new_tokens:
            raise ValueError("repetition_penalty and min_new_tokens need a context, got None")
    else:
        if sampling.repetition_penalty != 1:
            if context.seen is None:
                raise ValueError("repetition_penalty needs context.seen, got None")
            logits = repetition_penalty(logits, context.seen, sampling.repetition_penalty)
        if context.allowed is not None:
            logits = allow_tokens(logits, context.allowed)
        if sampling.min_new_tokens and sampling.stop_token_ids:
            stops = (
                jnp.zeros(logits.shape[-1], bool).at[jnp.array(sampling.stop_token_ids)].set(True)
            )
            early = context.length < sampling.min_new_tokens
            masked = early[..., None] & jnp.broadcast_to(stops, logits.shape)
            logits = jnp.where(masked, -jnp.inf, logits)
    return logits
