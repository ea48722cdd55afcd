"""The control arm of an experiment: as many samples, whatever their rewards."""

import jax
import jax.numpy as jnp

from rsft_jax.numerics.counting import running_count
from rsft_jax.selection.randomness import candidate_bits
from rsft_jax.selection.ranks import smallest
from rsft_jax.selection.types import (
    Candidates,
    Decision,
    Law,
    SelectionRule,
    make_rule,
    stage_names,
)
from rsft_jax.types import Array, PRNGKey

_CONTROL = 0x636F6E74  # sets the control's draws apart; prompt and stage numbers stay below it


def random_control(rule: SelectionRule) -> SelectionRule:
    """Accepts, per prompt, as many candidates as `rule` does, chosen at random.

    Fine-tuning helps or harms by itself: fewer prompts, more epochs, shorter texts. Only against
    this control does an improvement speak for the choice that `rule` made.

    With the same key, `rule.select` and `random_control(rule).select` accept the same number of
    candidates in every prompt.

    Law (CONSISTENT): given the candidates and the count, each subset of that many scored
    candidates is equally likely. Where the count does not depend on the rewards (`top_k`,
    `best_of_n`) each accepted candidate follows q exactly; where it does (`threshold`), groups
    with higher rewards get more places, which is a tilt that fades as N grows. If `rule` accepts
    candidates that are not scored, the control accepts no more than are.

    Args:
      rule: any rule.

    Example:
      >>> from rsft_jax.selection.order import top_k
      >>> candidates = Candidates(rewards=jnp.arange(12.0).reshape(3, 4), valid=jnp.ones((3, 4)))
      >>> selection = random_control(top_k(2)).select(jax.random.key(0), candidates)
      >>> selection.accepted.sum(axis=-1).tolist(), selection.accept_prob.tolist()[0]
      ([2, 2, 2], [0.5, 0.5, 0.5, 0.5])

    References:
      Lambert, RLHF book, chapter on rejection sampling: top-per-prompt against random-per-prompt.
    """

    def decide(key: PRNGKey, candidates: Candidates, scored: Array) -> Decision:
        count = rule.select(key, candidates).accepted.sum(axis=-1, dtype=jnp.int32)[:, None]
        bits = candidate_bits(jax.random.fold_in(key, _CONTROL), candidates)[..., 0]
        available = scored.sum(axis=-1, dtype=jnp.int32)[:, None]
        share = count.astype(jnp.float32) / jnp.maximum(available, 1).astype(jnp.float32)
        return Decision(
            accepted=smallest(bits, count, scored),
            accept_prob=jnp.broadcast_to(jnp.minimum(share, 1), scored.shape),
        )

    name = f"random_control({', '.join(stage_names(rule))})"
    return make_rule(name, decide, law=Law.CONSISTENT, needs=rule.needs)


def first_control(rule: SelectionRule) -> SelectionRule:
    """Accepts, per prompt, as many candidates as `rule` does: the first that were drawn.

    The control where drawing stops with a prompt's last needed acceptance. There
    `random_control` is not fair: the last candidate drawn is always an accepted one, and where the
    very first was good enough there is no other to choose. That a candidate is among the first m
    says nothing about it.

    Law (CONSISTENT): where `rule` accepts the same number m for every prompt, each accepted
    candidate follows q exactly. Where the candidates run out before, the number depends on the same
    candidates, and the control is tilted like `random_control` of such a rule: with one candidate
    and m = 1 it accepts what the rule does. The tilt fades as N grows.

    Args:
      rule: any rule.

    Example:
      >>> from rsft_jax.selection.thresholds import threshold
      >>> rewards = jnp.array([[0.1, 0.9, jnp.nan], [0.2, 0.3, 0.7]])
      >>> candidates = Candidates(rewards=rewards, valid=jnp.ones((2, 3), bool))
      >>> first_control(threshold(0.5)).select(jax.random.key(0), candidates).accepted.tolist()
      [[True, False, False], [True, False, False]]
    """

    def decide(key: PRNGKey, candidates: Candidates, scored: Array) -> Decision:
        count = rule.select(key, candidates).accepted.sum(axis=-1, dtype=jnp.int32)[:, None]
        return Decision(accepted=scored & (running_count(scored) <= count))

    name = f"first_control({', '.join(stage_names(rule))})"
    return make_rule(name, decide, law=Law.CONSISTENT, needs=rule.needs, places={"first"})
