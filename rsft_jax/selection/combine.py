"""Rules made of rules."""

import itertools

import jax
import jax.numpy as jnp

from rsft_jax.numerics.keys import check_key
from rsft_jax.selection.types import (
    Candidates,
    Law,
    Selection,
    SelectionRule,
    check_candidates,
    is_scored,
    stage_names,
)
from rsft_jax.types import PRNGKey


def chain(*rules: SelectionRule) -> SelectionRule:
    """Applies rules one after another: each sees as valid what those before it accepted.

    As optax chains transformations. A candidate is accepted if every stage accepts it; log-weights
    add up, acceptance probabilities multiply over the stages that it reached, and `rejected_by`
    names the first that rejected it. Order matters: `chain(threshold(0.5), best_of_n())` is the
    best of what passes, `chain(best_of_n(), threshold(0.5))` the best if it passes.

    Law: the weakest of the stages', each given what the stages before it accepted; and HEURISTIC
    where a rule that takes the first (`at_most`) stands behind one that breaks ties by place
    (`top_k`, `top_fraction`): among equal rewards the first are then not any.

    Args:
      *rules: one or more. Stage i draws from `fold_in(key, i)`.

    Returns:
      The rule; `needs` is the union, and `stage_names` has the stages' names in order.

    Raises:
      ValueError: if there is no rule; on `select`, if a stage's needs are not met, before any
        stage computes anything.

    Example:
      >>> from rsft_jax.selection import at_most, statistical_rejection
      >>> rule = chain(statistical_rejection(0.5, max_reward=1.0), at_most(2))
      >>> rule.law.name, stage_names(rule)
      ('EXACT', ('statistical_rejection(beta=0.5, max_reward=1)', 'at_most(2)'))
    """
    if not rules:
        raise ValueError("chain needs at least one rule, got none")
    needs = frozenset().union(*(rule.needs for rule in rules))
    names = tuple(stage_names(rule) for rule in rules)
    first_index = [sum(map(len, names[:i])) for i in range(len(rules))]

    def select(key: PRNGKey, candidates: Candidates) -> Selection:
        check_key(key)
        candidates = check_candidates(candidates, needs=needs, rule="chain")
        scored = is_scored(candidates)
        # Scored and not yet rejected. What no stage has rejected is accepted.
        left = scored
        log_weight = jnp.zeros(scored.shape, jnp.float32)
        accept_prob = scored.astype(jnp.float32)
        rejected_by = jnp.where(scored, -1, -2).astype(jnp.int32)
        for i, rule in enumerate(rules):
            stage = rule.select(
                jax.random.fold_in(key, i),
                candidates.replace(valid=left),  # pyright: ignore[reportAttributeAccessIssue]
            )
            within = jnp.int32(0) if stage.rejected_by is None else stage.rejected_by
            unknown = within == -2  # a stage could not judge it
            # A stage that is itself a chain says which of its own stages it was.
            stage_index = first_index[i] + jnp.maximum(within, 0).astype(jnp.int32)
            stage_index = jnp.where(unknown, -2, stage_index)
            rejected_by = jnp.where(left & ~stage.accepted, stage_index, rejected_by)
            accept_prob = jnp.where(left, accept_prob * stage.accept_prob, accept_prob)
            left = left & stage.accepted
            log_weight = jnp.where(left, log_weight + stage.log_weight, -jnp.inf)
        return Selection(
            accepted=left,
            log_weight=log_weight,
            accept_prob=accept_prob,
            rejected_by=rejected_by,
        )

    law = min(rule.law for rule in rules)
    if any("ties" in a.places and "first" in b.places for a, b in itertools.combinations(rules, 2)):
        law = Law.HEURISTIC
    places = frozenset().union(*(rule.places for rule in rules))
    return SelectionRule(
        jax.jit(select),
        law,
        needs,
        tuple(name for n in names for name in n),
        places,
        separable=all(rule.separable for rule in rules),
    )
