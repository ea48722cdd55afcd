"""What a round trains on: the sequences it accepted, and some that earlier rounds accepted."""

from typing import NamedTuple

import numpy as np

from rsft_jax.generation import Completions, Prompts
from rsft_jax.rollouts import RolloutStore
from rsft_jax.training.batches import draw_old
from rsft_jax.types import Array, PRNGKey


class Sequences(NamedTuple):
    """Sequences to train on.

    Attributes:
      prompts: token ids of each prompt.
      completions: token ids of each completion.
      weights: above 0.
      log_probs: of the completion's tokens under the law that drew them, in nats.
    """

    prompts: list[np.ndarray]
    completions: list[np.ndarray]
    weights: np.ndarray
    log_probs: list[np.ndarray]

    def take(self, places: np.ndarray) -> "Sequences":
        """Those at these places."""
        return Sequences(
            prompts=[self.prompts[i] for i in places],
            completions=[self.completions[i] for i in places],
            weights=self.weights[places],
            log_probs=[self.log_probs[i] for i in places],
        )


def accepted_now(prompts: Prompts, completions: Completions, weights: Array) -> Sequences:
    """Every completion of a round with a weight above 0."""
    kept = np.argwhere(np.asarray(weights) > 0)
    tokens, log_probs = np.asarray(completions.tokens), np.asarray(completions.log_probs)
    lengths = np.asarray(completions.lengths)
    return Sequences(
        prompts=[prompts.tokens[i, : prompts.lengths[i]] for i, _ in kept],
        completions=[tokens[i, j, : lengths[i, j]] for i, j in kept],
        weights=np.asarray(weights, np.float64)[tuple(kept.T)],
        log_probs=[log_probs[i, j, : lengths[i, j]] for i, j in kept],
    )


def accepted_before(store: RolloutStore, prompts: Prompts, arm: str, round_: int) -> Sequences:
    """What an arm accepted before a round, as it is written in the store of the run.

    Read from there and not kept in memory, so that a run taken up again finds the same.

    Args:
      store: of the run's rollouts.
      prompts: all prompts to train on, which the column `place` counts.
      arm: "policy" or "control".
      round_: number of the round that is about to train.
    """
    if round_ == 1:
        return Sequences([], [], np.zeros(0), [])
    rows = store.read()
    chosen = rows["accepted"] & (rows["round"] < round_) & (np.asarray(rows["arm"]) == arm)
    chosen = np.flatnonzero(chosen)
    places = rows["place"][chosen]
    return Sequences(
        prompts=[prompts.tokens[place, : prompts.lengths[place]] for place in places],
        completions=[rows["tokens"][i] for i in chosen],
        weights=np.exp(rows["log_weight"][chosen]),
        log_probs=[rows["log_probs"][i] for i in chosen],
    )


def with_old(key: PRNGKey, new: Sequences, old: Sequences, fraction: float) -> Sequences:
    """Adds as many old sequences as make up a part of the whole; see `draw_old`.

    The weights of either are divided by their mean first: a part of the sequences is then that
    part of the weight, whatever the scale of the rules' weights in another round.
    """
    drawn = draw_old(key, len(new.weights), len(old.weights), fraction=fraction)
    if not drawn.size:
        return new
    old = old.take(drawn)
    return Sequences(
        prompts=new.prompts + old.prompts,
        completions=new.completions + old.completions,
        weights=np.concatenate([w / w.mean() for w in (new.weights, old.weights)]),
        log_probs=new.log_probs + old.log_probs,
    )
