"""What lists of films are worth to users, by what they went on to like in the test period."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.generation import Prompts
from rsft_jax.metrics import (
    Interval,
    bootstrap_interval,
    catalogue_coverage,
    hits_at_k,
    ndcg_at_k,
    novelty,
    paired_difference_interval,
    top_items,
)
from rsft_jax.models import Transformer, logits_fn
from rsft_jax.types import Params

from .prompts import Row

PLACES = 10
"""K, films in a list."""

_BATCH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """What one recommender's lists are worth.

    Attributes:
      lists: `[P, K]` films.
      hits: `[P]` hit@K of each user.
      ndcg: `[P]` nDCG@K.
      novelty: `[P]` bits.
      coverage: part of the catalogue that is shown to somebody.
    """

    lists: np.ndarray
    hits: np.ndarray
    ndcg: np.ndarray
    novelty: np.ndarray
    coverage: float

    def figures(self) -> dict[str, Interval | float]:
        """Each mean with its 95 % interval over users."""
        return {
            "hit": bootstrap_interval(self.hits),
            "ndcg": bootstrap_interval(self.ndcg),
            "novelty": bootstrap_interval(self.novelty),
            "coverage": self.coverage,
        }

    def against(self, other: "Judged") -> dict[str, Interval]:
        """How much better it is than another on the same users."""
        return {
            "hit": paired_difference_interval(self.hits, other.hits),
            "ndcg": paired_difference_interval(self.ndcg, other.ndcg),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Users:
    """Users that recommenders are judged by.

    Attributes:
      rows: P rows of the prompt file.
      seen: `[P, V]` bool films that a user knows, which no list shows.
      liked: P sets of films that they liked later.
      counts: `[V]` how many of `num_known` users had rated a film before the test period.
      num_known: these users.
    """

    rows: Sequence[Row]
    seen: np.ndarray
    liked: Sequence[set[int]]
    counts: np.ndarray
    num_known: int


def users_of(rows: Sequence[Row], titles: Sequence[str], known: np.ndarray) -> Users:
    """Users from rows of the prompt file.

    Args:
      rows: P rows.
      titles: V films.
      known: `[U, V]` bool, who had rated what before the test period.
    """
    place = {title: number for number, title in enumerate(titles)}
    seen = np.zeros((len(rows), len(titles)), bool)
    for mask, row in zip(seen, rows):
        mask[[place[title] for title in row["seen"]]] = True
    return Users(
        rows=rows,
        seen=seen,
        liked=[{place[title] for title in row["liked"]} for row in rows],
        counts=known.sum(axis=0),
        num_known=len(known),
    )


def judge(scores: np.ndarray, users: Users) -> Judged:
    """What the lists of the best-scored films are worth; films that a user knows are left out.

    Args:
      scores: `[P, V]`.
      users: P users.
    """
    lists = top_items(scores, PLACES, users.seen)
    return Judged(
        lists=lists,
        hits=hits_at_k(lists, users.liked),
        ndcg=ndcg_at_k(lists, users.liked),
        novelty=novelty(lists, users.counts, users.num_known),
        coverage=catalogue_coverage(lists, scores.shape[1]),
    )


def film_log_probs(model: Transformer, params: Params, histories: Prompts) -> np.ndarray:
    """`[P, V]` log-probability in nats of each film as the next one, by the policy as it is.

    The token that begins a history is no film: what is left is normalised again.
    """
    call = jax.jit(logits_fn(model).logits_at)  # pyright: ignore[reportAttributeAccessIssue]
    tokens, lengths = np.asarray(histories.tokens), np.asarray(histories.lengths)
    found = []
    for start in range(0, len(tokens), _BATCH):
        some, last = tokens[start : start + _BATCH], lengths[start : start + _BATCH, None] - 1
        empty = _BATCH - len(some)  # one shape, one compilation
        some, last = np.pad(some, ((0, empty), (0, 0))), np.pad(last, ((0, empty), (0, 0)))
        positions = np.broadcast_to(np.arange(some.shape[1]), some.shape)
        logits = call(params, jnp.asarray(some), jnp.asarray(positions), jnp.asarray(last))
        log_probs = jax.nn.log_softmax(logits[:, 0, 1:])
        found.append(np.asarray(log_probs, np.float64)[: _BATCH - empty])
    return np.concatenate(found)


def expected_reward(log_probs: np.ndarray, users: Users) -> np.ndarray:
    """`[P]` the probability that a film drawn from the policy is liked: its mean reward."""
    return np.array([np.exp(row[list(liked)]).sum() for row, liked in zip(log_probs, users.liked)])


def known_share(log_probs: np.ndarray, users: Users) -> float:
    """The mean probability of drawing a film that the user knows, which can earn nothing."""
    return float(np.where(users.seen, np.exp(log_probs), 0.0).sum(axis=1).mean())


def shown(figures: Mapping[str, Interval | float], name: str) -> str:
    """A figure with its interval, as tables show it.

    >>> shown({"hit": Interval(0.25, 0.2, 0.3)}, "hit")
    '0.250 [0.200, 0.300]'
    """
    value = figures[name]
    if isinstance(value, Interval):
        return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
    return f"{value:.3f}"
