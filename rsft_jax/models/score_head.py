"""A score head over any family's Transformer: numbers that say something of a whole text.

With h the `[T, D]` activations of a text after the final norm and W the `[D, L]` head,

    s(text) = W^T h_last,

last being the last token, which alone has seen all of a text where attention is causal. There is no
bias, as in the sequence classifiers of Hugging Face transformers, so that such a model and one of
ours are the same arrays. A reward model has L = 1.

The head's parameters lie beside those of the Transformer, as `params["score"]["kernel"]`, which no
family uses; every function of `rsft_jax.training.parts` passes them on.

Letters: B rows, T tokens, D model width, L labels.

References:
  Stiennon et al. 2020, "Learning to summarize from human feedback",
  https://arxiv.org/abs/2009.01325, section 3.4 and appendix B.1 (the head, and how it begins).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rsft_jax.models.config import TransformerConfig
from rsft_jax.numerics.checks import check_integer
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.types import Array, Params, PRNGKey

SCORE = "score"
"""Where the head lies in the parameters."""


def with_score_head(
    key: PRNGKey, config: TransformerConfig, params: Params, num_labels: int = 1
) -> Params:
    """Puts a new head beside the parameters of a Transformer, W ~ Normal(0, 1 / (D + 1)).

    Args:
      key: random key, consumed.
      config: the model's sizes.
      params: in either layout. What is not part of a classifier, an output layer of its own, is
        left out.
      num_labels: L, at least 1.

    Returns:
      The parameters of a classifier; arrays that were there are shared.

    Raises:
      ValueError: if `num_labels` is below 1.

    Example:
      >>> sizes = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 2}
      >>> config = TransformerConfig(vocab_size=8, d_model=4, num_layers=1, d_ff=6, **sizes)
      >>> with_score_head(jax.random.key(0), config, {})["score"]["kernel"].shape
      (4, 1)
    """
    check_integer("num_labels", num_labels)
    draw = jax.random.normal(key, (config.d_model, num_labels), jnp.float32)
    kernel = draw * jnp.float32((config.d_model + 1) ** -0.5)
    kept = {name: leaf for name, leaf in params.items() if name != "head"}
    return {**kept, SCORE: {"kernel": kernel}}


def text_features(
    model: nn.Module,
    variables: Params,
    tokens: Array,
    lengths: Array,
    rngs: Mapping[str, PRNGKey] | None = None,
) -> Array:
    """The activations of the last token of each text, after the final norm.

    Args:
      model: has the method `hidden(tokens, positions) -> [B, T, D]`, as `Transformer`.
      variables: what `model.apply` takes.
      tokens: `[..., T]` int32 ids, padded on the right with whatever.
      lengths: `[...]` int32 tokens of each text, from 1 to T.
      rngs: keys as `model.apply` takes them.

    Returns:
      `[..., D]`. What stands behind a text changes nothing.
    """
    length = tokens.shape[-1]
    rows, ends = tokens.reshape(-1, length), lengths.reshape(-1)
    places = jnp.arange(length, dtype=jnp.int32)[None]
    positions = jnp.where(places < ends[:, None], places, -1)
    keys: dict[str, Any] = {} if rngs is None else {"rngs": dict(rngs)}
    hidden: Any = model.apply(variables, rows, positions, method="hidden", **keys)
    last = jnp.take_along_axis(hidden, (ends - 1)[:, None, None], axis=1)[:, 0]
    return last.reshape(*lengths.shape, -1)


def head_scores(params: Params, features: Array) -> Array:
    """`[..., L]` scores of `[..., D]` features, in float32 or wider.

    Args:
      params: those of the classifier, or any tree with `score`.
      features: as `text_features` gives them.
    """
    kernel = params[SCORE]["kernel"]
    wide = wide_dtype(features.dtype)
    return jnp.matmul(
        features.astype(wide), kernel.astype(wide), precision=jax.lax.Precision.HIGHEST
    )


def text_scores(
    model: nn.Module,
    variables: Params,
    tokens: Array,
    lengths: Array,
    rngs: Mapping[str, PRNGKey] | None = None,
) -> Array:
    """`[..., L]` scores of texts; see `text_features` for the arguments."""
    features = text_features(model, variables, tokens, lengths, rngs)
    return head_scores(variables["params"], features)
