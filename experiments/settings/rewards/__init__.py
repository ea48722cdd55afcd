"""Terms that a reward can be made of, a file each: its settings, their ranges, and its function.

A kind of term is added by a file in this folder, with a dataclass that extends `RewardTerm` and has
its name as `term: Literal["mine"]`, and by a line of YAML in a file of configs/reward/, in a folder
of your own (`-cd`), or on the command line (`reward.NAME={term: mine, weight: 1.0, words: 3}`):

    @dataclass(frozen=True, kw_only=True)
    class Mine(RewardTerm):
        term: Literal["mine"]
        words: int

        def build(self, allowed=(), place=""):
            from rsft_jax.rewards import from_text_score

            return from_text_score(lambda text: float(len(text.split()) == self.words))

The judge, which training never sees, is a term like the others. The library is imported when a term
is built and not before: help and completion read these settings, too.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..typed import Open

TERM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")


@dataclass(frozen=True, kw_only=True)
class RewardTerm(Open):
    """One term of a reward, or the judge.

    Attributes:
      term: the kind of term.
      weight: of the term in the sum; negative for a penalty. The judge's score is multiplied by it.
      PATHS: settings of the term that are paths.
    """

    FOLDER: ClassVar[str] = "settings.rewards"
    PATHS: ClassVar[tuple[str, ...]] = ()
    term: str
    weight: float

    def check(self, place: str) -> None:
        """Checks the ranges of the term's own settings.

        Args:
          place: of the term in the settings, such as "reward.length", for errors.

        Raises:
          ConfigError: one line with the field, its value and the allowed range.
        """

    def functions(self, place: str) -> Iterator[tuple[str, str]]:
        """Field and dotted path of the user's own functions that the settings name."""
        yield from ()

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function.

        Args:
          allowed: the user's own packages whose functions may be called.
          place: of the term in the settings, for errors.

        Returns:
          A function of P prompts and P rows of N completions, and of the prompts' columns that its
          parameters name; see `rsft_jax.rewards.Term`.
        """
        raise NotImplementedError
