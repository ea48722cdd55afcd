"""Rules: (**options) -> SelectionRule."""

from rsft_jax.selection import SelectionRule, threshold


def at_least(minimum: float = 0.0) -> SelectionRule:
    """What reaches a reward."""
    return threshold(minimum)


def broken() -> int:
    """Returns no rule."""
    return 3
