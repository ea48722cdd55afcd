"""Where a reward goes on rising and a judge that training never sees has turned down."""

from __future__ import annotations

import math
from collections.abc import Sequence


def judge_turned(
    rewards: Sequence[float], judges: Sequence[float], patience: int = 1
) -> int | None:
    """The round after which the judge fell while the reward rose, once that is plain.

    Round b is the first with the highest judge J. The last round t is past the turn if

        t - b >= patience   and   R_t > R_b

    that is, the judge has not got above J_b for `patience` rounds, and the reward is higher than it
    was then: what was gained since is the reward model's own, or noise. With patience 1 a single
    round decides; the figures are means over prompts, whose intervals say how much that is worth.
    A judge that fell with the reward is no turn, and one that stayed level is.

    Args:
      rewards: R, held-out means by round, the first of the untuned policy.
      judges: J of the same rounds. A round of which either is NaN is left out of the comparison.
      patience: rounds, at least 1.

    Returns:
      b, a place in the sequences; None where there is no such turn.

    Raises:
      ValueError: the sequences are of two lengths, or `patience` is below 1.

    Example:
      >>> judge_turned([0.1, 0.3, 0.5], [0.2, 0.4, 0.3])
      1
      >>> judge_turned([0.1, 0.3, 0.5], [0.2, 0.4, 0.3], patience=2)

    References:
      Gao et al. 2023, "Scaling laws for reward model overoptimization",
      https://arxiv.org/abs/2210.10760: the judge's curve over KL rises and turns; Prechelt 1998,
      "Early stopping - but when?", for patience.
    """
    if len(rewards) != len(judges):
        raise ValueError(
            f"rewards and judges must be of the same rounds, got {len(rewards)} and {len(judges)}"
        )
    if patience < 1:
        raise ValueError(f"patience must be at least 1, got {patience}")
    known = [
        place
        for place, (reward, judge) in enumerate(zip(rewards, judges))
        if math.isfinite(reward) and math.isfinite(judge)
    ]
    if not known:
        return None
    best = max(known, key=lambda place: (judges[place], -place))
    last = known[-1]
    return best if last - best >= patience and rewards[last] > rewards[best] else None
