"""Ranges of settings: each check says which field is wrong, its value, and what would be right."""

import math
import re
from pathlib import Path
from typing import Any

from ..terminal.errors import ConfigError, shown
from .typed import build

FRACTION = "at least 0 and below 1"
PLAIN_NAME = "1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"
SEED = "from 0 to 4294967295"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check(is_right: bool, name: str, value: object, allowed: str) -> None:
    """Refuses a value.

    Args:
      is_right: whether it may be.
      name: of its field, dotted.
      value: of the field.
      allowed: what it must be.

    Raises:
      ConfigError: one line with all three.

    >>> check(3 >= 1, "training.epochs", 3, "at least 1")
    """
    if not is_right:
        raise ConfigError(f"{name}: {shown(value)}; must be {allowed}")


def at_least(name: str, value: float, minimum: float) -> None:
    """Refuses what is below a minimum."""
    check(value >= minimum, name, value, f"at least {minimum}")


def positive(name: str, value: float, alternative: str = "") -> None:
    """Refuses what is not above 0 and finite; `alternative` names what else may stand there."""
    check(value > 0 and math.isfinite(value), name, value, f"above 0 and finite{alternative}")


def not_negative(name: str, value: float) -> None:
    """Refuses what is below 0 or not finite."""
    check(value >= 0 and math.isfinite(value), name, value, "at least 0 and finite")


def inside(name: str, value: float, low: float, high: float) -> None:
    """Refuses what is not between two ends, which are left out themselves."""
    check(low < value < high, name, value, f"between {low} and {high}, neither included")


def plain_name(name: str, value: str) -> None:
    """Refuses what could not be the name of a folder anywhere."""
    check(_PLAIN_NAME.fullmatch(value) is not None, name, value, PLAIN_NAME)


def seed(name: str, value: int) -> None:
    """Refuses what is no 32-bit seed."""
    check(0 <= value < 2**32, name, value, SEED)


def is_path(text: str) -> bool:
    """Whether a text can be a path, and be written to a file of settings."""
    is_unicode = not any("\ud800" <= character <= "\udfff" for character in text)
    return bool(text.strip()) and "\0" not in text and is_unicode


def folder(name: str, value: Any) -> Path | None:
    """Types and checks a setting that is the path of a folder; None for null.

    Raises:
      ConfigError: it is no text, or none that names a folder.
    """
    text = build(str | None, value, name)
    if text is None:
        return None
    check(is_path(text), name, text, "the path of a folder")
    return Path(text)
