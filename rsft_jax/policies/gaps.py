"""How far the sampler and the trainer disagree about a policy, and how far rounding lets them.

Both compute log p(token | what stands before it), the sampler token by token with a cache, the
trainer over whole sequences. What they may differ by depends on the dtype, the backend and the
model, so it is measured: the trainer computes the same tokens once more in float32. Sampler and
trainer may each be off by that much, and the largest of a few hundred roundings is not the largest
of all: `max_gap` is four times the rounding, and never below `FLOOR`.

A law that is cut (top-k, top-p, min-p, greedy) is not continuous: at the edge of the cut rounding
takes a token in for one and leaves it out for the other, to whom it then has probability 0. So the
gap of a cut law is not the largest difference but the 95 % quantile; a wrong cache or a wrong
position moves nearly all tokens, not one in twenty.
"""

from typing import NamedTuple

import numpy as np

from rsft_jax.generation import SamplingParams

FLOOR = 1e-2  # nats; a hundred times what float32 gives
_QUANTILE_OF_CUT_LAWS = 0.95


class TokenGaps(NamedTuple):
    """What is known of the tokens that were checked.

    Attributes:
      differences: `[K]` |log p(sampler) - log p(trainer)| of each token, nats; infinite where the
        token has probability 0 for the trainer.
      rounding: the quantile of |log p(trainer) - log p(trainer in float32)|, nats; None where it
        was not measured, the gap being below `FLOOR`.
    """

    differences: np.ndarray
    rounding: float | None = None

    def figures(self) -> dict[str, float | None]:
        """The distribution of the differences, for an event or a log."""
        some = self.differences if self.differences.size else np.zeros(1)
        quantiles = {"median": 0.5, "p90": 0.9, "p99": 0.99, "largest": 1.0}
        return {
            **{f"gap_{name}": quantile(some, at) for name, at in quantiles.items()},
            "gap_outside": float(np.isinf(some).mean()),
            "gap_rounding": self.rounding,
        }


def differences(ours: np.ndarray, theirs: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """`[K]` absolute differences of `[...]` log-probabilities where `inside`; 0 for -inf twice.

    >>> differences(np.array([-1.0, -np.inf]), np.array([-1.5, -np.inf]), np.array([True, True]))
    array([0.5, 0. ])
    """
    ours, theirs = np.asarray(ours, np.float64)[inside], np.asarray(theirs, np.float64)[inside]
    with np.errstate(invalid="ignore"):
        return np.where(ours == theirs, 0.0, np.abs(ours - theirs))


def statistic(values: np.ndarray, sampling: SamplingParams) -> float:
    """What of the differences is the gap: the largest, of a cut law the 95 % quantile."""
    return quantile(values, _QUANTILE_OF_CUT_LAWS if is_cut(sampling) else 1.0)


def allowed(rounding: float) -> float:
    """The largest gap that rounding of this size can explain, nats."""
    return max(FLOOR, 4 * rounding)


def quantile(values: np.ndarray, at: float) -> float:
    """The smallest value that at least this part does not exceed; infinities are values, too.

    >>> quantile(np.array([0.0, np.inf, 1.0, 2.0]), 0.75), quantile(np.zeros(0), 1.0)
    (2.0, 0.0)
    """
    if not values.size:
        return 0.0
    if np.isnan(values).any():
        return float("nan")
    return float(np.sort(values)[max(0, int(np.ceil(at * values.size)) - 1)])


def is_cut(sampling: SamplingParams) -> bool:
    """Whether tokens of the policy have probability 0 under the law because of others."""
    return (
        sampling.temperature == 0 or sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
    )
