"""pass@k and maj@k of prompts from N candidates each that are there already: no draw is added.

Letters: P prompts, N candidates per prompt, n of them judged, c of these correct.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import ArrayLike

_NUMBER = re.compile(
    r"[-+\u2212]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,4}(?![0-9]))?"
)


def pass_at_k(verdicts: ArrayLike, k: int) -> np.ndarray:
    """The probability that at least one of k candidates of a prompt is correct, unbiased.

    Of the n candidates with a verdict, c are correct; over all subsets of k of them

        pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n - c + 1}^{n} (1 - k / i),

    whose expectation over draws is 1 - (1 - p)^k for a prompt of pass rate p. The product is what
    is computed: the binomials overflow. (1 - (1 - c / n)^k is biased downwards.) The mean over
    prompts has its interval from `bootstrap_interval`.

    Args:
      verdicts: `[P, N]` bool, or 1 and 0; NaN where a candidate has no verdict.
      k: candidates asked for, at least 1.

    Returns:
      `[P]` float64; NaN for a prompt with fewer than k verdicts.

    Raises:
      ValueError: verdicts of another shape, or neither 0 nor 1; k is below 1.

    Example:
      >>> pass_at_k([[1, 0, 0, 0], [1, 1, 0, np.nan]], 2)  # 1 - 3/6; 1 - 0/3
      array([0.5, 1. ])

    References:
      Chen et al., Evaluating large language models trained on code (2021),
      https://arxiv.org/abs/2107.03374, equation 1 and figure 3.
    """
    rows = np.asarray(verdicts, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"verdicts must have the shape [P, N], got {rows.shape}")
    if not np.isin(rows[~np.isnan(rows)], (0.0, 1.0)).all():
        raise ValueError("verdicts must be 1 (correct), 0 (wrong) or NaN (no verdict)")
    _check_k(k)
    judged, correct = (~np.isnan(rows)).sum(axis=1), np.nansum(rows, axis=1)
    i = np.arange(1, rows.shape[1] + 1)
    factors = np.where((i > (judged - correct)[:, None]) & (i <= judged[:, None]), 1.0 - k / i, 1.0)
    # Where i < k takes part, so does i = k, whose factor is 0: every subset has a correct one.
    none_right = np.prod(factors, axis=1)
    return np.where(judged >= k, 1.0 - none_right, np.nan)


def majority_at_k(
    answers: Sequence[Sequence[Hashable | None]],
    verdicts: ArrayLike,
    k: int,
    *,
    num_subsets: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """The probability that the most frequent answer of k candidates of a prompt is correct.

    Over a subset of k candidates drawn without replacement, with a tie between answers broken by a
    fair coin: of t answers that are the most frequent, r of them correct, the subset counts r / t,
    which is the expectation over the coin. A candidate without an answer (None) casts no vote, and
    a subset without votes counts 0. Exact at k = n, where there is one subset, at k = 1, and where
    there are no more subsets than `num_subsets`; else the mean over that many at random, whose
    error, at most 0.5 / sqrt(num_subsets) a prompt, is far below that of drawing prompts.

    Args:
      answers: P rows of N answers; equal means the same answer.
      verdicts: `[P, N]` 1 or 0 as in `pass_at_k`; NaN takes a candidate out. An answer is correct
        with the mean verdict of the candidates that give it: a verifier may judge equal answers
        apart.
      k: candidates that vote, at least 1.
      num_subsets: subsets per prompt at most, at least 1.
      seed: of the subsets.

    Returns:
      `[P]` float64; NaN for a prompt with fewer than k verdicts.

    Raises:
      ValueError: answers and verdicts differ in shape, or an option is out of its range.

    Example:
      >>> majority_at_k([["4", "4", "5"], ["4", "5", None]], [[1, 1, 0], [1, 0, 0]], 3)
      array([1. , 0.5])

    References:
      Wang et al., Self-consistency improves chain of thought reasoning (2022),
      https://arxiv.org/abs/2203.11171, section 2; maj@k of Lewkowycz et al., Minerva (2022).
    """
    rows = np.asarray(verdicts, dtype=np.float64)
    shape = (len(answers), len(answers[0]) if answers else 0)
    if rows.shape != shape or any(len(row) != shape[1] for row in answers):
        raise ValueError(
            f"verdicts must have the shape of the answers, {shape}, in equal rows, got {rows.shape}"
        )
    _check_k(k)
    if num_subsets < 1:
        raise ValueError(f"num_subsets must be at least 1, got {num_subsets}")
    out = np.full(len(rows), np.nan)
    for i, (own, judged) in enumerate(zip(answers, rows)):
        there = np.flatnonzero(~np.isnan(judged)).tolist()
        if len(there) >= k:
            votes = [(own[j], judged[j]) for j in there]
            out[i] = _majority(votes, k, num_subsets, np.random.default_rng((seed, i)))
    return out


def last_number(text: str) -> str | None:
    """The last number of a text in one spelling, the usual answer of a worked sum.

    A sign counts where no digit or letter stands before it (`5-3` ends with 3), commas part
    thousands, a full stop behind it ends the sentence. Spelled without a plus sign, leading zeros,
    zeros at the end of a fraction or an exponent: `+1,200.50` and `1.2005e3` are `1200.5`.

    Returns:
      The number; None where there is none.

    Example:
      >>> last_number("So 3 + 4 = 7.0."), last_number("It is -1,200 in all"), last_number("None")
      ('7', '-1200', None)
    """
    found = None
    for match in _NUMBER.finditer(text):
        word = match.group()
        before = text[match.start() - 1 : match.start()]
        if word[0] in "+-\u2212" and before.isalnum():
            word = word[1:]
        found = word
    return None if found is None else _spelled(found)


def _majority(
    votes: Sequence[tuple[Hashable | None, float]],
    k: int,
    num_subsets: int,
    rng: np.random.Generator,
) -> float:
    """The mean over subsets of k of the share of correct answers among the most frequent."""
    verdicts: dict[Hashable, list[float]] = {}
    for answer, verdict in votes:
        verdicts.setdefault(answer, []).append(verdict)
    right = {answer: float(np.mean(own)) for answer, own in verdicts.items()}
    if math.comb(len(votes), k) <= num_subsets:
        subsets = itertools.combinations(range(len(votes)), k)
    else:
        subsets = (rng.choice(len(votes), k, replace=False) for _ in range(num_subsets))
    return float(np.mean([_vote([votes[j][0] for j in subset], right) for subset in subsets]))


def _vote(answers: Sequence[Hashable | None], right: dict[Hashable, float]) -> float:
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    return float(np.mean([right[answer] for answer, count in counts.items() if count == most]))


def _spelled(word: str) -> str:
    sign, digits, exponent = Decimal(word.replace(",", "").replace("\u2212", "-")).as_tuple()
    if not any(digits):
        return "0"
    kept = len(digits) - next(i for i, d in enumerate(reversed(digits)) if d)
    value = Decimal((sign, digits[:kept], int(exponent) + len(digits) - kept))
    return f"{value:f}" if abs(value.adjusted()) < 50 else str(value)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
