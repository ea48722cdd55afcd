"""Numbers of an optimizer as arguments of a compiled step, and not as constants in it.

A number that is written into a program makes another program of it: a search over learning rates
would compile its step once for each. Here they lie in the optimizer's state, and two optimizers
that differ in them alone are equal, as `jax.jit` compares them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax

from rsft_jax.types import Array, Params


class NumbersState(NamedTuple):
    """State of an optimizer whose numbers are arguments.

    Attributes:
      numbers: by name, [] float32.
      inner: the state of the optimizer that they make.
    """

    numbers: Mapping[str, Array | np.ndarray]
    inner: optax.OptState


class MakeFn(Protocol):
    """Makes an optimizer of numbers, which may be traced; equal ones make equal optimizers."""

    def __call__(self, numbers: Mapping[str, Any]) -> optax.GradientTransformation:
        """Returns the optimizer."""
        ...


def with_numbers(make: MakeFn, numbers: Mapping[str, float]) -> optax.GradientTransformation:
    """An optimizer with its numbers in its state.

    Of two with equal `make`, a step that is compiled for one serves the other: what they differ in
    reaches it with the state. (`optax.inject_hyperparams` puts numbers into the state, too, but two
    optimizers of it are never equal.)

    Args:
      make: hashable; makes the optimizer, whose state must not depend on the numbers.
      numbers: its numbers.

    Example:
      >>> import dataclasses, jax.numpy as jnp
      >>> @dataclasses.dataclass(frozen=True)
      ... class Sgd:
      ...     def __call__(self, numbers):
      ...         return optax.sgd(numbers["rate"])
      >>> slow, fast = (with_numbers(Sgd(), {"rate": rate}) for rate in (0.5, 2.0))
      >>> slow == fast
      True
      >>> params = {"x": jnp.float32(1.0)}
      >>> [float(tx.update(params, tx.init(params))[0]["x"]) for tx in (slow, fast)]
      [-0.5, -2.0]
    """
    return optax.GradientTransformation(_Init(make, dict(numbers)), _Update(make))


def without_numbers(opt_state: Any) -> Any:
    """What of a state is to be kept: the numbers are said by whoever goes on with it."""
    return opt_state.inner if isinstance(opt_state, NumbersState) else opt_state


def numbers_of(opt_state: Any, inner: Any) -> Any:
    """The state that `without_numbers` made `inner` of, with the numbers of `opt_state`."""
    return opt_state._replace(inner=inner) if isinstance(opt_state, NumbersState) else inner


@dataclasses.dataclass(frozen=True)
class _Init:
    """`init` of an optimizer; equal whatever the numbers are."""

    make: MakeFn
    numbers: Mapping[str, float] = dataclasses.field(compare=False)

    def __call__(self, params: Params) -> NumbersState:
        # NumPy scalars, which every process of a run may hand to a step whatever its shardings are.
        numbers = {name: np.float32(value) for name, value in self.numbers.items()}
        return NumbersState(
            jax.tree.map(jax.numpy.asarray, numbers), self.make(numbers).init(params)
        )


@dataclasses.dataclass(frozen=True)
class _Update:
    """`update` of an optimizer, with the numbers in its state."""

    make: MakeFn

    def __call__(
        self, updates: optax.Updates, state: optax.OptState, params: Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        assert isinstance(state, NumbersState)
        updates, inner = self.make(state.numbers).update(updates, state.inner, params)
        return updates, state._replace(inner=inner)
