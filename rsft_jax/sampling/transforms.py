"""Logits to logits: temperature, truncation and masks. Masked entries are -inf.

Every function takes `[..., V]` logits and returns the same shape, in float32 at least; the logits
that stay are not changed (but for `temperature` and `repetition_penalty`), so the transforms
compose by application: `top_p(top_k(temperature(logits, 0.7), 50), 0.9)` truncates the tempered
law to 50 tokens and that to its nucleus. -inf entries on entry are masked already and stay so.
A row with a NaN comes back with NaN throughout, so that nothing is drawn from it silently.

None of them sorts the vocabulary, which takes half a second for `[64, 49152]` on a CPU: top_k
keeps a heap over its best blocks where k is small, and otherwise both it and top_p search their
threshold by bisection over the bits of a float, each step one vectorised pass.
"""

import functools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_between, check_integer, check_vocabulary
from rsft_jax.numerics.counting import first_true
from rsft_jax.numerics.dtypes import widened
from rsft_jax.numerics.float_order import Bracket, bisect, from_order, places_between, to_order
from rsft_jax.numerics.loops import vary_like
from rsft_jax.sampling.categorical import (
    block_reduce,
    greedy_token,
    has_nan,
    take_block,
)
from rsft_jax.types import Array

_MAX_HEAP = 64
_HEAP_BLOCK = 64


@functools.partial(jax.jit, static_argnames=("value",))
def temperature(logits: Array, value: float) -> Array:
    """Divides the logits by a temperature; 0 leaves only the most probable token.

    Args:
      logits: `[..., V]`.
      value: static, at least 0. 1 changes nothing. At 0 the lowest id among the largest logits
        keeps logit 0 and all others get -inf: greedy decoding as a law.

    Returns:
      `[..., V]` tempered logits.

    Raises:
      ValueError: if `value` is negative, NaN or infinite.

    Example:
      >>> temperature(jnp.array([1.0, 3.0, 3.0]), 0.0).tolist()
      [-inf, 0.0, -inf]
    """
    check_between("temperature", value, 0, math.inf, bounds="[)", note="(0 is greedy)")
    logits = _as_computed(logits)
    if value == 0:
        best = greedy_token(logits)[..., None]
        only = jnp.where(_ids(logits) == best, 0.0, -jnp.inf).astype(logits.dtype)
        return _nan_rows(only, has_nan(logits))
    if value == 1:
        return logits
    return logits / jnp.asarray(value, logits.dtype)


@functools.partial(jax.jit, static_argnames=("k",))
def top_k(logits: Array, k: int) -> Array:
    """Keeps the k largest logits of each row, exactly k; among equals the lowest ids stay.

    Args:
      logits: `[..., V]`.
      k: static, at least 0. 0, and any k >= V, is off.

    Returns:
      `[..., V]` logits, -inf outside the k. A row with fewer than k unmasked tokens keeps them.

    Raises:
      ValueError: if `k` is negative.

    Example:
      >>> top_k(jnp.array([1.0, 3.0, 2.0, 2.0]), 2).tolist()
      [-inf, 3.0, 2.0, -inf]
    """
    check_integer("k", k, 0, note="(0 is off)")
    logits = _as_computed(logits)
    vocab_size = logits.shape[-1]
    if k == 0 or k >= vocab_size:
        return logits
    flat = logits.reshape(-1, vocab_size)
    threshold, above = _kth_largest(flat, int(k))
    kept = _keep_from(flat, threshold, jnp.int32(k) - above)
    return _nan_rows(kept, jnp.isnan(threshold)).reshape(logits.shape)


@functools.partial(jax.jit, static_argnames=("p",))
def top_p(logits: Array, p: float) -> Array:
    """Keeps the nucleus: the smallest set of most probable tokens with at least mass p.

    A token stays if the mass of the tokens before it, by falling probability and then rising id,
    is below p; so the most probable token always stays. Masses are float32 sums: a token whose
    preceding mass lies within about 1e-6 of p may fall on either side.

    Args:
      logits: `[..., V]`.
      p: static, in (0, 1]. 1 is off.

    Returns:
      `[..., V]` logits, -inf outside the nucleus.

    Raises:
      ValueError: if `p` is outside (0, 1].

    Example:
      >>> top_p(jnp.log(jnp.array([0.1, 0.6, 0.3])), 0.7).tolist()[0]
      -inf

    References:
      Holtzman et al., The Curious Case of Neural Text Degeneration (2020), section 3.1.
    """
    check_between("p", p, 0, 1, bounds="(]", note="(1 is off)")
    logits = _as_computed(logits)
    if p == 1:
        return logits
    flat = logits.reshape(-1, logits.shape[-1])
    maximum = block_reduce(lambda x: x.max(axis=-1), flat).max(axis=-1)
    maximum = jnp.where(maximum == -jnp.inf, jnp.zeros_like(maximum), maximum)
    mass = jnp.exp(flat - maximum[:, None])  # read by every step of the search: 32 exps saved
    limit = jnp.asarray(p, flat.dtype) * block_reduce(lambda x: x.sum(axis=-1), mass).sum(axis=-1)
    threshold = _least_kept(
        mass,
        weigh=lambda x: x,
        level=limit,
        # Two places there would weigh twice the bound (up to the rounding of the two sums).
        at_most_one=lambda bound, rest: rest < 2 * bound,
        lowest=0.0,
    )
    before = block_reduce(
        lambda x: jnp.where(x > threshold[:, None, None], x, 0).sum(axis=-1), mass
    ).sum(axis=-1)
    # Equal logits at the threshold enter by rising id until the limit is met.
    room = jnp.where(threshold > 0, jnp.ceil((limit - before) / threshold), 0)
    ties = jnp.clip(room, 1, flat.shape[1]).astype(jnp.int32)
    kept = _keep_from(flat, threshold, ties, key=mass)
    return _nan_rows(kept, jnp.isnan(limit)).reshape(logits.shape)


