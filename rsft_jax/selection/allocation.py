"""How many candidates each prompt should get in the next round."""

import math

import chex
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_between, check_integer, check_number
from rsft_jax.types import Array


def gvm_allocation(
    acceptance_rates: Array,
    gradient_norms: Array,
    *,
    budget: int,
    floor: int = 1,
    alpha: float = 1e-3,
    exponent: float = 2.0,
) -> Array:
    """Shares out candidates so that the variance of the gradient is least.

    With n_i candidates of prompt i, of which p_i are accepted, the gradient estimate has a variance
    of sum_i G_i^2 / (p_i n_i); the least for a given sum of n_i is at

        n_i ∝ G_i / sqrt(p_i + alpha / p_i^(exponent - 1)),

    where alpha keeps prompts that are all but hopeless from taking everything. A pilot estimate of
    p_i = 0 would give n_i = 0 now and for ever, so every prompt gets `floor`. What is then shared
    by the formula is adjusted such that the floor and the budget both hold.

    Estimates stay unbiased if each accepted candidate weighs 1 / (n_i p_i).

    Args:
      acceptance_rates: `[P]` p_i in [0, 1]; NaN, unknown, counts as 0.
      gradient_norms: `[P]` G_i >= 0, in any unit; pass ones when they are unknown.
      budget: candidates to share out, at least floor * P. Static.
      floor: candidates every prompt gets, >= 0. Static.
      alpha: regularisation, > 0. Static.
      exponent: the paper's beta, >= 1. Static.

    Returns:
      `[P]` int32 counts, at least `floor`, summing to `budget`. Fractions are rounded such that
      the largest get the candidates left over, the first prompt where they tie.

    Raises:
      ValueError: if an argument is out of range.

    Example:
      >>> gvm_allocation(jnp.array([0.9, 0.1, 0.0]), jnp.ones(3), budget=16, floor=2).tolist()
      [4, 10, 2]

    References:
      Yao et al., Optimizing chain-of-thought reasoners via gradient variance minimization (2025),
      https://arxiv.org/abs/2505.02391, section 3 (Proposition 1).
    """
    rates, norms = jnp.asarray(acceptance_rates), jnp.asarray(gradient_norms)
    chex.assert_rank(rates, 1)
    chex.assert_equal_shape([rates, norms])
    floor = check_integer("floor", floor, minimum=0)
    check_number("alpha", alpha, above=0)
    check_between("exponent", exponent, 1, math.inf, bounds="[)")
    prompts = rates.shape[0]
    if check_integer("budget", budget) < floor * prompts or not prompts:
        raise ValueError(
            f"budget must be >= floor * P with P >= 1, "
            f"got budget={budget}, floor={floor}, P={prompts}"
        )
    score = _score(rates.astype(jnp.float32), norms.astype(jnp.float32), alpha, exponent)
    above_floor = _share(score, budget, floor)
    return floor + _round_to_sum(above_floor, budget - floor * prompts)


def _score(rates: Array, norms: Array, alpha: float, exponent: float) -> Array:
    """`[P]` G / sqrt(p + alpha / p^(exponent - 1)), at p = 0 its limit; ones if all are 0."""
    rates = jnp.clip(jnp.nan_to_num(rates), 0, 1)
    safe = jnp.where(rates > 0, rates, 1)
    score = norms / jnp.sqrt(safe + alpha * safe ** (1 - exponent))
    at_zero = 0 if exponent > 1 else norms / jnp.sqrt(jnp.float32(alpha))
    score = jnp.where(rates > 0, score, at_zero)
    score = jnp.where(jnp.isfinite(score) & (score > 0), score, 0)
    return jnp.where((score > 0).any(), score, 1)


def _share(score: Array, budget: int, floor: int) -> Array:
    """`[P]` max(floor, c * score) - floor, with c such that the shares sum to the budget."""
    prompts = score.shape[0]
    descending = -jnp.sort(-score)
    # If the m highest scores are above the floor, c is what is left for them over their sum.
    above = jnp.arange(1, prompts + 1)
    left = (budget - floor * (prompts - above)).astype(score.dtype)
    factor = left / jnp.cumsum(descending)
    consistent = factor * descending >= floor
    last = jnp.maximum(jnp.where(consistent, above, 0).max() - 1, 0)
    return jnp.maximum(factor[last] * score - floor, 0)


def _round_to_sum(shares: Array, total: int) -> Array:
    """`[P]` int32 shares rounded by the largest remainder, so that they sum to the total."""
    shares = shares * (total / jnp.maximum(shares.sum(), jnp.finfo(shares.dtype).tiny))
    whole = jnp.floor(shares).astype(jnp.int32)
    order = jnp.argsort(-(shares - whole.astype(shares.dtype)), stable=True)
    index = jnp.arange(shares.shape[0], dtype=jnp.int32)
    rank = jnp.zeros_like(whole).at[order].set(index)
    # Rounding in the floats can leave a little more or less than one each: share that out too.
    rest = total - whole.sum(dtype=jnp.int32)
    each, extra = jnp.divmod(rest, shares.shape[0])
    return whole + each + (rank < extra).astype(jnp.int32)
