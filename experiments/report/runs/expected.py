"""What share of candidates a rule is expected to accept: by its own probabilities, not its coins.

The rule is asked for them, on the rewards of candidates that are there: nothing here knows what a
rule does. JAX is imported when a rule is asked, so that a report of one run starts without it.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...settings import schema
from ...settings.typed import build
from ...terminal.errors import ConfigError

if TYPE_CHECKING:
    import jax


def predicted_rate(rewards: np.ndarray, selection: Mapping[str, Any]) -> float:
    """The expected acceptance rate of a rule on these candidates.

    A rule with a budget of b accepts E min(b, K) of a prompt, where K, the number that the rule
    before it accepts, is a sum of independent coins; its law is computed and not sampled.

    Args:
      rewards: `[P, N]`, NaN where there is no score.
      selection: settings of the rule, as in a run's `selection`.

    Returns:
      Expected accepted over scored candidates, of a schedule in its first round; NaN for a rule
      that cannot be asked: its settings are not whole or do not fit the candidates, it tosses no
      coin of each candidate's own, or it is a function of somebody's own, whose code no report
      runs.

    Example:
      >>> rule = {"rule": "threshold", "minimum": 0.5, "budget": None}
      >>> predicted_rate(np.array([[0.0, 1.0]]), rule)
      0.5
    """
    num_scored = int(np.isfinite(rewards).sum())
    if not num_scored:
        return math.nan
    try:
        settings = build(schema.SelectionConfig, selection, "selection").in_round(1)
        if any(settings.functions()) or not settings.PREDICTS:  # code of the user's own
            return math.nan
        probs = accept_probs(rewards, settings)
    except ValueError:  # ConfigError among them: a stored run may hold anything
        return math.nan
    expected = [_expected_accepted(row, getattr(settings, "budget", None)) for row in probs]
    return float(np.sum(expected) / num_scored)


def accept_probs(rewards: np.ndarray, settings: schema.SelectionConfig) -> np.ndarray:
    """The probability that a rule accepts each candidate, before its budget.

    Args:
      rewards: `[P, N]`, NaN where there is no score.
      settings: of the rule.

    Returns:
      `[P, N]` `Selection.accept_prob` of the rule; where it draws no coin, 0 or 1.
    """
    values = {name: getattr(settings, name) for name in settings.TRACED}
    numbers = {name: value for name, value in values.items() if value is not None}
    kind = dataclasses.replace(settings, **dict.fromkeys(numbers, 0.0))
    return np.asarray(_probs_of(kind)(numbers, rewards), np.float64)


def gaussian_rate(problem: Mapping[str, Any]) -> float:
    """The rate 1/M of the exact rule of the Gaussian experiment; NaN where `problem` is not whole.

    Example:
      >>> settings = {"num_inputs": 10, "curvature": 1.0, "noise": 0.1}
      >>> round(gaussian_rate({**settings, "mean": 1.0, "deviation": 0.75}), 3)
      0.239
    """
    from ...textbook.laws import log_envelope

    try:
        return math.exp(-log_envelope(build(schema.ProblemConfig, problem, "problem")))
    except ConfigError:
        return math.nan


@functools.cache
def _probs_of(kind: schema.SelectionConfig) -> "jax.stages.Wrapped":
    """`(numbers, rewards) -> accept_prob`, compiled once for all values of a rule's numbers."""
    import jax

    from rsft_jax.selection import Candidates

    @jax.jit
    def probs(numbers: Mapping[str, "jax.Array"], rewards: "jax.Array") -> "jax.Array":
        rule = dataclasses.replace(kind, **numbers).build(())
        candidates = Candidates(rewards=rewards, valid=jax.numpy.isfinite(rewards))
        return rule.select(jax.random.key(0), candidates).accept_prob  # the key draws coins alone

    return probs


def _expected_accepted(probs: np.ndarray, budget: int | None) -> float:
    """E min(budget, K), K the number of heads of independent coins `[N]`."""
    if budget is None:
        return float(probs.sum())
    law = np.zeros(budget + 1)  # of min(budget, accepted so far)
    law[0] = 1.0
    for prob in probs:
        moved = law[:-1] * prob
        law[:-1] -= moved
        law[1:] += moved
    return float(law @ np.arange(budget + 1))