@functools.partial(jax.jit, static_argnames=("p",))
def min_p(logits: Array, p: float) -> Array:
    """Keeps the tokens at least p times as probable as the most probable one.

    Args:
      logits: `[..., V]`.
      p: static, in [0, 1]. 0 is off.

    Returns:
      `[..., V]` logits, -inf below the threshold.

    Raises:
      ValueError: if `p` is outside [0, 1].

    Example:
      >>> min_p(jnp.log(jnp.array([0.8, 0.15, 0.05])), 0.1).tolist()[2]
      -inf

    References:
      Nguyen et al., Turning Up the Heat: Min-p Sampling (2024), section 3.
    """
    check_between("p", p, 0, 1, note="(0 is off)")
    logits = _as_computed(logits)
    if p == 0:
        return logits
    maximum = logits.max(axis=-1, keepdims=True)
    floor = maximum + jnp.asarray(math.log(p), logits.dtype)
    kept = jnp.where(logits >= floor, logits, -jnp.inf)
    return _nan_rows(kept, has_nan(logits))


@functools.partial(jax.jit, static_argnames=("penalty",))
def repetition_penalty(logits: Array, seen: Array, penalty: float) -> Array:
    """Makes tokens already seen less probable: positive logits are divided, others multiplied.

    This is the rule of CTRL and of most decoders. It depends on the zero of the logits, so
    shifting a row changes its law; apply it to the model's own logits, before anything else.

    Args:
      logits: `[..., V]`.
      seen: `[..., V]` bool, the tokens to penalise.
      penalty: static, above 0. 1 is off; below 1 rewards repetition.

    Returns:
      `[..., V]` logits.

    Raises:
      ValueError: if `penalty` is not a finite number above 0.

    Example:
      >>> seen = jnp.array([True, True, False])
      >>> repetition_penalty(jnp.array([2.0, -1.0, 2.0]), seen, 2.0).tolist()
      [1.0, -2.0, 2.0]

    References:
      Keskar et al., CTRL (2019), section 4.1.
    """
    check_between("penalty", penalty, 0, math.inf, bounds="()", note="(1 is off)")
    chex.assert_equal_shape([logits, seen])
    logits = _as_computed(logits)
    factor = jnp.asarray(penalty, logits.dtype)
    return jnp.where(seen, jnp.where(logits > 0, logits / factor, logits * factor), logits)


def allow_tokens(logits: Array, allowed: Array) -> Array:
    """Masks every token that is not allowed.

    Args:
      logits: `[..., V]`.
      allowed: `[V]` or `[..., V]` bool.

    Returns:
      `[..., V]` logits, -inf where not allowed. A row with nothing allowed is masked throughout,
      and `sample_categorical` gives -1 for it.

    Example:
      >>> allow_tokens(jnp.array([[1.0, 2.0]]), jnp.array([True, False])).tolist()
      [[1.0, -inf]]
    """
    chex.assert_axis_dimension(allowed, -1, logits.shape[-1])
    logits = _as_computed(logits)
    return jnp.where(jnp.broadcast_to(allowed, logits.shape), logits, -jnp.inf)


def _kth_largest(flat: Array, k: int) -> tuple[Array, Array]:
    """The k-th largest value of each row of `[B, V]`, and how many exceed it.

    Returns:
      `[B]` the value, NaN for a row with a NaN, and `[B]` int32 the count.
    """
    if k <= _MAX_HEAP:
        candidates = _in_best_blocks(flat, k)
        # The least of them, and not the last: XLA pulls a slice in and sorts the whole row instead,
        # and a barrier against that makes it abort where the rows are sharded.
        kth = jax.lax.top_k(candidates, k)[0].min(axis=-1)  # a heap, one pass
        above = _count(candidates > kth[:, None])
    else:
        kth = _least_kept(
            flat,
            weigh=jnp.ones_like,  # a float count is exact below 2^24, and vectorises
            level=jnp.full((flat.shape[0],), k, flat.dtype),
            at_most_one=lambda _, rest: rest <= 1,
            lowest=-jnp.inf,
        )
        above = block_reduce(lambda x: _count(x > kth[:, None, None]), flat)
        above = above.sum(axis=-1, dtype=jnp.int32)
    return jnp.where(has_nan(flat), jnp.nan, kth), above


