"""Selection rules of the command line, a file each: its settings, their ranges, and the rule.

A rule is added by a file in this folder, with a dataclass that extends `SelectionConfig` and has
its name as `rule: Literal["mine"]`, and by a YAML file that states its values, in
configs/selection/ or in a folder of your own (`-cd`):

    @dataclass(frozen=True, kw_only=True)
    class Mine(SelectionConfig):
        ABOUT = About(
            law="q(y) 1[r(y) >= width] / Z",
            cost="as many as reach it",
            source="nobody yet",
            examples=("selection=mine selection.width=0.5",),
        )
        rule: Literal["mine"]
        width: float

        def build(self, allowed=()):
            from rsft_jax import selection

            return selection.threshold(self.width)

The library is imported when a rule is built and not before: help and completion read these
settings, too.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from ...terminal.errors import ConfigError
from .. import checks
from ..typed import Open

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


class About(NamedTuple):
    """What `rsft rules` says of a rule, besides what the rule itself knows.

    Attributes:
      law: what an accepted candidate follows, or what is tended to; q is the law of the draws, r
        the reward, Z a constant.
      cost: how many of N candidates of a prompt are kept.
      source: who published it, with year and place.
      examples: settings, one for each law that the rule can have.
    """

    law: str
    cost: str
    source: str
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Open):
    """Which candidates are accepted.

    Attributes:
      rule: the name of the rule.
    """

    FOLDER: ClassVar[str] = "settings.rules"
    ABOUT: ClassVar[About]
    JUDGES_EACH: ClassVar[str | None] = None
    """When the rule judges each candidate by itself, in words behind its name; None for never."""
    TRACED: ClassVar[tuple[str, ...]] = ()
    """Fields whose numbers the rule also takes as arrays, so that all share one compilation."""
    PREDICTS: ClassVar[bool] = True
    """Whether `Selection.accept_prob` is that of a coin of each candidate's own (or 0 or 1)."""
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

    def whole(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, with its budget as a rule of its own behind it."""
        from rsft_jax import selection

        rule, budget = self.build(allowed), self.limit()
        return rule if budget is None else selection.chain(rule, selection.at_most(budget))

    def in_round(self, number: int) -> "SelectionConfig":
        """The settings of a round, counted from 1; the same for all but a schedule."""
        del number
        return self

    def within(self) -> "tuple[SelectionConfig, ...]":
        """The rules that this one is made of, in order; the i-th draws from `fold_in(key, i)`."""
        return ()

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


@contextlib.contextmanager
def placed(place: str) -> Iterator[None]:
    """Lets errors of a rule's settings name the place of the rule, as `selection.inner`.

    Raises:
      ConfigError: as raised within, with the field's full name.
    """
    try:
        yield
    except ConfigError as error:
        text = str(error)
        if text.startswith("selection."):
            text = f"{place}.{text.removeprefix('selection.')}"
        raise ConfigError(text) from None


def _judging_each() -> str:
    """The rules that judge each candidate by itself, each as its own file says when."""
    variants = SelectionConfig.variants().items()
    names = [
        f"{name} {rule.JUDGES_EACH}".strip()
        for name, rule in variants
        if rule.JUDGES_EACH is not None
    ]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
