"""Order statistics with ties broken by position, within each prompt or over the whole batch."""

import fractions
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from rsft_jax.types import Array, Numeric

Scope = Literal["prompt", "batch"]


def smallest(values: Array, count: Array, among: Array) -> Array:
    """Marks the `count` smallest values of each row; of equal ones the lower index goes first.

    Args:
      values: `[G, M]` numbers, none NaN.
      count: `[G, 1]` int32 how many to mark; all of `among` if it has fewer.
      among: `[G, M]` bool, which may be marked.

    Returns:
      `[G, M]` bool.

    Example:
      >>> among = jnp.array([[True, True, True, False]])
      >>> smallest(jnp.array([[2, 1, 1, 0]]), jnp.array([[1]]), among).tolist()
      [[False, True, False, False]]
    """
    count = jnp.minimum(count, among.sum(axis=-1, keepdims=True, dtype=jnp.int32))
    bound = kth_smallest(values, count, among)
    below = among & (values < bound)
    ties = among & (values == bound)
    left = count - below.sum(axis=-1, keepdims=True, dtype=jnp.int32)
    return (count > 0) & (below | (ties & (jnp.cumsum(ties, axis=-1, dtype=jnp.int32) <= left)))


def kth_smallest(values: Array, k: Array, among: Array) -> Array:
    """`[G, 1]` the k-th smallest value of each row, `k` of `[G, 1]` counting from 1.

    By bisection over the 32 bits of a float, because XLA's CPU sort of floats is an order of
    magnitude slower than 32 passes that count. The smallest float of all where k < 1; the largest
    where fewer than k are `among`. Where XLA compares subnormal numbers as 0, so does this.
    """

    def reached(bound: Array) -> Array:
        return (among & (values <= bound)).sum(axis=-1, keepdims=True, dtype=jnp.int32) >= k

    return first_number(reached, k.shape, values.dtype)


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
