"""Whether weights can be trusted: the shape of their upper tail."""

import math

import jax
import jax.numpy as jnp

from rsft_jax.numerics.dtypes import widened
from rsft_jax.types import Array

_FEWEST = 5  # weights above the cutoff that a shape can be fitted to
_PRIOR_SPREAD, _PRIOR_DRAWS = 3.0, 10.0  # of Zhang and Stephens, and of Vehtari et al.


def pareto_k(log_weights: Array, axis: int = -1) -> Array:
    """The shape k-hat of a generalised Pareto law fitted to the largest weights.

    Of S weights the largest M = ceil(min(S / 5, 3 sqrt(S))) are taken, less the next one u, and

        P(w - u > x | w > u) = (1 + k x / sigma)^(-1 / k)

    is fitted (Zhang and Stephens' estimate, with a prior of ten draws at k = 0.5). The sign: k > 0
    is a heavy tail, whose moments exist up to order 1 / k; k < 0 a bounded one. So weighted means
    have a finite variance below 0.5; up to min(1 - 1 / log10(S), 0.7) they and the effective
    sample size can be trusted; above 1 the mean itself does not exist. The scale of the weights
    does not matter.

    Weights that are equal where they are largest (all equal, 0 and 1, clipped at an envelope) have
    no tail: k is -inf, the best there is. ArviZ before 1.0 (`psislw`) gives +inf for them and
    1.x raises; its 1.x function negates its argument, so that the same array gives another k.

    Args:
      log_weights: log w in nats, any scale; -inf (no weight) is normal and counts as a draw.
      axis: the axis of the S draws.

    Returns:
      Without that axis: k-hat; -inf without a tail; NaN for NaN or +inf, for no positive weight,
      and where fewer than five different weights would have to tell (such as S < 21).

    Example:
      >>> u = (jnp.arange(1000) + 0.5) / 1000
      >>> round(float(pareto_k(-0.8 * jnp.log(u))), 2)  # w = u^-0.8, a Pareto tail with k = 0.8
      0.76
      >>> float(pareto_k(jnp.zeros(1000)))
      -inf

    References:
      Vehtari, Simpson, Gelman, Yao and Gabry, Pareto smoothed importance sampling (2024),
      https://arxiv.org/abs/1507.02646, sections 2 and 3. Zhang and Stephens, A new and efficient
      estimation method for the generalized Pareto distribution (2009).
    """
    rows = jnp.moveaxis(widened(jnp.asarray(log_weights)), axis, -1)
    return jnp.vectorize(_pareto_k, signature="(s)->()")(rows)


def _pareto_k(log_weights: Array) -> Array:
    """k-hat of `[S]` log-weights."""
    number, dtype = log_weights.shape[0], log_weights.dtype
    size = math.ceil(min(number / 5, 3 * math.sqrt(number)))
    if size >= number:  # one weight or none: nothing to compare with
        return jnp.asarray(jnp.nan, dtype)
    top = log_weights.max()
    log_largest = jax.lax.top_k(log_weights - top, size + 1)[0]
    # A weight that is smaller than the smallest number is 0, and so is a cutoff at it.
    cutoff = jnp.maximum(log_largest[size], jnp.log(jnp.finfo(dtype).tiny))
    excess = jnp.exp(log_largest[:size]) - jnp.exp(cutoff)
    above = log_largest[:size] > cutoff
    count = above.sum(dtype=jnp.int32)
    # One weight above all others is no tail either, but neither is it several that are equal.
    flat = (excess == excess[0]) | ~above
    defined = ~jnp.isnan(log_weights).any() & jnp.isfinite(top)
    few = jnp.where(count < _FEWEST, jnp.nan, _shape(excess, above, count))
    return jnp.where(defined, jnp.where(flat.all() & (count != 1), -jnp.inf, few), jnp.nan)


def _shape(excess: Array, above: Array, count: Array) -> Array:
    """The posterior mean of k given `count` values > 0, the first of a falling `[M]` array."""
    size, dtype = excess.shape[0], excess.dtype
    number = jnp.maximum(count, 1).astype(dtype)
    x = jnp.where(above, excess, 0)
    largest = jnp.maximum(x[0], jnp.finfo(dtype).tiny)
    # The first quartile, counted from the smallest of them.
    place = jnp.clip(count - jnp.floor(number / 4 + 0.5).astype(jnp.int32), 0, size - 1)
    quartile = jnp.maximum(x[place], jnp.finfo(dtype).tiny)
    # A grid over b = -k / sigma, of as many points as the estimate asks for.
    points = 30 + jnp.floor(jnp.sqrt(number))
    j = jnp.arange(1, 31 + math.isqrt(size), dtype=dtype)
    b = (1 - jnp.sqrt(points / (j - 0.5))) / (_PRIOR_SPREAD * quartile) + 1 / largest
    k = _mean_log1p(-b[:, None] * x[None, :], above[None, :], number)
    log_like = number * (jnp.log(-b / k) - k - 1)
    mass = jax.nn.softmax(jnp.where(j <= points, log_like, -jnp.inf))
    k = _mean_log1p(-(mass * b).sum() * x, above, number)
    return (number * k + _PRIOR_DRAWS * 0.5) / (number + _PRIOR_DRAWS)


def _mean_log1p(values: Array, among: Array, number: Array) -> Array:
    """The mean of log(1 + v) over the last axis, of those `among`."""
    return jnp.where(among, jnp.log1p(jnp.where(among, values, 0)), 0).sum(axis=-1) / number
