"""Order statistics with ties broken by position, within each prompt or over the whole batch."""

import fractions
import functools
import operator
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from rsft_jax.numerics.counting import running_count
from rsft_jax.types import Array, Numeric

Scope = Literal["prompt", "batch"]
Ties = Literal["first", "all"]


def largest(values: Array, count: Array, among: Array, *, ties: Ties = "first") -> Array:
    """Marks the `count` largest values of each row.

    0.0 and -0.0 are equal, and so are subnormal numbers, which XLA's CPU backend compares as 0.

    Args:
      values: `[G, M]` floats or unsigned integers. What is not `among` may be NaN.
      count: `[G, 1]` int32 how many to mark; all of `among` if it has fewer.
      among: `[G, M]` bool, which may be marked.
      ties: of those that equal the last one, marks those of lowest index ("first"), or "all".

    Returns:
      `[G, M]` bool.

    Example:
      >>> among = jnp.array([[True, True, True, False]])
      >>> largest(jnp.array([[1.0, 2.0, 2.0, 9.0]]), jnp.array([[1]]), among).tolist()
      [[False, True, False, False]]
    """
    return _largest_keys(order_key(values), count, among, ties)


def smallest(values: Array, count: Array, among: Array) -> Array:
    """Marks the `count` smallest values of each row; of equal ones the lower index goes first.

    Arguments and result as in `largest`.
    """
    return _largest_keys(~order_key(values), count, among, "first")


def order_key(values: Array) -> Array:
    """Signed integers that are ordered as the values are, which they replace in comparisons.

    Integers compare, and reduce to a maximum, without the care that NaN asks for.

    Args:
      values: floats or unsigned integers of 32 or 64 bits.
    """
    signed = jnp.int64 if values.dtype.itemsize == 8 else jnp.int32
    if not jnp.issubdtype(values.dtype, jnp.floating):
        lowest = jnp.asarray(jnp.iinfo(signed).min, signed)
        return jax.lax.bitcast_convert_type(values, signed) ^ lowest
    # -0.0 becomes 0.0. Floats of one sign are ordered as their bits are, negative ones the other
    # way about.
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0, values), signed)
    return jnp.where(bits < 0, bits ^ jnp.asarray(jnp.iinfo(signed).max, signed), bits)


def _largest_keys(key: Array, count: Array, among: Array, ties: Ties) -> Array:
    available = among.sum(axis=-1, keepdims=True, dtype=jnp.int32)
    count = jnp.minimum(count, available)
    # Without the barrier, whatever made the values is computed again in each of the passes below.
    key = jax.lax.optimization_barrier(
        jnp.where(among, key, jnp.asarray(jnp.iinfo(key.dtype).min, key.dtype))
    )
    bound = _bound_of(key, count, available)
    if ties == "all":
        return among & (key >= bound) & (count > 0)
    above = among & (key > bound)
    tied = among & (key == bound)
    left = count - above.sum(axis=-1, keepdims=True, dtype=jnp.int32)
    return above | (tied & (running_count(tied) <= left))


def _bound_of(key: Array, count: Array, available: Array) -> Array:
    """`[G, 1]` a bound that `count` keys of the row reach, or the `count`-th largest key.

    By bisection over the bits, because XLA's CPU sort is an order of magnitude slower, and done as
    soon as every row has a bound with exactly `count`. Where a row is short enough for three counts
    to fit in one integer, a pass over the keys settles two bits: memory is what a pass costs.
    """
    size = 8 * key.dtype.itemsize
    digit, field = (2, 10) if key.shape[-1] < 2**10 else (1, 31)

    def unfinished(state):
        place, _, reached = state
        return (place < size) & (reached != count).any()

    def step(state):
        place, bound, reached = state
        unit = jnp.asarray(1, key.dtype) << (size - digit - place).astype(key.dtype)
        # Sums wrap around from the lowest number, where the search begins.
        trials = [bound + unit * jnp.asarray(i, key.dtype) for i in range(1, 2**digit)]
        fields = [
            (key >= t).astype(jnp.int32) << jnp.int32(field * i) for i, t in enumerate(trials)
        ]
        packed = functools.reduce(operator.add, fields)
        packed = packed.sum(axis=-1, keepdims=True, dtype=jnp.int32)
        undecided = reached != count
        for i, trial in enumerate(trials):  # the highest that holds has the last word
            number = (packed >> jnp.int32(field * i)) & jnp.int32(2**field - 1)
            holds = undecided & (number >= count)
            bound = jnp.where(holds, trial, bound)
            reached = jnp.where(holds, number, reached)
        return place + digit, bound, reached

    # Made from `available` so that under shard_map the carry varies as the keys do.
    lowest = jnp.asarray(jnp.iinfo(key.dtype).min, key.dtype) + (available & 0).astype(key.dtype)
    return jax.lax.while_loop(unfinished, step, (jnp.int32(0), lowest, available))[1]


