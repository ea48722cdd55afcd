"""Which prompts a round takes: the next ones of a shuffled, endless pass over the training set."""

import numpy as np

from rsft_jax.data import PromptCursor, take
from rsft_jax.policies import PromptBatch

from .setup import Setup


def round_prompts(setup: Setup, round_: int) -> PromptBatch:
    """The prompts of a round.

    One that comes twice, in a small set or where two passes meet, is drawn for anew; of given
    candidates there are no others, so that it comes once.
    """
    size, num = len(setup.train.prompts), setup.config.rounds.prompts_per_round
    places, _ = take(round_cursor(setup, round_), num, size=size, seed=setup.config.seed)
    if setup.given is not None:
        places = np.array(list(dict.fromkeys(places.tolist())), places.dtype)
    return setup.train.take(places)


def round_cursor(setup: Setup, round_: int) -> PromptCursor:
    """Where a round begins in the pass over the training set."""
    before = (round_ - 1) * setup.config.rounds.prompts_per_round
    return PromptCursor(*divmod(before, len(setup.train.prompts)))
