"""Accept-reject over candidates: each is accepted by a coin of its own.

    accept when  log u < log A,   A = min(1, p~(y) / (M q(y)))

The rules differ in what they know of p~ / q and in M.
"""

import jax.numpy as jnp

from rsft_jax.selection.arguments import check_number, per_prompt
from rsft_jax.selection.randomness import candidate_log_uniform
from rsft_jax.selection.types import Candidates, Decision, Law, SelectionRule, make_rule
from rsft_jax.types import Array, Numeric, PRNGKey

_MAX_LOG_WEIGHT = 88.0  # exp of it is still finite in float32


def statistical_rejection(beta: Numeric, max_reward: Numeric | None = None) -> SelectionRule:
    """Accepts with probability A = exp((r - r_max) / beta), clipped at 1: towards q exp(r / beta).

    The ratio of target and proposal is known up to its constant from the reward alone, so no
    log-probabilities are needed: q cancels. The smaller beta the nearer to top-1, the larger the
    nearer to q.

    Law:
    - `max_reward` a bound on every possible reward (EXACT): q(y) exp(r(y) / beta) / Z, each
      accepted candidate independent of the others; acceptance rate E_q exp((r - r_max) / beta).
      A reward above the bound is accepted with A = 1, and its `log_weight` (r - r_max) / beta > 0
      repairs the law: weighted, it is the target still. `log_weight > 0` counts the violations,
      and above 88 nats it is cut there to stay finite.
    - `max_reward=None`, the largest scored reward of each prompt (CONSISTENT): tends to the target
      as N grows, but with few candidates it is another law, because the best of them is always
      accepted: the probability of accepting y with n candidates is q(y) times the mean of
      exp((r(y) - max(r(y), max of n - 1 others)) / beta). On a toy language model with n = 8 the
      total variation to the target is 0.29. Every prompt with a scored candidate accepts one.

    Adding a constant to the rewards (and to the bound) changes nothing but their rounding.

    Args:
      beta: temperature of the target, in units of the reward, > 0; a number or `[P]`; may be
        traced. Traced values that are not > 0 accept nothing.
      max_reward: upper bound of the reward, a number or `[P]`; may be traced.

    Raises:
      ValueError: if `beta` is a number that is not finite and > 0, or `max_reward` a number that
        is not finite.

    Example:
      >>> rewards = jnp.array([[0.0, 1.0, -1e30]])
      >>> candidates = Candidates(rewards=rewards, valid=jnp.ones((1, 3), bool))
      >>> rule = statistical_rejection(0.5, max_reward=1.0)
      >>> rule.select(jax.random.key(0), candidates).accept_prob.round(3).tolist()[0]
      [0.1350000..., 1.0, 0.0]

    References:
      Liu et al., Statistical rejection sampling improves preference optimization (2023),
      https://arxiv.org/abs/2309.06657, theorem 1; `rso_finite` is its Algorithm 1.
    """
    check_number("beta", beta, above=0)
    if max_reward is not None:
        check_number("max_reward", max_reward)

    def decide(key: PRNGKey, candidates: Candidates, scored: Array) -> Decision:
        rewards = candidates.rewards
        if max_reward is None:
            bound = jnp.where(scored, rewards, -jnp.inf).max(axis=-1, keepdims=True)
        else:
            bound = per_prompt("max_reward", max_reward, rewards)
        log_ratio = tilted_log_ratio(rewards, bound, temperature(beta, rewards))
        return accept_by_log_ratio(key, candidates, log_ratio)

    law = Law.CONSISTENT if max_reward is None else Law.EXACT
    return make_rule("statistical_rejection", decide, law=law)


def temperature(beta: Numeric, rewards: Array) -> Array:
    """`[P, 1]` beta in the rewards' dtype, NaN where a traced one is not > 0.

    A number too small for the dtype counts as its smallest normal one: the limit of top-1 and not
    0 / 0.
    """
    if isinstance(beta, int | float):
        beta = max(float(beta), float(jnp.finfo(rewards.dtype).tiny))
    beta = per_prompt("beta", beta, rewards)
    return jnp.where(beta > 0, beta, jnp.nan)


def tilted_log_ratio(rewards: Array, bound: Array, beta: Array) -> Array:
    """`(rewards - bound) / beta`, of arrays that broadcast.

    The difference comes first: it is exact where rewards are close to the bound, and it makes the
    result independent of their offset.
    """
    return (rewards - bound) / beta


def accept_by_log_ratio(key: PRNGKey, candidates: Candidates, log_ratio: Array) -> Decision:
    """One coin a candidate: accepted with probability min(1, exp(log_ratio)).

    Args:
      key: a typed key, consumed.
      candidates: their shape and `prompt_ids` number the coins.
      log_ratio: `[P, N]` log p~ - log q - log M. NaN is not accepted.

    Returns:
      The decision, with the log-weight max(0, log_ratio) that repairs a ratio above 1.
    """
    log_accept = jnp.where(jnp.isnan(log_ratio), -jnp.inf, jnp.minimum(log_ratio, 0))
    log_uniform = candidate_log_uniform(key, candidates).astype(log_accept.dtype)
    return Decision(
        accepted=log_uniform < log_accept,
        accept_prob=jnp.exp(log_accept),
        log_weight=jnp.clip(log_ratio, 0, _MAX_LOG_WEIGHT),
    )
