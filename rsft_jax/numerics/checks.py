"""Checks of arguments, in one dialect: `NAME must be ..., got VALUE`.

What is wrong with a number on the host is a ValueError before anything is computed. What is wrong
with a traced value, or one on a device, shows in the result as data instead.
"""

import math
import numbers
from collections.abc import Collection
from typing import Literal

import chex
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rsft_jax.types import Array, Numeric

Bounds = Literal["[]", "[)", "(]", "()"]


def check_integer(name: str, value: int, minimum: int = 1, *, note: str = "") -> int:
    """Returns the value, or raises ValueError unless it is an integer >= minimum.

    Args:
      name: of the argument.
      value: what was given.
      minimum: the least allowed.
      note: words behind the range in the message, such as "(0 is off)".

    Example:
      >>> check_integer("num", 3)
      3
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}{_spaced(note)}, got {value!r}")
    return int(value)


def check_number(
    name: str, value: Numeric, *, above: float = -math.inf, finite: bool = True
) -> None:
    """Raises ValueError if a number, or one of an array, is NaN, out of range, or infinite.

    Traced values pass: what is wrong with them shows in the result, as data.
    """
    if isinstance(value, Tracer):
        return
    number = _as_number(value)
    # Not `number > -inf`: -inf itself may be allowed.
    out_of_range = np.isnan(number) | ((number <= above) & (above > -math.inf))
    if np.any(out_of_range | (finite & np.isinf(number))):
        kind = "a finite number" if finite else "a number, not NaN"
        bound = f" > {above:g}" if above > -math.inf else ""
        raise ValueError(f"{name} must be {kind}{bound}, got {value!r}")


def check_between(
    name: str, value: Numeric, low: float, high: float, *, bounds: Bounds = "[]", note: str = ""
) -> None:
    """Raises ValueError unless a number, or every one of an array, lies in an interval.

    Traced values pass: what is wrong with them shows in the result, as data.

    Args:
      name: of the argument.
      value: what was given.
      low: the interval's lower end.
      high: its upper end.
      bounds: which ends belong to it, in the usual notation.
      note: words behind the range in the message, such as "(1 is off)".
    """
    if isinstance(value, Tracer):
        return
    number = _as_number(value)
    above = number >= low if bounds[0] == "[" else number > low
    below = number <= high if bounds[1] == "]" else number < high
    if not np.all(above & below):
        interval = f"{bounds[0]}{low:g}, {high:g}{bounds[1]}"
        raise ValueError(f"{name} must be in {interval}{_spaced(note)}, got {value!r}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError unless the value is one of some words.

    Example:
      >>> check_choice("method", "lanes", ("blocks", "lanes"))
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {value!r}")


def check_vocabulary(name: str, logits: Array) -> None:
    """Raises ValueError unless the last axis of the logits is a vocabulary of one token or more."""
    if not logits.shape or not logits.shape[-1]:
        raise ValueError(f"{name} must be [..., V] with V >= 1, got shape {logits.shape}")


def check_same_vocabulary(name: str, logits: Array, other_name: str, other: Array) -> None:
    """Raises ValueError unless two arrays of logits have one vocabulary of one token or more."""
    if logits.shape[-1:] != other.shape[-1:]:
        raise ValueError(
            f"{name} and {other_name} must have one vocabulary, got shapes {logits.shape} and "
            f"{other.shape}"
        )
    check_vocabulary(name, logits)


def per_prompt(name: str, value: Numeric, like: Array) -> Array:
    """Brings a number, or one number a prompt `[P]`, into a form that broadcasts over `[P, N]`.

    Args:
      name: of the argument.
      value: a number, `[]` or `[P]`.
      like: the `[P, N]` array that gives P and the dtype.

    Returns:
      `[P, 1]`.

    Raises:
      AssertionError: if the value has another shape; it names the argument.

    Example:
      >>> per_prompt("beta", 0.5, jnp.zeros((2, 3))).tolist()
      [[0.5], [0.5]]
    """
    array = jnp.asarray(value, like.dtype)
    if array.ndim:
        chex.assert_shape(array, like.shape[:1], custom_message=name)
        return array[:, None]
    return jnp.broadcast_to(array, (like.shape[0], 1))


def _as_number(value: Numeric) -> np.ndarray:
    """A host number as float64; NaN, which no range holds, for what is none."""
    if isinstance(value, str | bytes):  # which NumPy would parse
        return np.asarray(math.nan)
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return np.asarray(math.nan)


def _spaced(note: str) -> str:
    return f" {note}" if note else ""
