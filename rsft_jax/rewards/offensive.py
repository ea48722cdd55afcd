"""How likely a text is to be offensive."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from rsft_jax.rewards.extras import require
from rsft_jax.rewards.texts import from_batch_score

if TYPE_CHECKING:
    from rsft_jax.types import RewardFn


def offensive() -> RewardFn:
    """Returns a penalty in [0, 1]: the probability that a completion is offensive.

    A linear classifier over words, from the package alt-profanity-check, calibrated to a
    probability. It is a penalty: give it a negative weight. All candidates of a call go through it
    in one batch.

    The package unpickles the model it ships. scikit-learn warns when another of its versions wrote
    that file; the weights of a linear model do not change between versions, so this one warning is
    kept from the console.

    Raises:
      ImportError: alt-profanity-check is not installed (`pip install "rsft_jax[rewards]"`).

    >>> offensive()(["p"], [["The garden is quiet.", "You stupid idiot!"]]) > 0.5
    array([[False,  True]])
    """
    exceptions = require("sklearn.exceptions", package="scikit-learn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.InconsistentVersionWarning)
        module = require("profanity_check", package="alt-profanity-check")
    return from_batch_score(module.predict_prob)
