"""Which of two policies is better, and is it sure? Scores paired prompt by prompt.

What two policies share on a prompt (some prompts are sad) cancels in the difference of their means
on it; the interval of the mean difference draws prompts again. A claim is made only when that
interval excludes zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rsft_jax.metrics.intervals import Interval, paired_difference_interval

Verdict = Literal["above", "below", "undecided"]
"""What an interval says of zero: all of it above, all below, or neither."""


class PairedComparison(NamedTuple):
    """The mean over prompts of one policy's score minus another's.

    Attributes:
      num_prompts: prompts that both have a score for.
      first_mean: mean score of the first over these prompts; NaN where there are none.
      second_mean: the same of the second.
      difference: first minus second with its interval; NaN ends for fewer than two prompts.
    """

    num_prompts: int
    first_mean: float
    second_mean: float
    difference: Interval

    @property
    def verdict(self) -> Verdict:
        """What the interval of the difference decides."""
        return verdict(self.difference)


def verdict(difference: Interval) -> Verdict:
    """The claim that an interval bears out: zero inside it, or NaN ends, decide nothing.

    Args:
      difference: an interval, in units of the score.

    Returns:
      "above" when low > 0, "below" when high < 0, else "undecided".

    Example:
      >>> verdict(Interval(0.2, 0.1, 0.3)), verdict(Interval(0.2, -0.1, 0.5))
      ('above', 'undecided')
    """
    if difference.low > 0:
        return "above"
    return "below" if difference.high < 0 else "undecided"


def prompt_means(prompt_ids: Sequence[str], scores: ArrayLike) -> dict[str, float]:
    """The mean score of every prompt, in the order in which prompts first occur.

    Args:
      prompt_ids: `[R]` the prompt of each row; rows of one prompt need not stand together, nor
        need prompts have equally many.
      scores: `[R]`; NaN or infinite is left out.

    Returns:
      Prompt id to mean; NaN for a prompt without a score.

    Raises:
      ValueError: the two are not of one length.

    Example:
      >>> prompt_means(["a", "a", "b"], [1.0, 3.0, float("nan")])
      {'a': 2.0, 'b': nan}
    """
    rows = np.asarray(scores, dtype=np.float64)
    if rows.shape != (len(prompt_ids),):
        raise ValueError(
            f"scores must have the shape ({len(prompt_ids)},), one a prompt id, got {rows.shape}"
        )
    of_prompt: dict[str, list[float]] = {}
    for prompt, score in zip(prompt_ids, rows.tolist()):
        of_prompt.setdefault(prompt, []).append(score)
    return {prompt: _finite_mean(row) for prompt, row in of_prompt.items()}


def compare_paired(
    first: Mapping[str, float],
    second: Mapping[str, float],
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> PairedComparison:
    """The mean difference of two policies' scores over the prompts that both have.

    With the P prompts that have a finite mean on both sides, a_i and b_i,

        difference = mean_i (a_i - b_i)

    and its interval is the bootstrap's over the P differences, as `bootstrap_interval` has it. Its
    width goes with the deviation of a_i - b_i, which is smaller than that of a_i and b_i apart by
    what they share: so compare policies by it, and not by whether two intervals overlap.

    Args:
      first: prompt id to mean score, as `prompt_means` gives it.
      second: the same of what it is compared with; prompts that it lacks are left out.
      confidence: probability that the interval covers the true mean difference, in (0, 1).
      num_resamples: bootstrap samples, at least 1.
      seed: of the resampling. The same arguments give the same interval.

    Returns:
      A `PairedComparison`; 0 prompts and NaN where the two share none.

    Raises:
      ValueError: `confidence` or `num_resamples` is out of its range.

    Example:
      >>> result = compare_paired({"a": 2.0, "b": 5.0, "c": 9.0}, {"c": 8.0, "a": 1.0, "d": 7.0})
      >>> result.num_prompts, result.first_mean, result.second_mean, result.verdict
      (2, 5.5, 4.5, 'above')
      >>> result.difference
      Interval(mean=1.0, low=1.0, high=1.0)

    References:
      Koehn, Statistical significance tests for machine translation evaluation, EMNLP 2004 (paired
      bootstrap resampling); Miller, Adding error bars to evals (2024),
      https://arxiv.org/abs/2411.00640 (paired differences, questions as the unit).
    """
    prompts = [
        prompt
        for prompt, score in first.items()
        if np.isfinite(score) and np.isfinite(second.get(prompt, np.nan))
    ]
    a = np.asarray([first[prompt] for prompt in prompts])
    b = np.asarray([second[prompt] for prompt in prompts])
    difference = paired_difference_interval(a, b, confidence, num_resamples, seed)
    if not prompts:
        return PairedComparison(0, np.nan, np.nan, difference)
    return PairedComparison(len(prompts), float(a.mean()), float(b.mean()), difference)


def _finite_mean(scores: Sequence[float]) -> float:
    finite = [score for score in scores if np.isfinite(score)]
    return float(np.mean(finite)) if finite else np.nan
