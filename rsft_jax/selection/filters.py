"""Rules for use behind others: a cap per prompt, no duplicates, no group without contrast."""

import jax.numpy as jnp

from rsft_jax.selection.arguments import check_integer
from rsft_jax.selection.types import (
    Candidates,
    Decision,
    Law,
    SelectionRule,
    check_count,
    make_rule,
)
from rsft_jax.types import Array


def at_most(k: int) -> SelectionRule:
    """Accepts the first k scored candidates of each prompt, in the order they were drawn.

    Behind another rule it caps what that one accepted, so that easy prompts do not fill the
    training set.

    Law (EXACT): that of what it is given. Candidates are exchangeable, so their position says
    nothing about them, and the first k accepted follow the law that all accepted do. (Keeping the
    k best would not: it is another tilt on top.)

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
        return Decision(jnp.cumsum(scored, axis=-1, dtype=jnp.int32) <= k)

    return make_rule(f"at_most({k})", decide, law=Law.EXACT)
