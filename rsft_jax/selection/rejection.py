"""Accept-reject over candidates: each is accepted by a coin of its own.

    accept when  log u < log A,   A = min(1, p~(y) / (M q(y)))

The rules differ in what they know of p~ / q and in M.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_between, check_integer, check_number, per_prompt
from rsft_jax.numerics.counting import running_count
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.numerics.float_order import first_float
from rsft_jax.selection.randomness import candidate_log_uniform
from rsft_jax.selection.ranks import (
    Scope,
    check_scope,
    from_groups,
    to_groups,
)
from rsft_jax.selection.types import (
    Candidates,
    Decision,
    Law,
    Selection,
    SelectionRule,
    check_candidates,
    check_count,
    label,
    make_rule,
)
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
      >>> [round(a, 3) for a in rule.select(jax.random.key(0), candidates).accept_prob[0].tolist()]
      [0.135, 1.0, 0.0]

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
    bound = "" if max_reward is None else f", max_reward={label(max_reward)}"
    name = f"statistical_rejection(beta={label(beta)}{bound})"
    return make_rule(name, decide, law=law, separable=max_reward is not None)


def density_ratio(
    *,
    log_envelope: Numeric | None = None,
    rate: float | None = None,
    scope: Scope = "prompt",
    axis_name: str | None = None,
) -> SelectionRule:
    """Accepts with probability A = min(1, w / M), w = p / q from the log-probabilities.

    For targets that have a density: another model, the policy at another temperature. Exactly one
    of `log_envelope` and `rate` is given.

    Law, for p and q as given (q must be the law that was sampled, top-p and all):
    - `log_envelope` (EXACT): proportional to min(p, M q), at acceptance rate sum min(p / M, q).
      That is p if M >= max w. Where w > M the `log_weight` log(w / M) repairs it: the accepted
      candidates, weighted, follow p at any M. `log_envelope=0` is A = min(1, p / q), whose law is
      proportional to min(p, q), and not p.
    - `rate` (CONSISTENT): M is chosen such that the mean A over the scored candidates of the
      prompt (or batch) is `rate`: of all rules with this acceptance rate, min(1, w / M) comes
      closest to p. M depends on the candidates, so the law tends to min(p, M q) as N grows. If
      fewer than that have w > 0, all of these are accepted.

    Args:
      log_envelope: log M in nats, a number or `[P]`; may be traced. Not NaN; finite.
      rate: wanted acceptance rate, in (0, 1). Static.
      scope: over what the rate is reached; "batch" uses one M for all prompts.
      axis_name: for `scope="batch"` inside `jax.shard_map`: the mesh axis of the prompts.

    Raises:
      ValueError: unless exactly one of the two is given, finite or in (0, 1); on `select`, if
        `log_proposal` or `log_target` is missing.

    Example:
      >>> candidates = Candidates(rewards=jnp.zeros((1, 2)), valid=jnp.ones((1, 2), bool),
      ...     log_proposal=jnp.log(jnp.array([[0.5, 0.5]])),
      ...     log_target=jnp.log(jnp.array([[0.9, 0.1]])))
      >>> rule = density_ratio(log_envelope=0.0)  # the plain rule, min(1, p / q)
      >>> [round(a, 2) for a in rule.select(jax.random.key(0), candidates).accept_prob[0].tolist()]
      [1.0, 0.2]

    References:
      Eikema et al., An approximate sampler for energy-based models (2022), section 3 (QRS).
      Verine et al., Optimal budgeted rejection sampling (2024), https://arxiv.org/abs/2311.00460.
      Liu, Chen and Wong, Rejection control (1998) for the weights.
    """
    if (log_envelope is None) == (rate is None):
        raise ValueError(
            "exactly one of log_envelope and rate must be given, "
            f"got log_envelope={log_envelope!r}, rate={rate!r}"
        )
    if log_envelope is not None:
        check_number("log_envelope", log_envelope)
    if rate is not None:
        check_between("rate", rate, 0, 1, bounds="()")
    check_scope(scope, axis_name)

    def decide(key: PRNGKey, candidates: Candidates, scored: Array) -> Decision:
        log_ratio = log_density_ratio(candidates)
        if log_envelope is not None:
            log_bound = per_prompt("log_envelope", log_envelope, log_ratio)
        else:
            assert rate is not None
            among = to_groups(scored, scope, axis_name)
            log_bound = from_groups(
                envelope_for_rate(to_groups(log_ratio, scope, axis_name), among, rate),
                scored.shape,
                scope,
                axis_name,
            )
        return accept_by_log_ratio(key, candidates, log_ratio - log_bound)

    law = Law.EXACT if rate is None else Law.CONSISTENT
    chosen = f"rate={rate:g}" if log_envelope is None else f"log_envelope={label(log_envelope)}"
    return make_rule(
        f"density_ratio({chosen})",
        decide,
        law=law,
        needs={"log_proposal", "log_target"},
        separable=rate is None,
    )


def with_target_of_reward(rule: SelectionRule, beta: Numeric | None = None) -> SelectionRule:
    """Lets a rule that compares densities take the target from the reward.

    With `beta` the target is q exp(r / beta), whose ratio to q is known without q; with None the
    reward is log p itself, in nats and perhaps up to a constant.

    Law: that of `rule` for this target.

    Args:
      rule: such as `density_ratio`; needs `log_target`.
      beta: temperature, in units of the reward, > 0, a number or `[P]`; may be traced. None where
        the reward is log p.

    Returns:
      The rule; with `beta` it needs neither density, else `log_proposal` alone.

    Raises:
      ValueError: if `beta` is a number that is not finite and > 0.

    Example:
      >>> candidates = Candidates(rewards=jnp.array([[0.0, -0.5]]), valid=jnp.ones((1, 2), bool))
      >>> rule = with_target_of_reward(density_ratio(log_envelope=0.0), beta=0.5)
      >>> [round(a, 3) for a in rule.select(jax.random.key(0), candidates).accept_prob[0].tolist()]
      [1.0, 0.368]

    References:
      The ratio of q exp(r / beta) to q: Liu et al. (2023), https://arxiv.org/abs/2309.06657,
      equation 8.
    """
    if beta is not None:
        check_number("beta", beta, above=0)
    known = {"log_target"} if beta is None else {"log_target", "log_proposal"}

    def select(key: PRNGKey, candidates: Candidates) -> Selection:
        candidates = check_candidates(candidates)
        rewards = candidates.rewards
        densities: dict[str, Array] = {"log_target": rewards}
        if beta is not None:
            tilt = rewards / temperature(beta, rewards)
            densities = {"log_target": tilt, "log_proposal": jnp.zeros_like(rewards)}
        return rule.select(key, dataclasses.replace(candidates, **densities))

    return rule._replace(select=jax.jit(select), needs=rule.needs - known)


def log_density_ratio(candidates: Candidates) -> Array:
    """`[P, N]` log p - log q in nats; -inf where p has no mass, or anything is NaN or q is 0."""
    log_target = jnp.asarray(candidates.log_target)
    log_proposal = jnp.asarray(candidates.log_proposal)
    dtype = wide_dtype(log_target.dtype, log_proposal.dtype)
    ratio = log_target.astype(dtype) - log_proposal.astype(dtype)
    # A candidate that q cannot have proposed (+inf) is a mistake upstream, not a sample of p.
    return jnp.where(jnp.isnan(ratio) | (ratio == jnp.inf), -jnp.inf, ratio)


def envelope_for_rate(log_ratio: Array, among: Array, rate: float) -> Array:
    """Solves mean(min(1, w / M)) = rate for log M in each row, to the last bit of it.

    By bisection; `rsft_jax.sampling.log_envelope_for_rate` sorts, and says why there are two.

    Args:
      log_ratio: `[G, M]` log w.
      among: `[G, M]` which count.
      rate: in (0, 1).

    Returns:
      `[G, 1]` log M, the smallest with a mean of at most `rate`; the smallest finite log w where
      fewer than rate * n have w > 0.
    """
    log_ratio = jnp.where(among, log_ratio, -jnp.inf)
    finite = jnp.isfinite(log_ratio)
    count = among.sum(axis=-1, keepdims=True, dtype=jnp.int32).astype(log_ratio.dtype)

    def within(log_bound: Array) -> Array:
        # -inf - -inf is NaN; and a w of 0 is accepted under no envelope.
        log_accept = jnp.where(finite, jnp.minimum(log_ratio - log_bound, 0), -jnp.inf)
        return jnp.exp(log_accept).sum(axis=-1, keepdims=True) <= rate * count

    least = jnp.where(finite, log_ratio, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.maximum(first_float(within, least.shape, log_ratio.dtype), least)


def rso_finite(beta: Numeric, num: int) -> SelectionRule:
    """Statistical rejection without replacement, until `num` are accepted: RSO's Algorithm 1.

    In passes over the candidates that are left, in order, each is accepted with probability
    exp((r - r_max) / beta), r_max being the largest reward left when the pass began; accepted
    ones leave. The best of a pass is always accepted, so at most `num` passes are needed, and a
    prompt with fewer than `num` scored candidates accepts them all.

    Law (HEURISTIC): its own. Not independent draws from q exp(r / beta): without replacement the
    best run out and worse ones take their place. On 8 of 64 candidates of a toy problem the mean
    reward is 0.93 where the target has 1.32. Use `statistical_rejection` for the target.

    The paper's code keeps candidates in a dictionary by text; put `unique` in front for that.
    `accept_prob` is that of the last coin a candidate met (0 if it met none).

    Args:
      beta: temperature, in units of the reward, > 0; a number or `[P]`; may be traced.
      num: candidates accepted per prompt, in [1, N]. Static.

    Raises:
      ValueError: if `beta` is a number that is not finite and > 0, if num < 1, or (when it is
        traced) num > N.

    References:
      Liu et al. (2023), https://arxiv.org/abs/2309.06657, appendix A.1, Algorithm 1.
    """
    check_number("beta", beta, above=0)
    num = check_integer("num", num)

    def decide(key: PRNGKey, candidates: Candidates, scored: Array) -> Decision:
        check_count("num", num, scored.shape[1])
        rewards = candidates.rewards
        divisor = temperature(beta, rewards)

        def unfinished(state):
            number, accepted, _ = state
            short = accepted.sum(axis=-1, dtype=jnp.int32) < num
            return (number < num) & (short & (scored & ~accepted).any(axis=-1)).any()

        def run_pass(state):
            number, accepted, accept_prob = state
            left = scored & ~accepted
            places = num - accepted.sum(axis=-1, keepdims=True, dtype=jnp.int32)
            bound = jnp.where(left, rewards, -jnp.inf).max(axis=-1, keepdims=True)
            coin = accept_by_log_ratio(
                jax.random.fold_in(key, number),
                candidates,
                jnp.where(left, tilted_log_ratio(rewards, bound, divisor), -jnp.inf),
            )
            assert coin.accept_prob is not None
            place = running_count(coin.accepted)
            # The pass stops at the last place: who comes after it meets no coin.
            met = left & (place - coin.accepted.astype(jnp.int32) < places)
            return (
                number + 1,
                accepted | (coin.accepted & met),
                jnp.where(met, coin.accept_prob, accept_prob),
            )

        # Made from `scored` and `rewards` so that under shard_map the carry varies as they do.
        start = (jnp.int32(0), scored & False, jnp.where(scored, 0, 0 * rewards))
        _, accepted, accept_prob = jax.lax.while_loop(unfinished, run_pass, start)
        return Decision(accepted, accept_prob)

    return make_rule(f"rso_finite(beta={label(beta)}, num={num})", decide, law=Law.HEURISTIC)


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
