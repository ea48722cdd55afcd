"""Rules that look at the order of the rewards alone: best-of-n, top-k, top fraction, quantile.

Ties are broken by position: of equal rewards the candidate with the lowest index wins. None of
these rules draws, and none depends on the scale of the rewards.
"""

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_between, check_integer
from rsft_jax.numerics.counting import first_true
from rsft_jax.selection.ranks import (
    Scope,
    check_scope,
    from_groups,
    largest,
    part_of,
    to_groups,
)
from rsft_jax.selection.types import (
    Candidates,
    Decision,
    Law,
    SelectionRule,
    check_count,
    make_rule,
)
from rsft_jax.types import Array


def best_of_n() -> SelectionRule:
    """Accepts the best scored candidate of each prompt: best-of-n, RAFT's rule.

    Law (EXACT): with F(r) = P_q(reward <= r) and F-(r) = P_q(reward < r), n scored candidates give

        P(y) = (F(r(y))^n - F-(r(y))^n) * q(y) / P_q(reward = r(y)).

    Its KL to q is at most log n - (n - 1)/n nats, often less, and its win rate against q at most
    n/(n + 1). Larger n over-optimises the reward. All rewards equal: the first one, a draw from q.

    Example:
      >>> rewards = jnp.array([[1.0, 3.0, 3.0], [jnp.nan, 0.0, -1.0]])
      >>> candidates = Candidates(rewards=rewards, valid=jnp.ones((2, 3), bool))
      >>> best_of_n().select(jax.random.key(0), candidates).accepted.astype(int).tolist()
      [[0, 1, 0], [0, 1, 0]]

    References:
      Dong et al., RAFT (2023), https://arxiv.org/abs/2304.06767, algorithm 1.
      Beirami et al., Theoretical guarantees on the best-of-n alignment policy (2024),
      https://arxiv.org/abs/2401.01879.
    """

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        return Decision(_best(candidates, scored))

    return make_rule("best_of_n", decide, law=Law.EXACT)


def top_k(k: int) -> SelectionRule:
    """Accepts the k best scored candidates of each prompt; all of them if fewer are scored.

    Law (EXACT): an accepted candidate, picked at random among the k, follows

        P(y) = q(y) * n/k * sum_{m, e} P(m better, e equal of n - 1) * clip((k - m)/(e + 1), 0, 1)

    with n scored candidates: the mixture of the k highest order statistics. k = 1 is
    best-of-n and k = n accepts all.

    Args:
      k: candidates accepted per prompt, in [1, N]. Static.

    Raises:
      ValueError: if k < 1, or (when it is traced) k > N.
    """
    k = check_integer("k", k)

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        prompts, per_prompt = scored.shape
        check_count("k", k, per_prompt)
        if k == per_prompt:
            return Decision(scored)
        if k == 1:
            return Decision(_best(candidates, scored))
        count = jnp.full((prompts, 1), k, jnp.int32)
        return Decision(largest(candidates.rewards, count, scored))

    # A single one is never cut by what stands behind.
    places = {"ties"} if k > 1 else ()
    return make_rule(f"top_k({k})", decide, law=Law.EXACT, places=places)


def top_fraction(
    fraction: float, scope: Scope = "prompt", *, axis_name: str | None = None
) -> SelectionRule:
    """Accepts the best ceil(fraction * count) of the scored candidates.

    Law:
    - `scope="prompt"` (CONSISTENT): as N grows, q given that its reward is in its top fraction;
      with n candidates the law of `top_k`.
    - `scope="batch"` (HEURISTIC): over all prompts together. Prompts with low rewards lose their
      place, so the law of the *prompts* changes too: "bad prompts" vanish. Rewards of different
      prompts must be comparable.

    Args:
      fraction: in (0, 1]. Static. At least one candidate is accepted where any is scored.
      scope: what the fraction is of.
      axis_name: for `scope="batch"` inside `jax.shard_map`: the mesh axis of the prompts. Without
        it, the batch is the part that each device has.

    Raises:
      ValueError: if `fraction` is not in (0, 1], or `scope` unknown.

    References:
      Dong et al., RAFT (2023), https://arxiv.org/abs/2304.06767, algorithm 1 (batch-wide).
    """
    check_between("fraction", fraction, 0, 1, bounds="(]")
    check_scope(scope, axis_name)

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        rewards = to_groups(candidates.rewards, scope, axis_name)
        among = to_groups(scored, scope, axis_name)
        count = part_of(fraction, among.sum(axis=-1, keepdims=True, dtype=jnp.int32))[1]
        best = largest(rewards, count, among)
        return Decision(from_groups(best, scored.shape, scope, axis_name))

    law = Law.CONSISTENT if scope == "prompt" else Law.HEURISTIC
    where = "" if scope == "prompt" else f", {scope}"
    return make_rule(f"top_fraction({fraction:g}{where})", decide, law=law, places={"ties"})


def quantile(
    level: float, scope: Scope = "prompt", *, axis_name: str | None = None
) -> SelectionRule:
    """Accepts every scored candidate whose reward reaches the quantile of the scored rewards.

    The quantile is the reward at place floor(level * count) of the ascending order, so that
    without ties the best ceil((1 - level) * count) are accepted. Unlike `top_fraction` it accepts
    all that tie with the last one: with rewards 0 and 1 it may accept many more.

    Law: as `top_fraction(1 - level)`, but for the ties.

    Args:
      level: in [0, 1]. Static. 0 accepts all, 1 the best and its ties.
      scope: over what the quantile is taken.
      axis_name: as in `top_fraction`.

    Raises:
      ValueError: if `level` is not in [0, 1], or `scope` unknown.

    Example:
      >>> candidates = Candidates(rewards=jnp.array([[0, 1, 1, 1]]), valid=jnp.ones((1, 4), bool))
      >>> quantile(0.5).select(jax.random.key(0), candidates).accepted.astype(int).tolist()
      [[0, 1, 1, 1]]
    """
    check_between("level", level, 0, 1)
    check_scope(scope, axis_name)

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        rewards = to_groups(candidates.rewards, scope, axis_name)
        among = to_groups(scored, scope, axis_name)
        count = among.sum(axis=-1, keepdims=True, dtype=jnp.int32)
        place = jnp.clip(part_of(level, count)[0], 0, jnp.maximum(count - 1, 0))
        reached = largest(rewards, count - place, among, ties="all")
        return Decision(from_groups(reached, scored.shape, scope, axis_name))

    law = Law.CONSISTENT if scope == "prompt" else Law.HEURISTIC
    where = "" if scope == "prompt" else f", {scope}"
    return make_rule(f"quantile({level:g}{where})", decide, law=law)


def _best(candidates: Candidates, scored: Array) -> Array:
    """`[P, N]` one-hot at the first maximum of each row; nothing where nothing is scored."""
    known = jnp.where(scored, candidates.rewards, -jnp.inf)
    highest = known.max(axis=-1, keepdims=True)
    # Nothing equals NaN: a row without a scored candidate has no first maximum.
    highest = jnp.where(highest == -jnp.inf, jnp.nan, highest)
    # Two reductions of floats vectorise on CPUs; XLA's argmax takes three times as long as both.
    first = first_true(known == highest)[:, None]
    return jax.lax.broadcasted_iota(jnp.int32, known.shape, 1) == first
