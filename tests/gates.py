"""Statistical gates: does a sample follow a law that is known exactly?

One gate has three parts that share a false-alarm probability of 2e-8 (1e-6 over fifty gates):

- G1: an exact two-sided binomial test of each cell, Bonferroni over the cells, 1e-8 together;
- G2: total variation against McDiarmid's bound, 5e-9;
- G3: chi-squared at nominal 1e-10, cells merged until each expects 100 or more.

A cell of probability 0 must stay empty; that is a fact and not a test. Every statistical test
also feeds the gate a planted mutant with `assert_rejects`, so that it is known to be able to fail.
"""

import itertools
import math

import numpy as np
from scipy import stats

DEFAULT_DRAWS = 200_000
SLOW_DRAWS = 1_000_000


def failures(counts, probs) -> list[str]:
    """What speaks against `counts` having come from `probs`; empty if nothing does."""
    counts, probs = np.asarray(counts, np.int64), np.asarray(probs, np.float64)
    assert counts.shape == probs.shape, (counts.shape, probs.shape)
    counts, probs = counts.ravel(), probs.ravel()
    np.testing.assert_allclose(probs.sum(), 1, atol=1e-6)
    probs = probs / probs.sum()
    found = []
    impossible = counts[probs == 0].sum()
    if impossible:
        found.append(f"{impossible} draws in cells of probability 0")
    counts, probs = counts[probs > 0], probs[probs > 0]
    number, cells = counts.sum(), len(probs)
    low = stats.binom.cdf(counts, number, probs)
    high = stats.binom.sf(counts - 1, number, probs)
    p_cell = np.minimum(1, 2 * np.minimum(low, high)).min()
    if p_cell < 1e-8 / cells:
        found.append(f"G1: a cell at p = {p_cell:.1e}")
    tv = 0.5 * np.abs(counts / number - probs).sum()
    bound = tv_bound(cells, number)
    if tv > bound:
        found.append(f"G2: TV {tv:.4f} > {bound:.4f}")
    merged = _merge(counts, probs * number)
    if len(merged) > 1:
        seen, expected = np.array(merged).T
        p_all = stats.chi2.sf(((seen - expected) ** 2 / expected).sum(), len(merged) - 1)
        if p_all < 1e-10:
            found.append(f"G3: chi-squared at p = {p_all:.1e}")
    return found


def tv_bound(cells, number):
    """Total variation that `number` draws exceed with probability 5e-9 (McDiarmid)."""
    return 0.5 * math.sqrt(cells / number) + math.sqrt(math.log(2e8) / (2 * number))


def assert_law(counts, probs):
    """The gate."""
    found = failures(counts, probs)
    assert not found, found


def assert_rejects(counts, probs):
    """The mutant must not pass the gate."""
    assert failures(counts, probs), "the gate did not see the planted mutant"


def assert_rate(count, number, prob, alarm=2e-8):
    """Exact two-sided binomial test of one count."""
    assert rate_p_value(count, number, prob) >= alarm, (count, number, prob)


def rate_p_value(count, number, prob) -> float:
    """The two-sided p-value of `count` among `number` at probability `prob`."""
    low = stats.binom.cdf(int(count), int(number), prob)
    high = stats.binom.sf(int(count) - 1, int(number), prob)
    return float(min(1, 2 * min(low, high)))


def mean_error(values, expected) -> float:
    """How many standard errors the mean of `values` lies from `expected`."""
    values = np.asarray(values, np.float64)
    return abs(values.mean() - expected) / (values.std() / math.sqrt(values.size))


def count_cells(values, cells) -> np.ndarray:
    """Counts of 0 .. cells-1; anything else is an error."""
    values = np.asarray(values).ravel()
    assert values.size == 0 or (values.min() >= 0 and values.max() < cells), "values out of range"
    return np.bincount(values, minlength=cells)


class ToyModel:
    """T53: five tokens, three places; every law by enumeration in float64.

    `rows[l]` has shape `[5] * l + [5]`: the next-token law after each prefix of length l.
    `joint` has shape `[5, 5, 5]`.
    """

    vocab_size, length = 5, 3

    def __init__(self, seed, mixed=True):
        rng = np.random.default_rng(seed)
        self.rows = []
        for place in range(self.length):
            logits = rng.standard_normal((self.vocab_size,) * (place + 1))
            probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            self.rows.append(0.85 * probs + 0.03 if mixed else probs)
        first, second, third = self.rows
        self.joint = first[:, None, None] * second[:, :, None] * third

    def next_law(self, prefix):
        """The law after a prefix."""
        return self.rows[len(prefix)][tuple(prefix)]

    def strings(self):
        """All strings, in the order of `joint.ravel()`."""
        return itertools.product(range(self.vocab_size), repeat=self.length)


def _merge(counts, expected):
    """Cells merged in rising order of expectation until each expects 100."""
    merged, seen, hoped = [], 0, 0.0
    for i in np.argsort(expected):
        seen, hoped = seen + counts[i], hoped + expected[i]
        if hoped >= 100:
            merged.append((seen, hoped))
            seen, hoped = 0, 0.0
    if hoped and merged:
        merged[-1] = (merged[-1][0] + seen, merged[-1][1] + hoped)
    return merged
