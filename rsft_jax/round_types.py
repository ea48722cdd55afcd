"""What the parts of a round are given and give; `rsft_jax.rounds` is the round."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from rsft_jax.selection import Candidates, Selection
from rsft_jax.types import Array, PRNGKey


class ProposeFn(Protocol):
    """Draws candidates from the current policy: `(key, state, prompts) -> completions`.

    What `run_rounds` is given as `prompts` reaches it unchanged, and what it returns reaches
    `score` and `improve` unchanged. `Proposed(completions, info)` says more: the info goes into
    the report.
    """

    def __call__(self, key: PRNGKey, state: Any, prompts: Any) -> Any:
        """Draws N completions for each prompt."""
        ...


class ImproveFn(Protocol):
    """Fine-tunes: `(key, state, prompts, completions, weights[P, N]) -> (state, metrics)`.

    `weights` are 0 where a candidate was rejected and `exp(log_weight)` where it was accepted.
    """

    def __call__(
        self, key: PRNGKey, state: Any, prompts: Any, completions: Any, weights: Array
    ) -> tuple[Any, Mapping[str, Any]]:
        """Returns the new state and what there is to report."""
        ...


class Proposed(NamedTuple):
    """What a `ProposeFn` may return: completions, and whatever else it knows of them.

    Attributes:
      completions: P x N of them.
      info: goes into the report.
      log_proposal: `[P, N]` log q of whole completions in nats, where that of their tokens does not
        add up to it because it is not known; None takes the sum.
    """

    completions: Any
    info: Any
    log_proposal: Array | np.ndarray | None = None


class Scored(NamedTuple):
    """What a `ScoreFn` may return: `[P, N]` rewards, and whatever else it knows of them.

    Attributes:
      rewards: `[P, N]`, NaN where there is none.
      info: goes into the report.
      log_target: `[P, N]` log p of whole completions in nats, perhaps unnormalised, for the rules
        that compare densities (`rsft_jax.selection.density_ratio`); None where there is none.
      group: `[P]` integers, the group of each prompt, for the rules that compare groups
        (`rsft_jax.selection.balanced`); None where there is none.
      fingerprint: `[P, N]` integers, equal for completions that count as the same, for the rules
        that accept each once (`rsft_jax.selection.unique`); None where there is none.
    """

    rewards: Array | np.ndarray
    info: Any = None
    log_target: Array | np.ndarray | None = None
    group: Array | np.ndarray | None = None
    fingerprint: Array | np.ndarray | None = None


ScoreFn = Callable[[Any, Any], Array | np.ndarray | Scored]
"""Scores candidates: `(prompts, completions) -> [P, N]` rewards, NaN for what has none.

`Scored(rewards, info)` says more: the info goes into the report.
"""


class Checked(NamedTuple):
    """What a `check` may return: how far sampler and trainer disagree, and how far they may.

    Attributes:
      gap: between log-probabilities of tokens, nats.
      max_gap: the largest that is allowed.
      info: whatever else is known.
    """

    gap: float
    max_gap: float
    info: Any = None


class Info(NamedTuple):
    """What is known of a round besides its arrays; None where nothing was said.

    Attributes:
      propose: of drawing, from `Proposed`.
      score: of the rewards, from `Scored`.
    """

    propose: Any = None
    score: Any = None


class Collected(NamedTuple):
    """One round's candidates and the verdict on them.

    Attributes:
      completions: what `propose` returned.
      candidates: `[P, N]` their rewards, validity and log-probabilities.
      selection: `[P, N]` which were accepted, with weights.
      info: what `propose` and `score` said besides.
    """

    completions: Any
    candidates: Candidates
    selection: Selection
    info: Info = Info()

    @property
    def weights(self) -> Array:
        """`[P, N]` training weights: 0 where rejected, `exp(log_weight)` where accepted."""
        accepted = self.selection.accepted
        # The inner where keeps exp off the rejected entries, whose log-weight may be -inf or NaN.
        log_weight = jnp.where(accepted, self.selection.log_weight, 0.0)
        return jnp.where(accepted, jnp.exp(log_weight), 0.0)


@dataclasses.dataclass(frozen=True)
class RoundReport:
    """What one round did.

    Attributes:
      round: its number, from 1.
      state: the state after it.
      prompts: its prompts.
      collected: candidates, rewards, selection.
      metrics: what `improve` reported; empty when nothing was accepted and no update was made.
      checked: how far the log-probabilities of tokens as they were sampled and as the trainer
        computes them differ, before the update; None when no `check` was given.
      seconds: wall time of each stage.
    """

    round: int
    state: Any
    prompts: Any
    collected: Collected
    metrics: Mapping[str, Any]
    checked: Checked | None
    seconds: Mapping[str, float]

    @property
    def info(self) -> Info:
        """What `propose` and `score` said besides."""
        return self.collected.info

    @property
    def gap(self) -> float | None:
        """The gap that `check` found, in nats; None when none was given."""
        return None if self.checked is None else self.checked.gap

    @property
    def num_accepted(self) -> int:
        """How many candidates were accepted."""
        return int(np.asarray(self.collected.selection.accepted).sum())


CheckFn = Callable[[Any, Any, Any], float | Checked]
"""Compares sampler and trainer: `(state, prompts, completions) -> gap`, in nats a token."""


class CollectFn(Protocol):
    """Draws, scores and selects in its own way: `(key, state, prompts) -> Collected`."""

    def __call__(self, key: PRNGKey, state: Any, prompts: Any) -> Collected:
        """Returns one round's candidates and the verdict on them."""
        ...
