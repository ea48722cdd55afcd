"""The law of one token: logits transformed as `SamplingParams` says, and one draw from it.

`decode` draws with it and `score` evaluates it, so that both have the same log-probabilities.
"""

import jax
import jax.numpy as jnp

from rsft_jax.generation.types import SamplingParams
from rsft_jax.sampling.categorical import greedy_token, sample_categorical_with_log_prob
from rsft_jax.sampling.transforms import min_p, temperature, top_k, top_p
from rsft_jax.types import Array, PRNGKey


def sampling_logits(logits: Array, sampling: SamplingParams) -> Array:
    """Applies temperature, top-k, top-p and min-p, in this order, to `[..., V]` logits."""
    logits = temperature(logits, sampling.temperature)
    if sampling.temperature == 0:
        return logits  # one token is left
    if sampling.top_k:
        logits = top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = top_p(logits, sampling.top_p)
    if sampling.min_p > 0:
        logits = min_p(logits, sampling.min_p)
    return logits


def draw(keys: PRNGKey, logits: Array, sampling: SamplingParams) -> tuple[Array, Array]:
    """Draws one token per row from the sampling law, one key a row.

    Args:
      keys: `[B]` typed keys, each used for this draw alone.
      logits: `[B, V]` the policy's logits.
      sampling: the law.

    Returns:
      `[B]` int32 tokens, -1 where there is no distribution (NaN, or all tokens masked), and
      `[B]` log-probabilities in nats under the sampling law.
    """
    if sampling.temperature == 0:
        token = greedy_token(logits)
        return token, jnp.zeros(token.shape, logits.dtype)
    # Two uniforms a row: the second keeps the probabilities of rare tokens exact.
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,), logits.dtype))(keys)
    return sample_categorical_with_log_prob(uniform, sampling_logits(logits, sampling))


def log_prob(logits: Array, tokens: Array, sampling: SamplingParams) -> Array:
    """Log-probability in nats of `[...]` tokens under the sampling law of `[..., V]` logits."""
    logits = sampling_logits(logits, sampling)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
