"""A function of the user's own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..user_code import load_function
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Function(RewardTerm):
    """A function of a package that `allow_packages` allows.

    Attributes:
      function: dotted path of (prompts, completions) -> [P, N], such as "mylab.rewards.exact"; a
        further parameter is a column of the data.
    """

    term: Literal["function"]
    function: str

    def functions(self, place: str) -> Iterator[tuple[str, str]]:
        """The function, with its place."""
        yield f"{place}.function", self.function

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        return load_function(self.function, allowed, f"{place}.function")
