"""A cap on how far the acceptance rates of groups of prompts may lie apart."""

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_between
from rsft_jax.numerics.keys import check_key
from rsft_jax.selection.randomness import candidate_bits
from rsft_jax.selection.ranks import from_groups, to_groups
from rsft_jax.selection.types import (
    Candidates,
    Selection,
    SelectionRule,
    check_candidates,
    is_scored,
    label,
    stage_names,
)
from rsft_jax.types import Array, Numeric, PRNGKey

_ROUNDING = 1e-6  # relative: a product of float32 that should be whole may fall just below it


def balanced(
    rule: SelectionRule, max_gap: Numeric, *, axis_name: str | None = None
) -> SelectionRule:
    """Accepts what `rule` does, less by coin where a group of prompts is accepted more than others.

    With n_g scored candidates in group g, of which `rule` accepts a_g, the rates a_g / n_g are
    brought to within `max_gap` of the lowest: of a group above it

        k_g = floor(n_g (min_h a_h / n_h + max_gap))

    accepted candidates are kept, each subset of that size equally likely, and of the others all.
    No group gets more than before: the cost is sum_g (a_g - k_g), which `rejected_by` counts.

    Law (that of `rule`): given how many candidates `rule` accepts of each prompt, which of them are
    kept is independent of what they are. So a kept candidate follows, given its prompt and these
    counts, the law that an accepted one does: EXACT where `rule` is. What changes are the shares of
    prompts and groups in the training set, and only these. It does not repair that groups are
    *scored* differently: within a group the same candidates are accepted.

    The rates kept differ by at most the larger of `max_gap` and 1 / n, n the fewest scored
    candidates of a group that was thinned (and by 1e-6 of the rate in float32): k_g is whole. A
    group with nothing scored has no rate and is left out; one of which nothing is accepted brings
    all others down to `max_gap`.

    Args:
      rule: any rule. A budget belongs into it, as `chain(rule, at_most(k))`: behind `balanced` it
        would part the groups again.
      max_gap: largest difference of acceptance rates, in [0, 1].
      axis_name: inside `jax.shard_map`: the mesh axis of the prompts.

    Returns:
      The rule; it needs `Candidates.group`, and its last stage is `balanced`. `rule` draws from
      `fold_in(key, 0)`. As in a chain, k_g / a_g multiplies the `accept_prob` of what `rule`
      accepted.

    Raises:
      ValueError: if max_gap is not in [0, 1].

    Example:
      >>> from rsft_jax.selection import threshold
      >>> rewards = jnp.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
      >>> candidates = Candidates(rewards=rewards, valid=jnp.ones((3, 4), bool),
      ...                         group=jnp.array([7, 7, 5]))
      >>> selection = balanced(threshold(1), 0.25).select(jax.random.key(0), candidates)
      >>> int(selection.accepted[:2].sum()), int(selection.accepted[2].sum())  # of 8, and of 4
      (4, 1)

    References:
      The demographic parity difference is Calders et al., Building classifiers with independency
      constraints, ICDM workshops 2009; thinning groups to a common rate is the randomised
      post-processing of Hardt et al. (2016), https://arxiv.org/abs/1610.02413, without labels.
    """
    check_between("max_gap", max_gap, 0, 1)
    needs = rule.needs | {"group"}
    inner_names = stage_names(rule)

    def select(key: PRNGKey, candidates: Candidates) -> Selection:
        check_key(key)
        candidates = check_candidates(candidates, needs=needs, rule="balanced")
        scored = is_scored(candidates)
        inner = rule.select(jax.random.fold_in(key, 0), candidates)
        accepted = inner.accepted & scored
        bits = candidate_bits(jax.random.fold_in(key, 1), candidates)
        assert candidates.group is not None  # `needs` says so
        group = jnp.asarray(candidates.group)
        keep, share = _thinned(accepted, scored, bits, group, max_gap, axis_name)
        within = jnp.int32(0) if inner.rejected_by is None else inner.rejected_by
        rejected_by = jnp.where(accepted, jnp.int32(len(inner_names)), within)
        rejected_by = jnp.where(keep, jnp.int32(-1), rejected_by)
        return Selection(
            accepted=keep,
            log_weight=jnp.where(keep, inner.log_weight, -jnp.inf),
            accept_prob=jnp.where(accepted, inner.accept_prob * share, inner.accept_prob),
            rejected_by=jnp.where(scored, rejected_by, jnp.int32(-2)),
        )

    names = (*inner_names, f"balanced({label(max_gap)})")
    return SelectionRule(jax.jit(select), rule.law, needs, names, rule.places)


def _thinned(
    accepted: Array,
    scored: Array,
    bits: Array,
    group: Array,
    max_gap: Numeric,
    axis_name: str | None,
) -> tuple[Array, Array]:
    """`[P, N]` which of the accepted are kept, and the share of its group that is."""
    shape = accepted.shape
    if axis_name is not None:
        group = jax.lax.all_gather(group, axis_name, tiled=True)
    whole = (group.shape[0], shape[1])  # of all devices

    def gathered(values: Array) -> Array:
        return to_groups(values, "batch", axis_name).reshape(whole)

    accepted, scored = gathered(accepted), gathered(scored)
    ids = jnp.unique(group, size=whole[0], return_inverse=True)[1].reshape(-1)

    def per_group(values: Array) -> Array:
        return jax.ops.segment_sum(values, ids, num_segments=whole[0])

    num_scored = per_group(scored.sum(axis=-1, dtype=jnp.int32))
    num_accepted = per_group(accepted.sum(axis=-1, dtype=jnp.int32))
    num_kept = _num_kept(num_accepted, num_scored, max_gap)
    # A place among the candidates of the group: the accepted in front, in the order of their coins.
    of_candidate = jnp.broadcast_to(ids[:, None], whole).reshape(-1)
    coins = (gathered(bits[..., 1]).reshape(-1), gathered(bits[..., 0]).reshape(-1))
    order = jnp.lexsort((*coins, ~accepted.reshape(-1), of_candidate))
    places = jnp.arange(order.size, dtype=jnp.int32)
    sizes = per_group(jnp.full(whole[0], shape[1], jnp.int32))
    start = jnp.cumsum(sizes) - sizes
    rank = jnp.zeros_like(places).at[order].set(places) - start[of_candidate]
    keep = accepted.reshape(-1) & (rank < num_kept[of_candidate])
    share = num_kept.astype(jnp.float32) / jnp.maximum(num_accepted, 1).astype(jnp.float32)
    keep, share = keep[None, :], share[of_candidate][None, :]
    return (
        from_groups(keep, shape, "batch", axis_name),
        from_groups(share, shape, "batch", axis_name),
    )


def _num_kept(num_accepted: Array, num_scored: Array, max_gap: Numeric) -> Array:
    """`[G]` how many accepted candidates of each group are kept."""
    accepted, scored = (n.astype(jnp.float32) for n in (num_accepted, num_scored))
    rate = jnp.where(scored > 0, accepted / jnp.maximum(scored, 1), jnp.inf)
    cap = rate.min() + jnp.asarray(max_gap, jnp.float32)
    allowed = jnp.floor(jnp.where(scored > 0, scored * cap * (1 + _ROUNDING), 0))
    # Compared by rates: the lowest is equal to itself, whatever rounding does to its product.
    kept = jnp.where(rate > cap, jnp.minimum(allowed, accepted), accepted)
    return kept.astype(jnp.int32)
