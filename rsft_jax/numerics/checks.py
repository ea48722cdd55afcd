"""Checks of arguments that are numbers on the host."""

import math
import numbers
from typing import Literal

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

    >>> check_integer("num", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}{_spaced(note)}; got {value!r}")
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
        raise ValueError(f"{name} must be {kind}{bound}; got {value!r}")


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
        raise ValueError(f"{name} must be in {interval}{_spaced(note)}; got {value!r}")


def check_vocabulary(name: str, logits: Array) -> None:
    """Raises ValueError unless the last axis of the logits is a vocabulary of one token or more."""
    if not logits.shape or not logits.shape[-1]:
        raise ValueError(f"{name} must be [..., V] with V >= 1; got shape {logits.shape}")


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
