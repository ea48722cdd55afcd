"""A score by a rubric, from a model that somebody else serves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..endpoints import EndpointSettings, refused
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Judge(EndpointSettings, RewardTerm):
    """What a served model says by a rubric: one line "Score: N", N from low to high.

    An answer of it that is anything else leaves the candidate unscored; see
    `rsft_jax.interop.endpoints.read_score`.

    Attributes:
      rubric: what a good completion is, in words.
      low: the least score.
      high: the largest score.
      template: of the question, with {prompt}, {completion}, {rubric}, {low}, {high}; another name
        is a column of the data. null takes the library's.
      max_new_tokens: longest answer of the judge, in its tokens.
      temperature: of its answers.
    """

    term: Literal["judge"]
    rubric: str
    low: float = 1.0
    high: float = 10.0
    template: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0

    def check(self, place: str) -> None:
        """Checks address, ranges and template; asks nothing."""
        self.check_endpoint(place)
        try:
            self.build()
        except ValueError as error:
            raise refused(error, place) from None

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.interop.endpoints import TEMPLATE, Answers
        from rsft_jax.interop.endpoints import Judge as JudgeFn

        return JudgeFn(
            answers=Answers(self.client(), None, kind="judge"),
            rubric=self.rubric,
            low=self.low,
            high=self.high,
            template=TEMPLATE if self.template is None else self.template,
            server=self.server,
            max_tokens=self.max_new_tokens,
            temperature=self.temperature,
        )