def _in_best_blocks(flat: Array, k: int) -> Array:
    """`[B, n]` the values of the k blocks with the largest maxima: the k largest are among them.

    Outside of them no value exceeds the least of these k maxima, and k values reach it.
    """
    rows, vocab_size = flat.shape
    whole = vocab_size // _HEAP_BLOCK
    if whole < 2 * k:
        return flat
    blocks = flat[:, : whole * _HEAP_BLOCK].reshape(rows, whole, _HEAP_BLOCK)
    best = jax.lax.top_k(blocks.max(axis=-1), k)[1]
    inside = jax.vmap(lambda row, index: row[index])(blocks, best).reshape(rows, k * _HEAP_BLOCK)
    return jnp.concatenate([inside, flat[:, whole * _HEAP_BLOCK :]], axis=1)


def _least_kept(
    values: Array,
    *,
    weigh: Callable[[Array], Array],
    level: Array,
    at_most_one: Callable[[Array, Array], Array],
    lowest: float,
) -> Array:
    """`[B]` the largest value v of a row for which the places at or above v weigh `level`.

    By bisection: at most 32 (64) passes find the value exactly, and fewer when what lies between
    the bounds is one place only.

    Args:
      values: `[B, V]`.
      weigh: elementwise, what a place counts for: 1, or its mass.
      level: `[B]` what must be reached; all places together reach it.
      at_most_one: (lower bound, weight between the bounds) to whether one place is left there.
      lowest: the lower end of the search.
    """
    dtype = values.dtype

    def weight_from(order: Array) -> Array:
        bound = from_order(order, dtype)[:, None, None]
        return block_reduce(lambda x: _weight_from(x, bound, weigh), values).sum(
            axis=-1, dtype=level.dtype
        )

    def settled(bracket: Bracket) -> Array:
        between = bracket.low_measure - bracket.high_measure
        return at_most_one(from_order(bracket.low, dtype), between)

    low, high = (to_order(jnp.full(level.shape, end, dtype)) for end in (lowest, jnp.inf))
    weight = weight_from(low)
    start = Bracket(low, places_between(low, high), weight, jnp.zeros_like(weight))
    start = vary_like(start, values, level)
    order = bisect(
        lambda orders: [weight_from(order) for order in orders], level, start, settled=settled
    )
    floor = from_order(order, dtype)[:, None, None]
    above = block_reduce(lambda x: jnp.where(x >= floor, x, jnp.inf).min(axis=-1), values)
    return above.min(axis=-1)


def _weight_from(values: Array, bound: Array, weigh: Callable[[Array], Array]) -> Array:
    """What the places at or above a bound weigh, summed over the last axis."""
    weight = weigh(values)
    weight = jnp.where(values >= bound, weight, jnp.zeros_like(weight))
    return weight.sum(axis=-1, dtype=weight.dtype)


def _keep_from(flat: Array, threshold: Array, ties: Array, key: Array | None = None) -> Array:
    """Masks what lies below a threshold, and all but the first `ties` places that equal it.

    The place of the last tie is found as a token is drawn: first its block, then within it.
    """
    key = flat if key is None else key
    counts = block_reduce(lambda x: _count(x == threshold[:, None, None]), key)
    reached = jnp.cumsum(counts, axis=-1, dtype=jnp.int32)
    block = jnp.minimum(first_true(reached >= ties[:, None]), counts.shape[1] - 1)
    before = jnp.take_along_axis(reached - counts, block[:, None], axis=1)
    inside, place = take_block(key, block, jnp.nan)
    tied = (inside == threshold[:, None]).astype(jnp.int32)
    rank = before + jnp.cumsum(tied, axis=-1, dtype=jnp.int32)
    within = first_true(rank >= ties[:, None])
    # Fewer ties than allowed: all of them stay.
    last = jnp.where(within < place.shape[1], place[:, 0] + within, flat.shape[1])
    level = threshold[:, None]
    keep = (key > level) | ((key == level) & (_ids(flat) <= last[:, None]))
    return jnp.where(keep, flat, -jnp.inf)


def _nan_rows(logits: Array, broken: Array) -> Array:
    """Rows that cannot be ordered (a NaN among them) become NaN: nothing is drawn from them."""
    return jnp.where(broken[..., None], jnp.nan, logits)


def _ids(logits: Array) -> Array:
    shape = (1,) * (logits.ndim - 1) + logits.shape[-1:]
    return jnp.arange(logits.shape[-1], dtype=jnp.int32).reshape(shape)


def _count(mask: Array) -> Array:
    return mask.sum(axis=-1, dtype=jnp.int32)


def _as_computed(logits: Array) -> Array:
    check_vocabulary("logits", logits)
    return widened(logits)
