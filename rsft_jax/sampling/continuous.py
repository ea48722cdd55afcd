"""Accept-reject over any sample space, from any density that a function can evaluate."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_integer, check_number
from rsft_jax.numerics.counting import running_count
from rsft_jax.numerics.keys import (
    check_key,
    counter_bits,
    log_uniform,
    numbered_key,
    row_keys,
    unrolled_key,
)
from rsft_jax.numerics.loops import vary_like
from rsft_jax.sampling.rejection import RejectionSample
from rsft_jax.types import Array, Numeric, PRNGKey

_BLOCK = 1 << 18  # proposals drawn at a time: large enough to vectorise, small enough for a cache


def rejection_sample_from(
    key: PRNGKey,
    propose: Callable[[PRNGKey], Any],
    log_ratio: Callable[[Any], Array],
    *,
    log_envelope: Numeric,
    num_samples: int,
    max_attempts: int = 64,
    method: str = "blocks",
    support: Callable[[Any], Array] | None = None,
) -> RejectionSample:
    """Draws samples of a target density by accept-reject from a proposal.

    A proposal x ~ q is accepted with probability min(1, exp(log_ratio(x) - log_envelope)), where
    log_ratio(x) = log p(x) - log q(x) and p may lack its normaliser Z (log_envelope is then on
    the same scale). The law of what is accepted is p where log_envelope bounds log_ratio
    everywhere, and proportional to min(p, M q) where it does not; a proposal over the envelope
    sets `violated`. The acceptance rate is Z / M while the envelope holds.

    Outside the support of p the ratio must be -inf. Many libraries do not give that: log densities
    there are finite, NaN or -inf, from one law to the next and one version to the next (the table
    is in this folder's README), and what is finite is accepted in silence. Name the support by
    `support` and nothing outside it is accepted, whatever `log_ratio` says there: the law is p
    given the support. Inside it a ratio that is NaN or +inf gives no probability of acceptance:
    such a proposal is not accepted, and `num_undefined` counts it. If any is, the law is p given
    that the ratio is defined.

    "blocks" draws proposals in blocks and packs the accepted ones into the slots: no slot waits
    for the slowest. Proposal i of the stream depends on the key and i alone, so that the result
    does not depend on the block's size. "lanes" gives each slot its own stream from
    `fold_in(key, slot)`, so that a slot does not depend on how many there are; all lanes run
    until the slowest has accepted, which costs several times more.

    S is `num_samples`.

    Args:
      key: a typed key, consumed.
      propose: draws one x from q with the key it gets; x is any pytree of arrays. For
        threefry keys it gets a key of an equal but faster generator (`unrolled_key`).
      log_ratio: one x to the scalar log p(x) - log q(x), in nats; -inf where p(x) = 0. NaN and
        +inf are not accepted, and counted.
      log_envelope: log M in nats, a scalar; it may be negative if p lacks its normaliser.
      num_samples: S, slots to fill, at least 1. Static.
      max_attempts: at least 1. Static. A lane gives up after so many proposals, and all blocks
        together after S times as many; then the rest of the slots is not accepted.
      method: "blocks" or "lanes". Static.
      support: one x to a scalar bool, whether p has mass there; None where `log_ratio` is right
        everywhere. Static.

    `propose`, `log_ratio` and `support` are static: give the same functions again, and nothing is
    traced again; a `lambda` written at the call is a new function each time.

    Returns:
      A `RejectionSample` whose `value` has leaves `[S, ...]` and the other fields `[S]`. A slot
      that is not accepted holds NaN (-1 for integers, False for booleans). `num_attempts` counts
      the proposals since the previous accepted one; for blocks, their sum is the number of
      proposals up to the one that filled the last slot, and `num_undefined` those among them whose
      ratio is NaN or +inf inside the support. `unsupported` is False: a density cannot be asked
      where it is zero.

    Raises:
      ValueError: if `num_samples` or `max_attempts` < 1, `log_envelope` is a number that is NaN or
        infinite, `method` is unknown, or `key` is not a typed key.

    Example:
      >>> def propose(key):  # a triangle p(x) = 2x on [0, 1] from a uniform q, so that M = 2
      ...     return jax.random.uniform(key)
      >>> def log_ratio(x):
      ...     return jnp.log(2 * x)
      >>> sample = rejection_sample_from(
      ...     jax.random.key(0), propose, log_ratio, log_envelope=math.log(2), num_samples=10_000)
      >>> bool(sample.accepted.all()), bool(abs(sample.value.mean() - 2 / 3) < 0.01)
      (True, True)

    References:
      von Neumann, Various techniques used in connection with random digits (1951).
      Devroye, Non-Uniform Random Variate Generation (1986), section II.3.
    """
    check_key(key)
    check_integer("num_samples", num_samples)
    check_integer("max_attempts", max_attempts)
    if num_samples * max_attempts >= 2**31:
        raise ValueError(
            "num_samples * max_attempts must be below 2^31, "
            f"got {num_samples} * {max_attempts}: draw in several calls"
        )
    if not isinstance(log_envelope, jax.Array):  # on a device: not waited for
        check_number("log_envelope", log_envelope)
    if method not in ("blocks", "lanes"):
        raise ValueError(f'method must be "blocks" or "lanes", got {method!r}')
    run = _sample_blocks if method == "blocks" else _sample_lanes
    return run(
        key,
        log_envelope,
        propose=propose,
        log_ratio=log_ratio,
        support=support,
        num_samples=int(num_samples),
        max_attempts=int(max_attempts),
    )


_STATIC = ("propose", "log_ratio", "support", "num_samples", "max_attempts")


@functools.partial(jax.jit, static_argnames=(*_STATIC, "block"))
def _sample_blocks(
    key, log_envelope, *, propose, log_ratio, support, num_samples, max_attempts, block=None
) -> RejectionSample:
    """Fills slots from one stream of proposals; see `rejection_sample_from`."""
    if block is None:  # about what is needed at a rate of one half
        block = min(_BLOCK, -(-2 * num_samples // 1024) * 1024)
    budget = num_samples * max_attempts
    propose_key, accept_key = jax.random.split(unrolled_key(key))

    def draw(start, key):
        number = (start + jnp.arange(block, dtype=jnp.int32)).astype(jnp.uint32)
        return jax.vmap(lambda i: propose(numbered_key(key, i)))(number)

    def attempt(start):
        index = start + jnp.arange(block, dtype=jnp.int32)
        x = _in_memory(draw, start, propose_key)
        excess = jax.vmap(lambda one: _excess(one, log_ratio, support, log_envelope))(x)
        log_u = log_uniform(_bits(accept_key, index)).astype(excess.dtype)
        undefined = _undefined(excess)
        inside = index < budget
        return x, excess, (log_u < excess) & ~undefined & inside, undefined & inside

    def pack(state):
        start, filled, undefined, slots = state
        x, excess, accept, bad = attempt(start)
        order = running_count(accept)
        count = order[-1]
        # Where each accepted one comes from, in order; the last place takes the rejected ones.
        # One scatter of integers, then x is gathered and written in one piece.
        at = jnp.where(accept, order - 1, block)
        source = jnp.zeros((block + 1,), jnp.int32)
        source = source.at[at].set(jnp.arange(block, dtype=jnp.int32), mode="promise_in_bounds")
        source = source[:block]
        x, excess = jax.tree.map(
            lambda leaf: leaf.at[source].get(mode="promise_in_bounds"), (x, excess)
        )
        # Counted one by one only where there are any: a pass over the block is a tenth of the work.
        bad = undefined + jax.lax.cond(bad.any(), running_count, _none, bad)
        packed = (x, excess, start + source, bad.at[source].get(mode="promise_in_bounds"))
        slots = jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, filled, 0), slots, packed
        )
        return start + block, filled + count, bad[-1], slots

    shapes = jax.eval_shape(attempt, jnp.int32(0))
    # Room for one block past the last slot, so that a write never has to be cut.
    slots = jax.tree.map(
        lambda leaf: jnp.zeros((num_samples + block, *leaf.shape[1:]), leaf.dtype),
        (*shapes[:2], *(jax.ShapeDtypeStruct((block,), jnp.int32),) * 2),
    )

    def unfinished(state):
        start, filled, *_ = state
        return (filled < num_samples) & (start < budget)

    start = vary_like((jnp.int32(0), jnp.int32(0), jnp.int32(0), slots), key, log_envelope)
    _, filled, undefined, slots = jax.lax.while_loop(unfinished, pack, start)
    x, excess, index, bad = jax.tree.map(lambda leaf: leaf[:num_samples], slots)
    slot = jnp.arange(num_samples, dtype=jnp.int32)
    accepted = slot < filled
    # The first slot that stayed empty used up the rest of the budget.
    index = jnp.where(accepted, index, budget - 1)
    attempts = jnp.diff(index, prepend=jnp.full((1,), -1, jnp.int32))
    bad = jnp.diff(jnp.where(accepted, bad, undefined), prepend=jnp.zeros((1,), jnp.int32))
    return _result(x, excess, accepted, attempts, bad)


def _none(mask: Array) -> Array:
    """The running count of a mask of nothing."""
    return jnp.zeros_like(mask, jnp.int32)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _sample_lanes(
    key, log_envelope, *, propose, log_ratio, support, num_samples, max_attempts
) -> RejectionSample:
    """One stream a slot; all run until the slowest is done. See `rejection_sample_from`."""
    keys = row_keys(unrolled_key(key), num_samples)

    def attempt(lane_key, n):
        propose_key, accept_key = jax.random.split(jax.random.fold_in(lane_key, n))
        x = propose(propose_key)
        excess = _excess(x, log_ratio, support, log_envelope)
        log_u = log_uniform(jax.random.bits(accept_key, (2,), jnp.uint32)).astype(excess.dtype)
        undefined = _undefined(excess)
        return x, excess, (log_u < excess) & ~undefined, undefined

    def try_all(state):
        n, accepted, count, bad, kept = state
        x, excess, accept, undefined = jax.vmap(attempt, in_axes=(0, None))(keys, n)
        new = accept & ~accepted
        kept = jax.tree.map(
            lambda old, now: jnp.where(new.reshape((-1,) + (1,) * (now.ndim - 1)), now, old),
            kept,
            (x, excess),
        )
        count = count + (~accepted).astype(jnp.int32)
        bad = bad + (undefined & ~accepted).astype(jnp.int32)
        return n + 1, accepted | accept, count, bad, kept

    shapes = jax.eval_shape(jax.vmap(attempt, in_axes=(0, None)), keys, jnp.int32(0))
    kept = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[:2])
    none = jnp.zeros((num_samples,), bool)
    state = (jnp.int32(0), none, none.astype(jnp.int32), none.astype(jnp.int32), kept)
    state = vary_like(state, key, log_envelope)
    _, accepted, count, bad, (x, excess) = jax.lax.while_loop(
        lambda s: (s[0] < max_attempts) & ~s[1].all(), try_all, state
    )
    return _result(x, excess, accepted, count, bad)


def _in_memory(function: Callable[[Array, PRNGKey], Any], start: Array, key: PRNGKey) -> Any:
    """`function(start, key)` for an integer `start` >= 0, each of its numbers computed once.

    XLA:CPU fuses what draws the proposals into everything that reads them, and so draws them anew,
    on one core, for each element that is packed. The results of a loop are written to memory; this
    one takes a single turn, which the compiler cannot know.
    """
    shapes = jax.eval_shape(function, start, key)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    _, result = jax.lax.while_loop(
        lambda state: state[0] <= jnp.minimum(start, 0),
        lambda state: (state[0] + 1, function(start, key)),
        vary_like((jnp.int32(0), empty), start, key),
    )
    return result


def _excess(x: Any, log_ratio: Callable, support: Callable | None, log_envelope: Numeric) -> Array:
    """log p / (M q) at one x, in the float type of the ratio; -inf outside the support."""
    ratio = jnp.asarray(log_ratio(x))
    excess = ratio - jnp.asarray(log_envelope).astype(ratio.dtype)
    return excess if support is None else jnp.where(support(x), excess, -jnp.inf)


def _undefined(excess: Array) -> Array:
    """Where the ratio gives no probability of acceptance."""
    return jnp.isnan(excess) | (excess == jnp.inf)


def _bits(key: PRNGKey, index: Array) -> Array:
    """`[..., 2]` words at each index: one hash for threefry, JAX's own way for others."""
    if jax.random.key_data(key).shape == (2,):
        return counter_bits(key, index.astype(jnp.uint32))
    draw = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), (2,), jnp.uint32))
    return draw(index)


def _result(x, excess, accepted, attempts, undefined) -> RejectionSample:
    def blank(leaf):
        mask = accepted.reshape((-1,) + (1,) * (leaf.ndim - 1))
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.where(mask, leaf, jnp.nan)
        if jnp.issubdtype(leaf.dtype, jnp.signedinteger):
            return jnp.where(mask, leaf, -1)
        return jnp.where(mask, leaf, jnp.zeros_like(leaf))

    excess = jnp.where(accepted, excess, -jnp.inf)
    return RejectionSample(
        value=jax.tree.map(blank, x),
        accepted=accepted,
        num_attempts=attempts,
        log_accept_prob=jnp.minimum(excess, 0),
        log_weight=jnp.where(accepted, jnp.maximum(excess, 0), -jnp.inf),
        # A proposal over the envelope is always accepted; a few ulps over it are rounding.
        violated=excess > 16 * jnp.finfo(excess.dtype).eps,
        unsupported=jnp.zeros_like(accepted),
        num_undefined=undefined,
    )
