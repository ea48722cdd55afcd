"""Rules one after another, each on what those before it accepted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from ...terminal.errors import ConfigError, shown
from . import About, SelectionConfig, placed

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class Chain(SelectionConfig):
    """Accepts what all stages accept, each asked of what those before it accepted.

    Attributes:
      stages: rules with their settings, in order; what a stage does not state is that of
        configs/selection.
    """

    ABOUT: ClassVar[About] = About(
        law="that of each stage, given what the stages before it accepted",
        cost="what is left behind all stages",
        source="this project; as optax.chain does with gradients",
        examples=(
            "selection=chain 'selection.stages=[{rule: finished}, {rule: unique}, "
            "{rule: top_k, k: 2}]'",
            "selection=chain 'selection.stages=[{rule: finished}, "
            "{rule: statistical_rejection, beta: 0.5, max_reward: 1, budget: 2}]'",
        ),
    )
    PREDICTS: ClassVar[bool] = False
    rule: Literal["chain"]
    stages: tuple[SelectionConfig, ...]

    def check(self, num_candidates: int) -> None:
        """Checks each stage, and that no two of them have groups of their own."""
        if not self.stages:
            raise ConfigError("selection.stages: []; must be one rule or more")
        for i, stage in enumerate(self.stages):
            with placed(f"selection.stages[{i}]"):
                stage.check(num_candidates)
        columns = self._columns()
        if len(columns) > 1:
            raise ConfigError(
                f"selection.stages: groups by {' and '.join(map(shown, columns))}; all stages must "
                "have the same"
            )

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule; budgets are inside the stages."""
        from rsft_jax import selection

        return selection.chain(*(stage.whole(allowed) for stage in self.stages))

    def in_round(self, number: int) -> SelectionConfig:
        """With the stages of the round."""
        return replace(self, stages=tuple(stage.in_round(number) for stage in self.stages))

    def within(self) -> tuple[SelectionConfig, ...]:
        """The stages."""
        return self.stages

    def group_column(self) -> str | None:
        """The column of the stage that reads groups."""
        return next(iter(self._columns()), None)

    def functions(self) -> Iterator[tuple[str, str]]:
        """Those of the stages."""
        for i, stage in enumerate(self.stages):
            for field, function in stage.functions():
                yield field.replace("selection.", f"selection.stages[{i}].", 1), function

    def _columns(self) -> list[str]:
        columns = (stage.group_column() for stage in self.stages)
        return list(dict.fromkeys(column for column in columns if column is not None))
