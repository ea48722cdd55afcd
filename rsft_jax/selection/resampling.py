"""Sampling importance resampling: a fixed number of candidates, drawn by their weights."""

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_integer, check_number
from rsft_jax.numerics.keys import log_uniform
from rsft_jax.selection.randomness import candidate_bits, candidate_log_uniform
from rsft_jax.selection.ranks import smallest
from rsft_jax.selection.rejection import temperature, tilted_log_ratio
from rsft_jax.selection.types import (
    Candidates,
    Decision,
    Law,
    SelectionRule,
    check_count,
    label,
    make_rule,
)
from rsft_jax.types import Array, Numeric, PRNGKey


def importance_resample(num: int, beta: Numeric, *, replace: bool = False) -> SelectionRule:
    """Draws `num` of each prompt's candidates with weights exp(r / beta): soft best-of-n.

    Where `statistical_rejection` accepts a random number, this accepts a fixed one.

    Law (CONSISTENT): tends to q(y) exp(r(y) / beta) / Z as N grows. With n candidates the KL to it
    is O(1/n), and one draw follows q(y) * n * E[exp(r(y)/beta) / (exp(r(y)/beta) + the other
    n - 1 weights)]. Watch the effective sample size, 1 / sum of squared normalised weights: `num`
    close to it or above means the best are used up.

    - `replace=False`: `num` distinct candidates, one after another in proportion to the weights
      left (exponential race, the same law as Gumbel top-num). Later ones are less tilted.
    - `replace=True`: independent draws; a candidate drawn c times is accepted with log-weight
      log c.

    `accept_prob` is the marginal probability with replacement. Without, it is the probability given
    what the others drew, whose mean is the marginal one.

    Args:
      num: draws per prompt; in [1, N] without replacement. Static. A prompt with fewer scored
        candidates accepts them all.
      beta: temperature, in units of the reward, > 0; a number or `[P]`; may be traced.
      replace: whether a candidate can be drawn again.

    Raises:
      ValueError: if num < 1, `beta` is a number that is not finite and > 0, or (when it is traced)
        num > N without replacement.

    Example:
      >>> candidates = Candidates(rewards=jnp.arange(8.0)[None], valid=jnp.ones((1, 8), bool))
      >>> selection = importance_resample(3, beta=1.0).select(jax.random.key(0), candidates)
      >>> int(selection.accepted.sum())
      3

    References:
      Rubin, Sampling importance resampling (1987).
      Verdun et al., Soft best-of-n sampling (2025), https://arxiv.org/abs/2505.03156.
      Kool et al., Stochastic beams and where to find them (2019), section 4 (accept_prob).
    """
    num = check_integer("num", num)
    check_number("beta", beta, above=0)

    def decide(key: PRNGKey, candidates: Candidates, scored: Array) -> Decision:
        rewards = candidates.rewards
        bound = jnp.where(scored, rewards, -jnp.inf).max(axis=-1, keepdims=True)
        log_weight = tilted_log_ratio(rewards, bound, temperature(beta, rewards))
        log_weight = jnp.where(scored & ~jnp.isnan(log_weight), log_weight, -jnp.inf)
        if replace:
            return _with_replacement(key, candidates, log_weight, num)
        check_count("num", num, scored.shape[1])
        return _without_replacement(key, candidates, log_weight, num)

    name = f"importance_resample({num}, beta={label(beta)})"
    return make_rule(name, decide, law=Law.CONSISTENT)


def _without_replacement(
    key: PRNGKey, candidates: Candidates, log_weight: Array, num: int
) -> Decision:
    # Each runs against a clock E / w, E exponential; the `num` earliest are the sample. In logs,
    # and with E made from the small end of a uniform, where it is finest: the winners are there.
    uniform = jnp.exp(candidate_log_uniform(key, candidates)).astype(log_weight.dtype)
    log_time = jnp.log(-jnp.log1p(-uniform)) - log_weight
    among = log_weight > -jnp.inf
    count = jnp.full((log_time.shape[0], 1), num, jnp.int32)
    accepted = smallest(log_time, count, among)
    # What each had to beat: the num-th earliest of the others.
    first_out = jnp.where(among & ~accepted, log_time, jnp.inf).min(axis=-1, keepdims=True)
    last_in = jnp.where(accepted, log_time, -jnp.inf).max(axis=-1, keepdims=True)
    bar = jnp.where(accepted, first_out, last_in)
    log_rate = jnp.where(among, bar + log_weight, -jnp.inf)
    return Decision(accepted, accept_prob=-jnp.expm1(-jnp.exp(log_rate)))


def _with_replacement(
    key: PRNGKey, candidates: Candidates, log_weight: Array, num: int
) -> Decision:
    prompts, per_prompt = log_weight.shape
    cumulative = jnp.cumsum(jnp.exp(log_weight), axis=-1)
    total = cumulative[:, -1][:, None]
    draws = candidates.replace(  # pyright: ignore[reportAttributeAccessIssue]
        rewards=jnp.zeros((prompts, num))
    )
    uniform = jnp.exp(log_uniform(candidate_bits(key, draws))).astype(log_weight.dtype)
    point = uniform * total
    # The first candidate whose sum exceeds the point; one of weight 0 never is.
    index = (cumulative[:, None, :] <= point[:, :, None]).sum(axis=-1, dtype=jnp.int32)
    column = jax.lax.broadcasted_iota(jnp.int32, (prompts, num, per_prompt), 2)
    times = (index[:, :, None] == column).sum(axis=1, dtype=jnp.int32)
    share = jnp.exp(log_weight) / jnp.where(total > 0, total, 1)
    return Decision(
        accepted=times > 0,
        accept_prob=-jnp.expm1(num * jnp.log1p(-share)),
        log_weight=jnp.log(jnp.maximum(times, 1).astype(jnp.float32)),
    )
