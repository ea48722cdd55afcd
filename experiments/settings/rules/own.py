"""A rule by a function of the user's own package."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ...terminal.errors import ConfigError
from .. import user_code
from . import About, BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule

_FIELD = "selection.function"


@dataclass(frozen=True, kw_only=True)
class OwnRule(BudgetedConfig):
    """A rule by a function of your own.

    Attributes:
      function: dotted path of a function (**options) -> SelectionRule.
      options: its arguments, by name.
    """

    ABOUT: ClassVar[About] = About(
        law="what your function says",
        cost="what your function keeps",
        source="your own package",
        examples=("selection=own selection.function=mylab.rules.middle allow_packages=[mylab]",),
    )
    JUDGES_EACH: ClassVar[str | None] = "if its function says so"
    rule: Literal["own"]
    function: str
    options: dict[str, bool | int | float | str]

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule that the function returns.

        Raises:
          ConfigError: it is not allowed, fails, or returns something else.
        """
        from rsft_jax.selection import SelectionRule

        make = user_code.load_function(self.function, allowed, _FIELD)
        rule = user_code.call(make, _FIELD, **self.options)
        if not isinstance(rule, SelectionRule):
            raise ConfigError(
                f"{_FIELD}: {self.function} must return a SelectionRule, got {type(rule).__name__}"
            )
        return rule

    def judges_each(self) -> bool:
        """It may: the rule itself says so once it is built."""
        return True

    def functions(self) -> Iterator[tuple[str, str]]:
        """The function."""
        yield _FIELD, self.function
