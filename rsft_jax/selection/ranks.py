"""Order statistics with ties broken by position, within each prompt or over the whole batch."""

import fractions
import functools
import operator
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_choice
from rsft_jax.numerics.counting import running_count
from rsft_jax.numerics.float_order import bisect, to_order, whole_range
from rsft_jax.numerics.loops import vary_like
from rsft_jax.types import Array

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
    return _largest_keys(to_order(values), count, among, ties)


def smallest(values: Array, count: Array, among: Array) -> Array:
    """Marks the `count` smallest values of each row; of equal ones the lower index goes first.

    Arguments and result as in `largest`.
    """
    return _largest_keys(~to_order(values), count, among, "first")


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

    By bisection, done as soon as every row has a bound with exactly `count`. Where a row is short
    enough for three counts to fit in one integer, a pass over the keys settles two bits: memory is
    what a pass costs.
    """

    def counts_from(bounds: Sequence[Array]) -> Sequence[Array]:
        width = 31 // len(bounds)  # bits of a count
        fields = [
            (key >= b).astype(jnp.int32) << jnp.int32(width * i) for i, b in enumerate(bounds)
        ]
        packed = functools.reduce(operator.add, fields)
        packed = packed.sum(axis=-1, keepdims=True, dtype=jnp.int32)
        mask = jnp.int32(2**width - 1)
        return [(packed >> jnp.int32(width * i)) & mask for i in range(len(bounds))]

    start = whole_range(available, jnp.zeros_like(available), key.dtype)
    return bisect(
        counts_from,
        count,
        vary_like(start, key, count),
        settled=lambda bracket: bracket.low_measure == count,
        steps_a_pass=2 if key.shape[-1] < 2**10 else 1,
    )


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
    check_choice("scope", scope, ("prompt", "batch"))
    if axis_name is not None and scope != "batch":
        raise ValueError(f'axis_name must be None with scope="prompt", got {axis_name!r}')


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
