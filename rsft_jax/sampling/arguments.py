"""Checks of arguments that are numbers on the host."""

import numbers


def check_integer(name: str, value: int, minimum: int = 1) -> int:
    """Returns the value, or raises ValueError unless it is an integer >= minimum.

    >>> check_integer("num", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}; got {value!r}")
    return int(value)
