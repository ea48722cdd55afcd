"""Importance resampling and rejection control: other ways from proposal draws to a target."""

import functools

import chex
import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_integer, check_number
from rsft_jax.numerics.keys import check_key, log_uniform, row_keys, unit_uniform
from rsft_jax.sampling.categorical import sample_categorical
from rsft_jax.types import Array, Numeric, PRNGKey, record


def importance_resample(
    key: PRNGKey, log_weights: Array, num: int, *, replace: bool = True
) -> Array:
    """Picks draws with probability proportional to their importance weights.

    Sampling-importance-resampling: of K draws from q with w = P / q, one picked with probability
    w / sum w follows the target as K grows (CONSISTENT; its law is off by O(1/K) in KL). Judge it
    by `effective_sample_size`. Without replacement the picks are the `num` largest of
    log w + Gumbel noise: the first follows the same law, each later one that law without those
    before it; together they are distinct and their law is flatter than the target.

    Args:
      key: a typed key, consumed. Row i (leading axes flattened) uses `fold_in(key, i)`.
      log_weights: `[..., K]` log w in nats; -inf is never picked, NaN makes its row fail.
      num: picks per row, at least 1; at most K without replacement. Static.
      replace: whether a draw may be picked more than once. Static.

    Returns:
      `[..., num]` int32 indices into the K draws; -1 where nothing is left to pick.

    Raises:
      ValueError: if `num` is out of range or `key` is not a typed key.

    Example:
      >>> picks = importance_resample(
      ...     jax.random.key(0), jnp.array([0.0, -jnp.inf, 0.0]), 2, replace=False)
      >>> sorted(picks.tolist())
      [0, 2]

    References:
      Rubin, The calculation of posterior distributions by data augmentation: comment (1987).
      Kool et al., Stochastic Beams and Where to Find Them (2019), section 2 (Gumbel top-k).
    """
    check_key(key)
    check_integer("num", num)
    if not log_weights.shape or not log_weights.shape[-1]:
        raise ValueError(f"log_weights must be [..., K] with K >= 1, got shape {log_weights.shape}")
    available = log_weights.shape[-1]
    if num > available and not replace:
        raise ValueError(f"num must be in [1, {available}] without replacement, got {num}")
    return _importance_resample(key, log_weights, num=int(num), replace=bool(replace))


@functools.partial(jax.jit, static_argnames=("num", "replace"))
def _importance_resample(key, log_weights, *, num, replace):
    lead, available = log_weights.shape[:-1], log_weights.shape[-1]
    flat = log_weights.reshape(-1, available).astype(jnp.float32)
    keys = row_keys(key, flat.shape[0])
    if replace:
        bits = jax.vmap(lambda k: jax.random.bits(k, (num, 2), jnp.uint32))(keys)
        rows = jnp.broadcast_to(flat[:, None, :], (flat.shape[0], num, available))
        picks = sample_categorical(unit_uniform(bits), rows)
    else:
        noise = jax.vmap(lambda k: jax.random.gumbel(k, (available,), jnp.float32))(keys)
        score, picks = jax.lax.top_k(flat + noise, num)
        failed = jnp.isnan(flat).any(axis=-1) | (flat == jnp.inf).any(axis=-1)
        picks = jnp.where((score > -jnp.inf) & ~failed[:, None], picks, -1)
    return picks.astype(jnp.int32).reshape(*lead, num)


@record
class ControlledDraws:
    """What rejection control kept.

    Attributes:
      accepted: `[...]` bool.
      log_weight: `[...]` the new log-weight, log max(w, c); -inf where not accepted.
      log_accept_prob: `[...]` log min(1, w / c).
    """

    accepted: Array
    log_weight: Array
    log_accept_prob: Array


def rejection_control(key: PRNGKey, log_weights: Array, log_threshold: Numeric) -> ControlledDraws:
    """Drops draws of small weight at random, and raises the weight of those it keeps.

    A draw of weight w is kept with probability min(1, w / c) and then weighs max(w, c), so that
    its expected weight is w, whatever c: every weighted sum keeps its mean, and the few draws
    that stay carry similar weights.

    Args:
      key: a typed key, consumed. Element i (flattened) uses `fold_in(key, i)`.
      log_weights: `[...]` log w in nats; NaN and -inf are never kept.
      log_threshold: log c in nats, broadcastable to it.

    Returns:
      A `ControlledDraws`.

    Raises:
      ValueError: if `log_threshold` is a number that is NaN, or `key` is not a typed key.

    Example:
      >>> kept = rejection_control(jax.random.key(0), jnp.array([3.0, -jnp.inf]), 1.0)
      >>> kept.accepted.tolist(), kept.log_weight.tolist()
      ([True, False], [3.0, -inf])

    References:
      Liu, Chen and Wong, Rejection control and sequential importance sampling (1998), section 2.
    """
    check_key(key)
    if not isinstance(log_threshold, jax.Array):  # on a device: not waited for
        check_number("log_threshold", log_threshold, finite=False)
    return _rejection_control(key, log_weights, log_threshold)


@jax.jit
def _rejection_control(key, log_weights, log_threshold):
    log_weights = log_weights.astype(jnp.float32)
    threshold = jnp.broadcast_to(jnp.asarray(log_threshold, jnp.float32), log_weights.shape)
    log_accept = jnp.minimum(log_weights - threshold, 0)
    keys = row_keys(key, log_weights.size)
    bits = jax.vmap(lambda k: jax.random.bits(k, (2,), jnp.uint32))(keys)
    accepted = log_uniform(bits).reshape(log_weights.shape) < log_accept
    chex.assert_equal_shape([accepted, log_weights])
    return ControlledDraws(
        accepted=accepted,
        log_weight=jnp.where(accepted, jnp.maximum(log_weights, threshold), -jnp.inf),
        log_accept_prob=log_accept,
    )
