"""The learning rate of a step: by its number, or by how far training is.

How many steps fine-tuning takes is not known before it: it depends on what will be accepted, on
what is replayed, and on how sequences are packed. How far it has come is known: rounds done of all
rounds, and steps done of this round's. So a rate that falls is best a function of that progress,
from 0 to 1:

    rate(step, progress) = eta * rise(step) * fall(progress)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rsft_jax.numerics.checks import check_between, check_choice, check_integer
from rsft_jax.types import Array, Numeric, Params

SCHEDULES = ("constant", "cosine", "linear")

RateFn = Callable[[jax.typing.ArrayLike, jax.typing.ArrayLike], Array]
"""(number of the step from 0, progress in [0, 1]) -> learning rate."""


def make_rate(learning_rate: float, schedule: str = "constant", *, warmup_steps: int = 0) -> RateFn:
    """A learning rate that rises over the first steps, and stays or falls with the progress.

    With w warm-up steps the rise of step t (from 0) is (t + 1) / w while t < w, and 1 then: no step
    is spent on a rate of zero. The fall at progress x is 1 (constant), (1 + cos(pi x)) / 2 (cosine)
    or 1 - x (linear).

    Args:
      learning_rate: eta, the highest rate; finite and not negative.
      schedule: "constant", "cosine" or "linear".
      warmup_steps: w, at least 0.

    Raises:
      ValueError: naming the argument, its value and the allowed range.

    Example:
      >>> rate = make_rate(1.0, "linear", warmup_steps=2)
      >>> [float(rate(step, progress)) for step, progress in [(0, 0.0), (1, 0.25), (2, 0.5)]]
      [0.5, 0.75, 0.5]
    """
    check_between("learning_rate", learning_rate, 0, math.inf, bounds="[)")
    check_choice("schedule", schedule, SCHEDULES)
    check_integer("warmup_steps", warmup_steps, 0)

    return rate_of(learning_rate, schedule, warmup_steps)


def rate_of(learning_rate: Numeric, schedule: str, warmup_steps: Numeric) -> RateFn:
    """`make_rate` unchecked, of numbers that may be traced."""

    def rate(step: jax.typing.ArrayLike, progress: jax.typing.ArrayLike) -> Array:
        step = jnp.asarray(step).astype(jnp.float32)
        rise = jnp.minimum((step + 1) / jnp.maximum(warmup_steps, 1), 1)
        if schedule == "constant":
            return jnp.asarray(learning_rate * rise)
        done = jnp.clip(jnp.asarray(progress).astype(jnp.float32), 0, 1)
        fall = (1 + jnp.cos(jnp.pi * done)) / 2 if schedule == "cosine" else 1 - done
        return jnp.asarray(learning_rate * rise * fall)

    return rate


def make_schedule(
    learning_rate: float,
    schedule: str = "constant",
    *,
    warmup_steps: int = 0,
    total_steps: int | None = None,
) -> optax.Schedule:
    """`make_rate` as a function of the step alone, where the number of steps is known.

    With w warm-up steps of T the progress of step t is (t - w) / (T - w), and 0 before.

    Args:
      learning_rate, schedule, warmup_steps: as in `make_rate`.
      total_steps: T, warm-up included; the falling schedules need it.

    Returns:
      A function from the step to the rate.

    Raises:
      ValueError: naming the argument, its value and the allowed range.

    Example:
      >>> rate = make_schedule(1.0, "linear", warmup_steps=2, total_steps=6)
      >>> [float(rate(t)) for t in range(6)]
      [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    make_rate(learning_rate, schedule, warmup_steps=warmup_steps)  # checks
    if schedule != "constant" and (total_steps is None or total_steps <= warmup_steps):
        raise ValueError(
            f"total_steps must be above warmup_steps = {warmup_steps} for the {schedule} "
            f"schedule, got {total_steps}"
        )
    return schedule_of(learning_rate, schedule, warmup_steps, total_steps=total_steps)


def schedule_of(
    learning_rate: Numeric, schedule: str, warmup_steps: Numeric, *, total_steps: int | None
) -> optax.Schedule:
    """`make_schedule` unchecked, of numbers that may be traced."""
    rate = rate_of(learning_rate, schedule, warmup_steps)

    def at_step(step: jax.typing.ArrayLike) -> Array:
        if total_steps is None:
            return rate(step, 0)
        past = jnp.asarray(step).astype(jnp.float32) - warmup_steps
        return rate(step, past / (total_steps - warmup_steps))

    return at_step


class ProgressState(NamedTuple):
    """State of `scale_by_progress`.

    Attributes:
      step: [] int32 number of the step to come, from 0.
      progress: [] float32 of the step to come, in [0, 1]; see `at_progress`.
    """

    step: Array
    progress: Array


def scale_by_progress(rate: RateFn) -> optax.GradientTransformation:
    """Scales updates by -rate(step, progress), at the progress that `at_progress` has stated."""

    def init(params: Params) -> ProgressState:
        del params
        return ProgressState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32))

    def update(
        updates: optax.Updates, state: optax.OptState, params: Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        assert isinstance(state, ProgressState)
        factor = -rate(state.step, state.progress)
        updates = jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)
        return updates, state._replace(step=optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)


def at_progress(opt_state: optax.OptState, progress: float) -> optax.OptState:
    """States how far training is for the step to come; an optimizer that does not ask stays as is.

    Args:
      opt_state: of an optimizer made with `by_progress=True`, or of any other.
      progress: in [0, 1].

    Raises:
      ValueError: progress is outside [0, 1].

    Example:
      >>> tx = scale_by_progress(make_rate(1.0, "linear"))
      >>> state = at_progress(tx.init({}), 0.75)
      >>> tx.update({"x": jnp.float32(2.0)}, state)[0]
      {'x': Array(-0.5, dtype=float32)}
    """
    check_between("progress", progress, 0, 1)

    def is_progress(node: Any) -> bool:
        return isinstance(node, ProgressState)

    # A NumPy scalar, which every process of a run may hand to a step whatever its shardings are.
    stated = np.float32(progress)
    return jax.tree.map(
        lambda node: node._replace(progress=stated) if is_progress(node) else node,
        opt_state,
        is_leaf=is_progress,
    )
