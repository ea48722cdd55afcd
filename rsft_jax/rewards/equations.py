"""Whether the sums that a text states are true: a judge of the working, not of the answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rsft_jax.rewards.texts import from_text_score

if TYPE_CHECKING:
    from rsft_jax.types import RewardFn

_EQUATION = re.compile(r"(-?[0-9]{1,18})([-+])([0-9]{1,18})=(-?[0-9]{1,18})")


def equations() -> RewardFn:
    """1 for a text that is equations with blanks between them, all of them true; 0 for any other.

    An equation is `a+b=c` or `a-b=c` of integers in digits. The prompt is not read, and no answer
    of the data: a working can be right and answer another question. Beside `answer` it tells a
    right answer by wrong steps from one by right ones.

    >>> equations()(["12+34-5"], [["12+34=46 46-5=41", "12+34=45 46-5=41", "41"]])
    array([[1., 0., 0.]])
    """

    def score(text: str) -> float:
        found = [_EQUATION.fullmatch(word) for word in text.split()]
        return float(bool(found) and all(one is not None and _is_true(one) for one in found))

    return from_text_score(score)


def _is_true(equation: re.Match[str]) -> bool:
    left, sign, right, result = equation.groups()
    return int(left) + int(sign + right) == int(result)
