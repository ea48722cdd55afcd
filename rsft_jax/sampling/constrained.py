"""Hard constraints without asking about every token, dear scores without asking for each draw.

`constrained_sample` draws a token that satisfies a predicate by checking a few draws instead of
the vocabulary. `squeeze` decides most draws by cheap bounds and calls a dear score for the rest.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_integer, check_vocabulary
from rsft_jax.numerics.keys import check_key, log_uniform, row_keys, unit_uniform
from rsft_jax.numerics.loops import vary_like
from rsft_jax.sampling.categorical import (
    CategoricalCdf,
    categorical_cdf,
    pick_by_mass,
    pick_within,
    take_block,
)
from rsft_jax.types import Array, PRNGKey, record


@record
class ConstrainedSample:
    """A token under a hard constraint.

    Attributes:
      value: `[...]` int32 the first token found that satisfies it; -1 where none was.
      accepted: `[...]` bool, whether one was found.
      log_weight: `[...]` log of an unbiased estimate of Z, the mass of all tokens that satisfy
        the constraint; -inf where that mass is known to be 0, NaN where the checks ran out
        before it could be estimated.
      num_checks: `[...]` int32 calls of the predicate.
    """

    value: Array
    accepted: Array
    log_weight: Array
    num_checks: Array


def constrained_sample(
    key: PRNGKey,
    logits: Array,
    allows: Callable[[Array], Array],
    *,
    max_checks: int = 64,
    num_accepts: int = 2,
) -> ConstrainedSample:
    """Draws a token from softmax(logits) given that `allows` holds, checking only what is drawn.

    Adaptive rejection: a token that was refused is taken out of the law before the next draw, so
    that none is checked twice as long as it is refused. The value's law is exactly that of the
    softmax given the constraint, and running out of checks is independent of it.

    The weight estimates Z = P(allows): had refused tokens stayed in, m accepted draws would have
    taken T draws, T - 1 in the denominator making (m - 1) / (T - 1) unbiased. The repeats that
    this counts are simulated (geometric, with the refused mass) and not checked. With m = 1 the
    estimate would be 0, which is why two are asked for by default; `num_accepts=1` stops at the
    first and leaves `log_weight` NaN. In a sequential sampler multiply the weights over steps.

    Args:
      key: a typed key, consumed. Row i (leading axes flattened) uses `fold_in(key, i)`.
      logits: `[..., V]` unnormalised log probabilities; -inf marks a masked token.
      allows: takes `[...]` int32 tokens, one for each row, and returns `[...]` bool. Pure JAX, and
        the same answer for the same row and token; for a parser on the host, wrap it in
        `jax.pure_callback`. It is called for all rows at once until none needs it. Static: give
        the same function again, and nothing is traced again.
      max_checks: calls per row before giving up, at least 1. Static.
      num_accepts: m, accepted draws used for the weight. Static.

    Returns:
      A `ConstrainedSample` with `[...]` fields.

    Raises:
      ValueError: if `max_checks` or `num_accepts` < 1, or `key` is not a typed key.

    Example:
      >>> even = constrained_sample(jax.random.key(0), jnp.zeros((4, 1000)), lambda t: t % 2 == 0)
      >>> bool(even.accepted.all()), bool((even.value % 2 == 0).all())
      (True, True)

    References:
      Lipkin et al., Fast Controlled Generation from Language Models with Adaptive Weighted
      Rejection Sampling (2025), sections 3 and 4. Haldane (1945) for the estimate.
    """
    check_key(key)
    check_vocabulary("logits", logits)
    check_integer("max_checks", max_checks)
    check_integer("num_accepts", num_accepts)
    return _constrained_sample(
        key, logits, allows=allows, max_checks=int(max_checks), num_accepts=int(num_accepts)
    )


class _Checks(NamedTuple):
    """The loop's carry, for each of B rows.

    Attributes:
      block_mass: `[B, n]` mass of each block without what was refused.
      refused: `[B, V]` bool tokens that do not satisfy the constraint.
      checks: `[B]` int32 calls of the predicate.
      accepts: `[B]` int32 tokens that satisfied it, one drawn twice counted twice.
      draws: `[B]` float32 draws from the whole law that these checks stand for.
      value: `[B]` int32 the first accepted token; -1 before there is one.
    """

    block_mass: Array
    refused: Array
    checks: Array
    accepts: Array
    draws: Array
    value: Array


@functools.partial(jax.jit, static_argnames=("allows", "max_checks", "num_accepts"))
def _constrained_sample(key, logits, *, allows, max_checks, num_accepts):
    lead, vocab_size = logits.shape[:-1], logits.shape[-1]
    flat = logits.astype(jnp.float32).reshape(-1, vocab_size)
    cdf = categorical_cdf(flat)
    keys = row_keys(key, flat.shape[0])

    def active(state: _Checks) -> Array:
        more = (state.accepts < num_accepts) & (state.checks < max_checks)
        return cdf.valid & more & (state.block_mass.sum(axis=-1) > 0)

    def check(state: _Checks) -> _Checks:
        bits = jax.vmap(lambda k, n: jax.random.bits(jax.random.fold_in(k, n), (4,), jnp.uint32))(
            keys, state.checks
        )
        block, token = _draw_unrefused(flat, cdf, state, unit_uniform(bits[:, :2]))
        allowed = allows(token.reshape(lead)).reshape(-1)
        repeats = _refused_draws(cdf, state, log_uniform(bits[:, 2:]))
        now = active(state)
        return _take_in(
            flat, cdf, state, block=block, token=token, repeats=repeats, now=now, allowed=allowed
        )

    zero = jnp.zeros(flat.shape[:1], jnp.int32)
    state = _Checks(
        block_mass=cdf.block_mass,
        refused=jnp.zeros(flat.shape, bool),
        checks=zero,
        accepts=zero,
        draws=jnp.zeros(flat.shape[:1], jnp.float32),
        value=zero - 1,
    )
    state = vary_like(state, key, flat)
    state = jax.lax.while_loop(lambda s: active(s).any(), check, state)
    return ConstrainedSample(
        value=state.value.reshape(lead),
        accepted=(state.value >= 0).reshape(lead),
        log_weight=_log_allowed_mass(cdf, state, num_accepts).reshape(lead),
        num_checks=state.checks.reshape(lead),
    )


def _unrefused_masses(
    flat: Array, cdf: CategoricalCdf, block: Array, refused: Array
) -> tuple[Array, Array, Array]:
    """`[B, size]` masses of a block of each row without what was refused, its logits, places."""
    inside, place = take_block(flat, block, -jnp.inf)
    out, _ = take_block(refused, block, True)
    inside = jnp.where(out, -jnp.inf, inside)
    return jnp.exp(inside - cdf.maximum[:, None]), inside, place


def _draw_unrefused(
    flat: Array, cdf: CategoricalCdf, state: _Checks, uniform: Array
) -> tuple[Array, Array]:
    """`[B]` blocks and tokens, drawn from the law without what was refused."""
    remaining = state.block_mass.sum(axis=-1)
    block = pick_by_mass(state.block_mass, uniform[:, 0] * remaining)
    mass, inside, place = _unrefused_masses(flat, cdf, block, state.refused)
    return block, pick_within(mass, inside > -jnp.inf, place, uniform[:, 1])


def _refused_draws(cdf: CategoricalCdf, state: _Checks, log_u: Array) -> Array:
    """`[B]` draws of refused tokens before one that is not: geometric with their share."""
    remaining = state.block_mass.sum(axis=-1)
    share = jnp.clip(1 - remaining / cdf.total, 0, 1 - 2.0**-24)
    return jnp.where(share > 0, jnp.floor(log_u / jnp.log(share)), 0)


def _take_in(
    flat: Array,
    cdf: CategoricalCdf,
    state: _Checks,
    *,
    block: Array,
    token: Array,
    repeats: Array,
    now: Array,
    allowed: Array,
) -> _Checks:
    """The state after a check of one token of each row that is checked `now`."""
    rows = flat.shape[0]
    refuse = now & ~allowed
    row = jnp.where(refuse, jnp.arange(rows, dtype=jnp.int32), rows)  # rows: write nowhere
    refused = state.refused.at[row, token].set(True, mode="drop")
    # Summed again over what remains, so that an emptied block has mass 0 and not a rounding.
    new_mass = _unrefused_masses(flat, cdf, block, refused)[0].sum(axis=-1)
    blocks = jnp.arange(state.block_mass.shape[1], dtype=jnp.int32)[None, :]
    here = refuse[:, None] & (blocks == block[:, None])
    return _Checks(
        block_mass=jnp.where(here, new_mass[:, None], state.block_mass),
        refused=refused,
        checks=state.checks + now.astype(jnp.int32),
        accepts=state.accepts + (now & allowed).astype(jnp.int32),
        draws=state.draws + jnp.where(now, 1 + repeats, 0),
        value=jnp.where(now & allowed & (state.value < 0), token, state.value),
    )


def _log_allowed_mass(cdf: CategoricalCdf, state: _Checks, num_accepts: int) -> Array:
    """`[B]` log of the estimate of Z; see `ConstrainedSample.log_weight`."""
    estimated = (state.accepts == num_accepts) & (num_accepts > 1)
    log_weight = jnp.log(jnp.float32(max(num_accepts - 1, 1))) - jnp.log(
        jnp.maximum(state.draws - 1, 1)
    )
    nothing = cdf.valid & (state.block_mass.sum(axis=-1) <= 0)
    return jnp.where(nothing, -jnp.inf, jnp.where(estimated, log_weight, jnp.nan))


@record
class SqueezedDraws:
    """What bounds and scores decided.

    Attributes:
      accepted: `[B]` bool.
      scored: `[B]` bool, whether the dear score was needed.
      violated: `[B]` bool, whether a score lay outside its bounds, or was NaN: the decision for
        draws like it may then have been wrong without the score being asked.
    """

    accepted: Array
    scored: Array
    violated: Array


def squeeze(
    key: PRNGKey,
    log_lower: Array,
    log_upper: Array,
    score: Callable[[Array], Array],
    *,
    chunk: int = 64,
) -> SqueezedDraws:
    """Accepts draws with probability A, knowing L <= A <= U and calling for A only between them.

    One uniform u decides: u < L accepts, u >= U rejects, and only L <= u < U asks for A. The law
    is that of accepting with A, whatever the bounds, as long as they hold; the share of calls is
    the mean of U - L.

    Args:
      key: a typed key, consumed. Draw i uses `fold_in(key, i)` and no other.
      log_lower: `[B]` log L in nats; -inf for none.
      log_upper: `[B]` log U in nats; 0 for none.
      score: takes `[chunk]` int32 indices of draws and returns `[chunk]` log A in nats. It is
        called for the undecided draws, `chunk` at a time (the last index is repeated to fill).
        Static.
      chunk: draws scored at a time, at least 1. Static.

    Returns:
      A `SqueezedDraws`.

    Raises:
      ValueError: if `chunk` < 1, or `key` is not a typed key.

    Example:
      >>> half = jnp.log(jnp.full((1000,), 0.5))
      >>> draws = squeeze(jax.random.key(0), half - 0.1, half + 0.1, lambda i: half[i])
      >>> bool(abs(draws.accepted.mean() - 0.5) < 0.05), bool(draws.scored.mean() < 0.15)
      (True, True)

    References:
      Marsaglia, The squeeze method for generating gamma variates (1977); Gilks and Wild (1992).
    """
    check_key(key)
    check_integer("chunk", chunk)
    return _squeeze(key, log_lower, log_upper, score=score, chunk=int(chunk))


@functools.partial(jax.jit, static_argnames=("score", "chunk"))
def _squeeze(key, log_lower, log_upper, *, score, chunk):
    (rows,) = log_lower.shape
    chunk = min(chunk, rows)
    bits = jax.vmap(lambda k: jax.random.bits(k, (2,), jnp.uint32))(row_keys(key, rows))
    log_u = log_uniform(bits).astype(log_lower.dtype)
    sure = log_u < log_lower
    undecided = ~sure & (log_u < log_upper)

    def score_some(state):
        waiting, accepted, violated = state
        index = jnp.nonzero(waiting, size=chunk, fill_value=rows)[0].astype(jnp.int32)
        at = jnp.minimum(index, rows - 1)
        log_accept = score(at)
        # A few ulps outside the bounds are rounding. A score that is NaN is within none.
        size = jnp.where(jnp.isfinite(log_accept), jnp.abs(log_accept), 0)
        slack = 16 * jnp.finfo(log_accept.dtype).eps * (1 + size)
        outside = ~((log_accept <= log_upper[at] + slack) & (log_accept >= log_lower[at] - slack))
        return (
            waiting.at[index].set(False, mode="drop"),
            accepted.at[index].set(log_u[at] < log_accept, mode="drop"),
            violated.at[index].set(outside, mode="drop"),
        )

    start = vary_like((undecided, sure, jnp.zeros((rows,), bool)), key, log_lower, log_upper)
    _, accepted, violated = jax.lax.while_loop(lambda s: s[0].any(), score_some, start)
    return SqueezedDraws(accepted=accepted, scored=undecided, violated=violated)