def first_number(
    holds: Callable[[Array], Array], shape: tuple[int, ...], dtype: jnp.dtype
) -> Array:
    """The smallest number of a dtype for which a monotone condition holds, found bit by bit.

    Args:
      holds: maps numbers of this shape to bools; where it holds it must hold for larger ones too.
      shape: of the numbers.
      dtype: a float or an unsigned integer.

    Returns:
      Numbers, from the lowest of the dtype (-inf for floats) up; the highest where the condition
      never holds.
    """
    bits = 8 * jnp.dtype(dtype).itemsize
    word = {32: jnp.uint32, 64: jnp.uint64}[bits]

    def step(place: Numeric, found: Array) -> Array:
        bit = word(1) << (word(bits - 1) - jnp.asarray(place).astype(word))
        # The highest number with this bit 0 and the bits above as found. If even that is too low,
        # the bit is 1.
        return jnp.where(holds(_number(found | (bit - word(1)), dtype)), found, found | bit)

    lowest = jnp.zeros(shape, word)
    # The product is 0; under shard_map it varies over the devices as the condition does.
    start = lowest * holds(_number(lowest, dtype)).astype(word)
    return _number(jax.lax.fori_loop(0, bits, step, start), dtype)


def _number(rank: Array, dtype: jnp.dtype) -> Array:
    """The number at a place in the order of a dtype's bit patterns; NaN is left out of it."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return rank.astype(dtype)
    sign = rank.dtype.type(1 << (8 * rank.dtype.itemsize - 1))
    # Floats of one sign are ordered as their bits are, negative ones the other way about.
    number = jax.lax.bitcast_convert_type(jnp.where(rank >= sign, rank ^ sign, ~rank), dtype)
    outside = jnp.where(rank >= sign, jnp.inf, -jnp.inf).astype(dtype)
    return jnp.where(jnp.isnan(number), outside, number)


def part_of(fraction: float, count: Array) -> tuple[Array, Array]:
    """`floor` and `ceil` of fraction * count, in integers: 0.1 of 10 is 1, not 1.0000000149.

    Args:
      fraction: in [0, 1]; taken as the nearest quotient of integers below 2^15.
      count: int32.

    Returns:
      Two int32 arrays.
    """
    quotient = fractions.Fraction(fraction).limit_denominator(2**15)
    top, bottom = quotient.numerator, quotient.denominator
    whole, rest = count // bottom, count % bottom  # so that no product exceeds 2^30
    return whole * top + rest * top // bottom, whole * top - (-rest * top) // bottom


def check_scope(scope: str, axis_name: str | None) -> None:
    """Raises ValueError unless the scope is known, and the batch's if an axis is named."""
    if scope not in ("prompt", "batch"):
        raise ValueError(f'scope must be "prompt" or "batch"; got {scope!r}')
    if axis_name is not None and scope != "batch":
        raise ValueError(f'axis_name is for scope="batch"; got {axis_name!r} with scope={scope!r}')


def to_groups(values: Array, scope: Scope, axis_name: str | None = None) -> Array:
    """Brings `[P, N]` values into `[G, M]` groups: a prompt each, or one for the whole batch.

    Args:
      values: `[P, N]`.
      scope: "prompt" or "batch".
      axis_name: the mesh axis over which `jax.shard_map` split the prompts, if it did; the group
        is then gathered from all devices, in their order.
    """
    if scope == "prompt":
        return values
    flat = values.reshape(-1)
    if axis_name is not None:
        flat = jax.lax.all_gather(flat, axis_name, tiled=True)
    return flat[None, :]


def from_groups(
    values: Array, shape: tuple[int, ...], scope: Scope, axis_name: str | None = None
) -> Array:
    """The inverse of `to_groups`; a value for the whole group, `[G, 1]`, is repeated `[P, 1]`."""
    if scope == "prompt":
        return values
    prompts, per_prompt = shape
    if values.shape[1] == 1:
        return jnp.broadcast_to(values, (prompts, 1))
    flat = values[0]
    if axis_name is not None:
        size = prompts * per_prompt
        flat = jax.lax.dynamic_slice_in_dim(flat, jax.lax.axis_index(axis_name) * size, size)
    return flat.reshape(shape)
