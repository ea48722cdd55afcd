"""Divides people into sets, so that nobody is in two, and as many conversations as can be stay."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

PARTS = ("proxy", "gold", "heldout")
"""What the sets are for: the reward model, the judge, and everything that is held out."""

_PASSES = 30
_ROOM = 0.65
"""Of a third of the conversations: with more, one set starves, since a third must be lost."""


def divide(pairs: Sequence[tuple[int, int]], *, seed: int = 0) -> dict[int, str]:
    """Puts each person into one of the three sets.

    A conversation can be used only where both people are in one set. People talk to many, so sets
    that are drawn by lot would keep a third of the conversations. Here everybody is moved, in turn
    and until nobody moves, to the set in which they have most conversations (label propagation),
    where it has room (0.65 of a third of all conversations, so that the sets are of like size).
    Who talked to whom is all that is looked at, and no score.

    Args:
      pairs: the people of each conversation.
      seed: of the lot that begins, and of the order of turns.

    Returns:
      The set of each person.

    References:
      Raghavan et al. 2007, "Near linear time algorithm to detect community structures in
      large-scale networks", https://arxiv.org/abs/0709.2938.
    """
    rng = np.random.default_rng(seed)
    talked: dict[int, Counter[int]] = {}
    for one, other in pairs:
        talked.setdefault(one, Counter())[other] += 1
        talked.setdefault(other, Counter())[one] += 1
    people = sorted(talked)
    part = dict(zip(people, rng.integers(len(PARTS), size=len(people)).tolist()))
    most = _ROOM * len(pairs) / len(PARTS)
    for _ in range(_PASSES):
        size = Counter(part[one] for one, other in pairs if part[one] == part[other])
        moved = False
        for person in rng.permutation(people).tolist():
            mine = part[person]
            ties = Counter[int]()
            for other, times in talked[person].items():
                ties[part[other]] += times
            free = [p for p in range(len(PARTS)) if p == mine or size[p] + ties[p] <= most]
            best = max(free, key=lambda p: (ties[p], p == mine, -p))
            if best != mine:
                size[mine] -= ties[mine]
                size[best] += ties[best]
                part[person], moved = best, True
        if not moved:
            break
    return {person: PARTS[p] for person, p in part.items()}
