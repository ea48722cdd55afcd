"""How candidates are scored."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from .. import checks
from ..rewards import TERM_NAME, RewardTerm
from ..typed import INLINE


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """The reward, a weighted sum of named terms, and the judge beside it.

    Terms stand by their names, and not in a list: `reward.length.min_words=30` sets one, in a sweep
    too, and Hydra's grammar has no word for an item of a list.

    Attributes:
      terms: by name, in tables and files; letters, digits and "_". In files and on the command
        line they stand beside the judge: `reward.NAME`.
      judge: a second score that training never sees; None for none.
    """

    terms: dict[str, RewardTerm] = field(metadata=INLINE)
    judge: RewardTerm | None

    def check(self) -> None:
        """Checks the ranges of all terms and of the judge.

        Raises:
          ConfigError: one line with the field, its value and the allowed range.
        """
        checks.check(len(self.terms) > 0, "reward", {}, "at least one term")
        for name in self.terms:
            is_name = TERM_NAME.fullmatch(name) is not None
            checks.check(is_name, "reward", name, "a name of letters, digits and '_'")
        for place, term in self._places():
            checks.check(math.isfinite(term.weight), f"{place}.weight", term.weight, "finite")
            term.check(place)

    def functions(self) -> Iterator[tuple[str, str]]:
        """Field and dotted path of the user's own functions that the settings name."""
        for place, term in self._places():
            yield from term.functions(place)

    def _places(self) -> Iterator[tuple[str, RewardTerm]]:
        """The place of every term in the settings, that of the judge last."""
        for name, term in self.terms.items():
            yield f"reward.{name}", term
        if self.judge is not None:
            yield "reward.judge", self.judge
