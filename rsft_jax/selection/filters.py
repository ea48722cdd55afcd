"""Rules for use behind others: a cap per prompt, no duplicates, no group without contrast."""

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_integer, check_number, per_prompt
from rsft_jax.numerics.counting import running_count
from rsft_jax.selection.types import (
    Candidates,
    Decision,
    Law,
    SelectionRule,
    check_count,
    label,
    make_rule,
)
from rsft_jax.types import Array, Numeric


def at_most(k: int) -> SelectionRule:
    """Accepts the first k scored candidates of each prompt, in the order they were drawn.

    Behind another rule it caps what that one accepted, so that easy prompts do not fill the
    training set.

    Law (EXACT): that of what it is given, behind rules that judge each candidate by itself or
    never meet a tie. Candidates are exchangeable, so their position says nothing about them, and
    the first k accepted follow the law that all accepted do. (Keeping the k best would not: it is
    another tilt on top.) Behind `top_k` or `top_fraction` ties are the exception: which of the
    equals came in was decided by position, and the first k are then not any k: `chain` calls that
    HEURISTIC. Ask those rules for fewer instead.

    Args:
      k: candidates accepted per prompt, in [1, N]. Static.

    Raises:
      ValueError: if k < 1, or (when it is traced) k > N.

    Example:
      >>> rewards = jnp.array([[0.0, jnp.nan, 2.0, 3.0]])
      >>> candidates = Candidates(rewards=rewards, valid=jnp.ones((1, 4), bool))
      >>> at_most(2).select(jax.random.key(0), candidates).accepted.tolist()
      [[True, False, True, False]]
    """
    k = check_integer("k", k)

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        check_count("k", k, scored.shape[1])
        return Decision(running_count(scored) <= k)

    return make_rule(f"at_most({k})", decide, law=Law.EXACT, places={"first"})


def group_filter(minimum: Numeric | None = None, maximum: Numeric | None = None) -> SelectionRule:
    """Accepts the groups that have contrast, whole: drops prompts that all pass or all fail.

    The group of a prompt is accepted if its scored rewards are not all equal and, where bounds are
    given, minimum < mean < maximum. For rewards 0 and 1 the first condition says it all (0 < mean
    < 1); it holds for graded rewards of any range too, and the bounds then cut a band.

    Law (HEURISTIC): it selects prompts, with probability 1 - a^n - (1 - a)^n for a prompt of pass
    rate a and n scored candidates, and given that a group is accepted its candidates are no longer
    independent. A prompt with fewer than two scored candidates is dropped.

    Args:
      minimum: exclusive lower bound of the mean reward, a number or `[P]`; None for no bound.
      maximum: exclusive upper bound, likewise.

    Raises:
      ValueError: if a bound is NaN, or both are numbers and minimum >= maximum.

    Example:
      >>> rewards = jnp.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]])
      >>> candidates = Candidates(rewards=rewards, valid=jnp.ones((3, 3), bool))
      >>> group_filter(0, 1).select(jax.random.key(0), candidates).accepted[:, 0].tolist()
      [False, True, False]

    References:
      Yu et al., DAPO (2025), https://arxiv.org/abs/2503.14476, section 3.2; Xiong et al. (2025),
      https://arxiv.org/abs/2504.11343, section 4 (Reinforce-Rej).
    """
    for name, bound in (("minimum", minimum), ("maximum", maximum)):
        if bound is not None:
            check_number(name, bound, finite=False)
    if isinstance(minimum, int | float) and isinstance(maximum, int | float):  # noqa: SIM102
        if not minimum < maximum:
            raise ValueError(f"minimum must be < maximum, got {minimum!r} and {maximum!r}")

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        rewards = candidates.rewards
        # By largest and smallest, not by the standard deviation, which rounding keeps above 0.
        highest = jnp.where(scored, rewards, -jnp.inf).max(axis=-1, keepdims=True)
        lowest = jnp.where(scored, rewards, jnp.inf).min(axis=-1, keepdims=True)
        keep = highest > lowest
        count = scored.sum(axis=-1, keepdims=True, dtype=jnp.int32)
        total = jnp.where(scored, rewards, 0).sum(axis=-1, keepdims=True)
        mean = total / jnp.maximum(count, 1).astype(rewards.dtype)
        if minimum is not None:
            keep = keep & (mean > per_prompt("minimum", minimum, rewards))
        if maximum is not None:
            keep = keep & (mean < per_prompt("maximum", maximum, rewards))
        return Decision(jnp.broadcast_to(keep, scored.shape))

    bounds = ", ".join("none" if bound is None else label(bound) for bound in (minimum, maximum))
    return make_rule(f"group_filter({bounds})", decide, law=Law.HEURISTIC)


def unique() -> SelectionRule:
    """Accepts the first of the scored candidates with each fingerprint, prompt by prompt.

    May stand before or after the rule that accepts. Behind an exact rule it removes copies from
    what follows the target; in front of a rule that counts (`top_k`) it keeps copies from taking
    several places, but what is then ranked are distinct completions, not draws from q.

    Law (HEURISTIC): shifts towards uniform over the fingerprints: y survives n draws with
    probability 1 - (1 - q(y))^n, not in proportion to q. Report what was lost, `num_duplicates`.

    Example:
      >>> candidates = Candidates(rewards=jnp.zeros((1, 4)), valid=jnp.ones((1, 4), bool),
      ...                         fingerprint=jnp.array([[7, 5, 7, 5]]))
      >>> unique().select(jax.random.key(0), candidates).accepted.tolist()
      [[True, True, False, False]]

    References:
      Yuan et al., RFT (2023), https://arxiv.org/abs/2308.01825, section 3.2.
    """

    def decide(key, candidates: Candidates, scored: Array) -> Decision:
        return Decision(~_repeats(jnp.asarray(candidates.fingerprint), scored))

    return make_rule("unique", decide, law=Law.HEURISTIC, needs={"fingerprint"}, places={"first"})


def num_duplicates(fingerprint: Array, kept: Array) -> Array:
    """Counts, per prompt, the kept candidates that copy an earlier kept one: the collapse.

    Args:
      fingerprint: `[P, N]` integers.
      kept: `[P, N]` bool, such as `Selection.accepted` or `Candidates.valid`.

    Returns:
      `[P]` int32; 0 where all are distinct.

    Example:
      >>> num_duplicates(jnp.array([[7, 5, 7, 7]]), jnp.ones((1, 4), bool)).tolist()
      [2]
    """
    kept = jnp.asarray(kept).astype(bool)
    return (kept & _repeats(jnp.asarray(fingerprint), kept)).sum(axis=-1, dtype=jnp.int32)


def _repeats(fingerprint: Array, among: Array) -> Array:
    """`[P, N]` whether an earlier candidate in `among` has the same fingerprint."""
    # All pairs: for the N of one prompt that is less work than a sort, and nothing is stored.
    same = fingerprint[:, :, None] == fingerprint[:, None, :]
    column = jax.lax.broadcasted_iota(jnp.int32, same.shape, 2)
    row = jax.lax.broadcasted_iota(jnp.int32, same.shape, 1)
    return (same & (column < row) & among[:, None, :]).any(axis=-1)
