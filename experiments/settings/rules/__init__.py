"""Selection rules of the command line, a file each: its settings, their ranges, and the rule.

A rule is added by a file in this folder, with a dataclass that extends `SelectionConfig` and has
its name as `rule: Literal["mine"]`, and by a YAML file that states its values, in
configs/selection/ or in a folder of your own (`-cd`):

    @dataclass(frozen=True, kw_only=True)
    class Mine(SelectionConfig):
        rule: Literal["mine"]
        width: float

        def build(self, allowed=()):
            from rsft_jax import selection

            return selection.threshold(self.width)

The library is imported when a rule is built and not before: help and completion read these
settings, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...terminal.errors import ConfigError
from .. import checks
from ..typed import Open

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Open):
    """Which candidates are accepted.

    Attributes:
      rule: the name of the rule.
    """

    FOLDER: ClassVar[str] = "settings.rules"
    JUDGES_EACH: ClassVar[str | None] = None
    """When the rule judges each candidate by itself, in words behind its name; None for never."""
    rule: str

    def check(self, num_candidates: int) -> None:
        """Checks the ranges of the settings.

        Args:
          num_candidates: N, candidates of a prompt.

        Raises:
          ConfigError: one line with the field, its value and the allowed range.
        """

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, without its budget.

        Args:
          allowed: the user's own packages whose functions may be called.
        """
        raise NotImplementedError

    def limit(self) -> int | None:
        """The budget: how many of the candidates that are accepted a prompt keeps; None for all."""
        return None

    def judges_each(self) -> bool:
        """Whether each candidate is judged by itself, by what the settings tell.

        Only then can drawing for a prompt stop once its budget is accepted.
        """
        return False

    def group_column(self) -> str | None:
        """The column of the prompts that names their group, for a rule that reads it; else None."""
        return None

    def functions(self) -> Iterator[tuple[str, str]]:
        """Field and dotted path of the user's own functions that the settings name."""
        yield from ()

    def check_early_stop(self) -> None:
        """Checks that drawing for a prompt can stop once enough is accepted.

        Raises:
          ConfigError: it cannot.
        """
        if not self.judges_each():
            raise ConfigError(
                f"sampling.early_stop: true; selection.rule: {self.rule} must see all candidates "
                f"of a prompt; those that judge each by itself are {_judging_each()}"
            )
        if self.limit() is None:
            raise ConfigError(
                "sampling.early_stop: true; needs selection.budget, the number of accepted "
                "candidates that is enough for a prompt"
            )


@dataclass(frozen=True, kw_only=True)
class CountedConfig(SelectionConfig):
    """A rule that accepts k candidates of each prompt.

    Attributes:
      k: from 1 to sampling.num_candidates.
    """

    k: int

    def check(self, num_candidates: int) -> None:
        """Checks k."""
        allowed = f"from 1 to sampling.num_candidates = {num_candidates}"
        checks.check(1 <= self.k <= num_candidates, "selection.k", self.k, allowed)


@dataclass(frozen=True, kw_only=True)
class BudgetedConfig(SelectionConfig):
    """A rule behind which a budget stands.

    Attributes:
      budget: at most so many accepted for each prompt; null for no limit.
    """

    budget: int | None

    def check(self, num_candidates: int) -> None:
        """Checks the budget."""
        allowed = f"from 1 to sampling.num_candidates = {num_candidates}, or null"
        is_right = self.budget is None or 1 <= self.budget <= num_candidates
        checks.check(is_right, "selection.budget", self.budget, allowed)

    def limit(self) -> int | None:
        """The budget."""
        return self.budget


def _judging_each() -> str:
    """The rules that judge each candidate by itself, each as its own file says when."""
    variants = SelectionConfig.variants().items()
    names = [
        f"{name} {rule.JUDGES_EACH}".strip()
        for name, rule in variants
        if rule.JUDGES_EACH is not None
    ]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
