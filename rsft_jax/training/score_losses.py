"""Losses of a score: Bradley and Terry's on pairs of texts, squared error on ratings.

Letters: B rows, D width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rsft_jax.models.score_head import head_scores, text_scores
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.training.losses import LossFn, LossTerms
from rsft_jax.training.score_batches import PairBatch, RatedBatch, Texts
from rsft_jax.types import Array, Params

ScoresFn = Callable[[Params, Any], Array]
"""(variables, `Texts` or features of shape `[...]`) -> `[...]` scores."""


def scores_of(model: nn.Module) -> ScoresFn:
    """The scores of a model with a score head of one label; see `rsft_jax.models.score_head`.

    Args:
      model: of the texts; not asked for where the inputs are features.

    Returns:
      A function of variables as `model.apply` takes them, `params["score"]` among them, and of
      `Texts` or features. In the variables, "rngs" may hold keys.
    """

    def scores(variables: Params, inputs: Any) -> Array:
        if not isinstance(inputs, Texts):
            return head_scores(variables["params"], jnp.asarray(inputs))[..., 0]
        variables = dict(variables)
        rngs = variables.pop("rngs", None)
        tokens, lengths = jnp.asarray(inputs.tokens), jnp.asarray(inputs.lengths)
        return text_scores(model, variables, tokens, lengths, rngs)[..., 0]

    return scores


def bradley_terry(scores: ScoresFn) -> LossFn:
    """The loss of pairs, the preferred text first:

        l_i = -log sigmoid(s(chosen_i) - s(rejected_i) - m_i),    L = sum_i w_i l_i / #{w_i > 0}

    It is the negative log-likelihood of the model of Bradley and Terry, in which a text is
    preferred with probability sigmoid of the difference of the scores, for margins m of 0. Its
    gradient in the difference is sigmoid(difference - m) - 1. A constant added to all scores
    changes nothing.

    Args:
      scores: as `scores_of` makes it.

    Returns:
      A function (variables, `PairBatch`) -> `LossTerms` for `make_train_step`. What is counted in
      tokens there is counted in pairs here: `num_tokens` those of a positive weight, `correct`
      those whose preferred text is ahead, a tie for a half.

    Example:
      >>> inputs = jnp.array([[[3.0], [1.0]]])  # features of one pair
      >>> batch = PairBatch(inputs=inputs, margins=jnp.zeros(1), weights=jnp.ones(1))
      >>> variables = {"params": {"score": {"kernel": jnp.ones((1, 1))}}}
      >>> terms = bradley_terry(scores_of(nn.Module()))(variables, batch)
      >>> round(float(terms.total), 4), int(terms.correct)  # log(1 + exp(-2))
      (0.1269, 1)

    References:
      Bradley and Terry, Rank analysis of incomplete block designs, Biometrika 39, 1952.
      Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, equation 1; Touvron et al. 2023, "Llama
      2", https://arxiv.org/abs/2307.09288, equation 2 (the margin).
    """

    def loss(variables: Params, batch: PairBatch) -> LossTerms:
        values = scores(variables, batch.inputs)
        ahead = values[..., 0] - values[..., 1]
        lost = jax.nn.softplus(jnp.asarray(batch.margins).astype(ahead.dtype) - ahead)
        still = jax.lax.stop_gradient(ahead)
        right = jnp.where(still > 0, 1.0, jnp.where(still == 0, 0.5, 0.0))
        return _terms(lost, right, batch.weights)

    return loss


def regression(scores: ScoresFn) -> LossFn:
    """The loss of rated texts, L = sum_i w_i (s(text_i) - r_i)^2 / #{w_i > 0}.

    The head has no bias: ratings that do not lie around 0 are to be centred before.

    Args:
      scores: as `scores_of` makes it.

    Returns:
      A function (variables, `RatedBatch`) -> `LossTerms` for `make_train_step`, in which
      `num_tokens` counts texts of a positive weight, and nothing is `correct`.

    Example:
      >>> batch = RatedBatch(inputs=jnp.array([[3.0]]), ratings=jnp.ones(1), weights=jnp.ones(1))
      >>> variables = {"params": {"score": {"kernel": jnp.ones((1, 1))}}}
      >>> float(regression(scores_of(nn.Module()))(variables, batch).total)
      4.0
    """

    def loss(variables: Params, batch: RatedBatch) -> LossTerms:
        values = scores(variables, batch.inputs)
        errors = jnp.square(values - jnp.asarray(batch.ratings).astype(values.dtype))
        return _terms(errors, jnp.zeros_like(errors), batch.weights)

    return loss


def _terms(losses: Array, correct: Array, weights: Any) -> LossTerms:
    wide = wide_dtype(losses.dtype)
    weights = jnp.asarray(weights).astype(wide)
    counts = weights > 0
    zero = jnp.zeros((), wide)
    num = jnp.sum(counts, dtype=jnp.int32)
    return LossTerms(
        total=jnp.sum(jnp.where(counts, weights * losses, 0)),
        count=num.astype(wide),
        num_tokens=num,
        entropy=zero,
        correct=jnp.sum(jnp.where(counts, correct.astype(wide), 0)),
        kl=zero,
        clipped=zero,
    )
