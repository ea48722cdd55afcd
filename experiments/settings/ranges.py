"""The ranges of a reward's settings; those of all other settings stand beside their fields."""

import math
import re

from .checks import at_least as _at_least
from .checks import check as _check
from .checks import not_negative as _not_negative
from .schema import RewardConfig

_TERM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")


def validate_reward(reward: RewardConfig) -> None:
    """Checks the ranges of a reward's settings.

    Raises:
      ConfigError: one line with the field, its value and the allowed range.
    """
    for name in ("sentiment", "offensive", "repetition", "length"):
        _not_negative(f"reward.{name}", getattr(reward, name))
    _at_least("reward.min_words", reward.min_words, 0)
    _check(
        reward.max_words >= max(reward.min_words, 1),
        "reward.max_words",
        reward.max_words,
        f"at least reward.min_words = {reward.min_words}, and at least 1",
    )
    taken = {"sentiment", "offensive", "repetition", "length"}
    for number, term in enumerate(reward.functions):
        field = f"reward.functions[{number}]"
        is_new = _TERM_NAME.fullmatch(term.name) is not None and term.name not in taken
        _check(is_new, f"{field}.name", term.name, "a name of its own, letters, digits and '_'")
        _check(math.isfinite(term.weight), f"{field}.weight", term.weight, "finite")
        taken.add(term.name)
