"""Losses on completions, computed a few logits at a time.

The logits of a batch, `[B, T, V]`, are by far its largest array (400 MB for 8 x 256 tokens and
V = 49152), though only those that predict a completion token matter. Here the hidden states of
these positions are gathered, and head, cross-entropy and their gradient run over chunks of them.
Shapes: B rows, T tokens, C = T - 1 places for completion tokens, D width, V vocabulary.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from rsft_jax.numerics.checks import check_between, check_choice, check_integer, check_number
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.training.batches import Batch, PackedBatch
from rsft_jax.training.chunks import (
    chunked,
    needed_chunks,
    sum_over_chunks,
    take,
)
from rsft_jax.training.loss_positions import (
    LossPositions,
    completion_positions,
    packed_positions,
    row_positions,
)
from rsft_jax.types import Array, Numeric, Params, PRNGKey, record

NORMALISATIONS = ("token", "sequence", "prompt")
_HEAD_MODULES = ("embedder", "head")


@record
class LossTerms:
    """Sums over a batch, from which any split of it into parts gives the same loss.

    Attributes:
      total: [] sum of the weighted losses in nats; the loss is `total / count`.
      count: [] what normalises it: trained tokens, or trained sequences.
      num_tokens: [] int32 completion tokens with a positive weight.
      entropy: [] sum over these tokens of the entropy of the prediction, in nats.
      correct: [] sum over these tokens of 1 where the trained token is the likeliest.
      kl: [] sum over these tokens of the KL divergence of the prediction from the reference's, in
        nats; 0 without a reference.
      clipped: [] sum over these tokens of 1 where the importance ratio was at its bound.
    """

    total: Array
    count: Array
    num_tokens: Array
    entropy: Array
    correct: Array
    kl: Array
    clipped: Array


LossFn = Callable[[Params, Any], LossTerms]
"""(variables of the model, batch) -> sums; the extension point of `make_train_step`.

A batch is a tree of arrays whose leading axis is that of its rows, such as `Batch`.
Beside the collections of the model, the variables may hold "reference" (see `with_reference`) and,
where something is random, "rngs", a dict of keys as `model.apply` takes it.
"""


def completion_loss(
    model: nn.Module,
    *,
    normalise: str = "token",
    chunk_tokens: int = 512,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    clip_ratio: float | None = None,
    temperature: float = 1.0,
    kl_weight: float = 0.0,
) -> LossFn:
    """Weighted next-token loss on completions alone.

    With l_it the loss of token t of completion i and row weights w_i, over the rows with w_i > 0,

        "token":    sum_i w_i sum_t l_it           / sum_i |y_i|
        "sequence": sum_i w_i sum_t l_it / |y_i|   / sum_i 1
        "prompt":   sum_i w_i sum_t l_it           / sum_i 1

    so every token, every sequence, or, with w_i = 1 / K for a prompt of K accepted completions
    (`improve(by_prompt=True)` of `rsft_jax.policies`), every prompt counts alike. On all correct
    completions of N draws the gradient of the last is MaxRL's: unbiased for that of
    -sum_{k=1}^N (1 - p)^k / k, p the pass rate, so that hard prompts are weighed up. Prompt and
    padding enter nowhere; the stop token is part of the completion by its length, whatever its id,
    and is trained. Rows of weight zero change neither sum.

    With p = softmax(z) the prediction, Z its normaliser and y the token, the loss of a token is

        l = -(1 - a) log p(y) - a / V sum_v log p(v)  +  b (log Z)^2

    with a the label smoothing and b the z-loss, which keeps logits from drifting. With
    `clip_ratio` = e the first two terms are RAFT++'s: rho = p(y) / q(y), q the law of the sampler,

        l = -min(rho, 1 + e)  +  b (log Z)^2

    whose gradient is rho times that of log p(y) until the policy has moved by 1 + e, and then none:
    several steps on one round's samples stay on the policy's side. (PPO's lower clip never binds
    where every advantage is positive, as it is for accepted samples.)

    Variables with a collection "reference" (see `rsft_jax.training.with_reference`) add
    `kl_weight` sum_v p(v) log(p(v) / p_ref(v)) to each token, exact and not weighted by w_i.

    Args:
      model: has the methods `hidden(tokens, positions[, segments]) -> [B, T, D]` and
        `head(hidden) -> [..., V]`, the second reading no parameters but those of the modules
        "embedder" and "head".
      normalise: "token", "sequence" or "prompt".
      chunk_tokens: how many rows of logits exist at once, at least (one place of every row of the
        batch is the smallest chunk). On a mesh it counts those of all devices, and the head's
        gradient is summed over them chunk by chunk: take so many times more.
      label_smoothing: a, in [0, 1).
      z_loss: b, at least 0; 1e-4 is usual.
      clip_ratio: e, at least 0; needs batches with `log_probs`. By default there is no ratio.
      temperature: divides the logits in rho, as it did when q was drawn from; above 0. (Laws cut by
        top-k or top-p give p less mass than q on what they drew: rho is then below 1.)
      kl_weight: at least 0; above 0 it needs a reference.

    Returns:
      A function (variables, batch) -> `LossTerms`, differentiable once; in forward mode
      too where the model is.

    Raises:
      ValueError: naming the argument, its value and the allowed range; when called, if a batch
        lacks the `log_probs` or the variables lack the reference.

    References:
      Xiong et al. 2025, "A minimalist approach to LLM reasoning: from rejection sampling to
      REINFORCE", https://arxiv.org/abs/2504.11343, section 3 (RAFT++).
      MaxRL, 2026, https://arxiv.org/abs/2602.02710 ("prompt").
      Chowdhery et al. 2022, "PaLM", https://arxiv.org/abs/2204.02311, section 5 (z-loss).
    """
    check_choice("normalise", normalise, NORMALISATIONS)
    check_integer("chunk_tokens", chunk_tokens)
    check_between("kl_weight", kl_weight, 0, math.inf, bounds="[)")
    check_number("temperature", temperature, above=0)
    if clip_ratio is None:
        term = _cross_entropy(label_smoothing)
    elif label_smoothing:
        raise ValueError(f"label_smoothing must be 0 with clip_ratio, got {label_smoothing}")
    else:
        term = _clipped_ratio(clip_ratio, temperature)
    term = _with_z_loss(term, z_loss)
    chunk_loss = functools.partial(_chunk_loss, model, term, kl_weight)

    def loss(variables: Params, batch: Batch | PackedBatch) -> LossTerms:
        batch = jax.tree.map(jnp.asarray, batch)
        variables = dict(variables)
        reference, rngs = variables.pop("reference", None), variables.pop("rngs", None)
        if kl_weight and reference is None:
            raise ValueError(f"kl_weight = {kl_weight} needs a reference; see with_reference")
        if clip_ratio is not None and batch.log_probs is None:
            raise ValueError(f"clip_ratio = {clip_ratio} needs batches with log_probs")
        positions = (
            packed_positions(batch) if isinstance(batch, PackedBatch) else row_positions(batch)
        )
        hidden = _hidden_at(model, variables, batch, positions.columns, rngs)
        wide = wide_dtype(hidden.dtype)
        num_tokens = jnp.sum(positions.weights > 0, dtype=jnp.int32)
        shares, count = _shares(positions, num_tokens, normalise, wide)
        columns: dict[str, Array] = {
            "hidden": hidden,
            "targets": jnp.take_along_axis(batch.tokens, positions.columns, axis=1),
            "weights": positions.weights.astype(wide) * shares,
            "shares": shares,
        }
        heads = {"policy": _head_variables(variables)}
        if clip_ratio is not None:
            columns["log_probs"] = jnp.asarray(positions.log_probs)
        if reference is not None:
            fixed = {"params": reference}
            columns["reference_hidden"] = lax.stop_gradient(
                _hidden_at(model, fixed, batch, positions.columns)
            )
            heads["reference"] = _head_variables(fixed)
        chunks, size = chunked(columns, chunk_tokens)
        needed = needed_chunks(positions.num_columns, size)
        total, extra = sum_over_chunks(chunk_loss, needed, heads, chunks)
        return LossTerms(total=total, count=count.astype(wide), num_tokens=num_tokens, **extra)

    return loss


def _shares(
    positions: LossPositions, num_tokens: Array, normalise: str, dtype: jnp.dtype
) -> tuple[Array, Array]:
    """`[B, C]` what a token counts for in the loss, and [] what the sum is divided by."""
    shares = (positions.weights > 0).astype(dtype)
    if normalise == "token":
        return shares, num_tokens
    if normalise == "prompt":
        return shares, positions.num_sequences
    shares = shares / jnp.maximum(positions.completion_lengths, 1).astype(dtype)
    return shares, positions.num_sequences


class _Tokens(NamedTuple):
    """A chunk of tokens, as the terms of the loss read it.

    Attributes:
      logits: `[..., V]` of the policy.
      prediction: what they say of the targets.
      chunk: the columns of the batch, by name.
    """

    logits: Array
    prediction: "_Prediction"
    chunk: Mapping[str, Array]


_TokenTerm = Callable[[_Tokens], tuple[Array, Array]]
"""tokens -> the loss of each in nats, and 1 where its importance ratio was at the bound."""


def _cross_entropy(label_smoothing: float) -> _TokenTerm:
    """-(1 - a) log p(y) - a / V sum_v log p(v)."""
    check_between("label_smoothing", label_smoothing, 0, 1, bounds="[)")

    def term(tokens: _Tokens) -> tuple[Array, Array]:
        log_prob, log_normaliser = tokens.prediction.log_prob, tokens.prediction.log_normaliser
        loss = -log_prob
        if label_smoothing:
            mean_log_prob = jnp.mean(tokens.logits, axis=-1) - log_normaliser
            loss = (1 - label_smoothing) * loss - label_smoothing * mean_log_prob
        return loss, jnp.zeros_like(log_prob)

    return term


def _clipped_ratio(clip_ratio: float, temperature: float) -> _TokenTerm:
    """-min(p(y) / q(y), 1 + e), with p at the temperature of the sampler."""
    check_between("clip_ratio", clip_ratio, 0, math.inf, bounds="[)")

    def term(tokens: _Tokens) -> tuple[Array, Array]:
        log_prob = _prediction(tokens.logits / temperature, tokens.chunk["targets"]).log_prob
        # Bounded before exp: a ratio of exp(800) would be inf, and its gradient NaN.
        log_ratio = log_prob - tokens.chunk["log_probs"].astype(log_prob.dtype)
        log_bound = jnp.asarray(math.log1p(clip_ratio), log_prob.dtype)
        loss = -jnp.exp(jnp.minimum(log_ratio, log_bound))
        return loss, (lax.stop_gradient(log_ratio) > log_bound).astype(log_prob.dtype)

    return term


def _with_z_loss(term: _TokenTerm, weight: float) -> _TokenTerm:
    """The term, and beside it b (log Z)^2."""
    check_between("z_loss", weight, 0, math.inf, bounds="[)")

    def both(tokens: _Tokens) -> tuple[Array, Array]:
        loss, clipped = term(tokens)
        return loss + weight * jnp.square(tokens.prediction.log_normaliser), clipped

    return both if weight else term


def _chunk_loss(
    model: nn.Module,
    term: _TokenTerm,
    kl_weight: float,
    heads: Params,
    chunk: Mapping[str, Array],
) -> tuple[Array, dict[str, Array]]:
    """The summed loss of a chunk of tokens, and the sums that are for people to look at."""
    logits: Any = model.apply(heads["policy"], chunk["hidden"], method="head")
    prediction = _prediction(logits, chunk["targets"])
    log_prob, log_normaliser, log_max, entropy = prediction
    trained = chunk["weights"] > 0

    def total(values: Array, factors: Array | float = 1.0) -> Array:
        return jnp.sum(jnp.where(trained, factors * values, 0))

    token_loss, clipped = term(_Tokens(logits, prediction, chunk))
    loss = total(token_loss, chunk["weights"])
    kl = jnp.zeros_like(log_prob)
    if "reference_hidden" in chunk:
        reference: Any = model.apply(heads["reference"], chunk["reference_hidden"], method="head")
        # Subtracted before the normalisers are: equal logits give exactly 0.
        gap = jax.nn.log_softmax(logits) - jax.nn.log_softmax(lax.stop_gradient(reference))
        kl = jnp.sum(jnp.exp(logits - log_normaliser[..., None]) * gap, axis=-1)
        if kl_weight:
            loss = loss + kl_weight * total(kl, chunk["shares"])
    correct = (lax.stop_gradient(log_prob) >= log_max).astype(logits.dtype)
    return loss, {
        "entropy": total(entropy),
        "correct": total(correct),
        "kl": total(lax.stop_gradient(kl)),
        "clipped": total(clipped),
    }


def token_log_probs(
    model: nn.Module,
    variables: Params,
    batch: Batch,
    temperature: Numeric = 1.0,
    chunk_tokens: int = 512,
) -> Array:
    """Log-probabilities of the completion tokens, computed as training computes them.

    Compared with what the sampler logged they show whether both see the same policy. Not
    differentiable in reverse mode; see `completion_loss` for that.

    Args:
      model: see `completion_loss`.
      variables: what `model.apply` takes.
      batch: the sequences.
      temperature: divides the logits, as in sampling; above 0.
      chunk_tokens: see `completion_loss`.

    Returns:
      `[B, T - 1]` log-probabilities in nats. Column j belongs to completion token j; 0 past
      `completion_length`.
    """
    check_integer("chunk_tokens", chunk_tokens)
    batch = jax.tree.map(jnp.asarray, batch)
    variables = {name: tree for name, tree in variables.items() if name != "reference"}
    index, valid = completion_positions(batch)
    hidden = _hidden_at(model, variables, batch, index)
    targets = jnp.take_along_axis(batch.tokens, index, axis=1)
    chunks, size = chunked({"hidden": hidden, "targets": targets}, chunk_tokens)
    needed = needed_chunks(jnp.sum(valid, axis=1, dtype=jnp.int32), size)

    def body(i: Array, out: Array) -> Array:
        chunk = take(chunks, i)
        logits: Any = model.apply(_head_variables(variables), chunk["hidden"], method="head")
        logits = logits / jnp.asarray(temperature, logits.dtype)
        return out.at[i].set(_prediction(logits, chunk["targets"]).log_prob.astype(out.dtype))

    wide = wide_dtype(hidden.dtype)
    out = lax.fori_loop(0, needed, body, jnp.zeros(chunks["targets"].shape, wide))
    out = jnp.swapaxes(out, 0, 1).reshape(valid.shape[0], -1)[:, : valid.shape[1]]
    return jnp.where(valid, out, 0)


def mean_squared_error(predictions: Array, targets: Array, weights: Array | None = None) -> Array:
    """The weighted mean of squared errors, sum_i w_i |f_i - y_i|^2 / (K sum_i w_i).

    Args:
      predictions: `[B, ...]`, with K numbers a row.
      targets: `[B, ...]`, of the same shape.
      weights: `[B]`, all 1 by default.

    Returns:
      [] the loss; 0 if the weights sum to 0.

    Example:
      >>> float(mean_squared_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
      2.5
    """
    chex.assert_equal_shape([predictions, targets])
    errors = jnp.square(predictions - targets).reshape(predictions.shape[0], -1)
    errors = jnp.mean(errors, axis=1)
    if weights is None:
        return jnp.mean(errors)
    chex.assert_equal_shape([errors, weights])
    weights = weights.astype(errors.dtype)
    mass = jnp.sum(weights)
    return jnp.sum(weights * errors) / jnp.where(mass > 0, mass, jnp.ones_like(mass))


class _Prediction(NamedTuple):
    """What the logits of a token say.

    Attributes:
      log_prob: log-probability of the target.
      log_normaliser: log of the sum of exp(logits).
      log_max: highest log-probability, without a gradient.
      entropy: in nats, without a gradient.
    """

    log_prob: Array
    log_normaliser: Array
    log_max: Array
    entropy: Array


@jax.custom_jvp
def _prediction(logits: Array, targets: Array) -> _Prediction:
    return _predict(logits, targets)[0]


def _predict(logits: Array, targets: Array) -> tuple[_Prediction, Array]:
    highest = jnp.max(logits, axis=-1)
    exps = jnp.exp(logits - highest[..., None])
    total = jnp.sum(exps, axis=-1)
    log_normaliser = highest + jnp.log(total)
    # Two sums in one pass, which XLA:CPU fuses: the second alone takes it longer than the
    # exponentials. Its centre is not `highest`, which XLA:CPU would subtract once for both uses, in
    # the matrix product that makes the logits, at nearly twice the product's cost.
    centre = jnp.round(highest)
    target, weighted = lax.reduce(
        (
            jnp.where(_is_target(logits, targets), logits, 0),
            exps * (logits - centre[..., None]),
        ),
        (jnp.zeros((), logits.dtype),) * 2,
        lambda left, right: (left[0] + right[0], left[1] + right[1]),
        (logits.ndim - 1,),
    )
    prediction = _Prediction(
        log_prob=target - log_normaliser,
        log_normaliser=log_normaliser,
        log_max=highest - log_normaliser,
        entropy=(log_normaliser - centre) - weighted / total,
    )
    return prediction, exps / total[..., None]


@_prediction.defjvp
def _prediction_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Any]
) -> tuple[_Prediction, _Prediction]:
    prediction, probs = _predict(*primals)
    dlogits = tangents[0]
    dlog_normaliser = jnp.sum(probs * dlogits, axis=-1)
    dtarget = jnp.sum(jnp.where(_is_target(*primals), dlogits, 0), axis=-1)
    still = jnp.zeros_like(dtarget)
    return prediction, _Prediction(dtarget - dlog_normaliser, dlog_normaliser, still, still)


def _is_target(logits: Array, targets: Array) -> Array:
    ids = lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    return ids == targets[..., None]


def _hidden_at(
    model: nn.Module,
    variables: Params,
    batch: Batch | PackedBatch,
    index: Array,
    rngs: Mapping[str, PRNGKey] | None = None,
) -> Array:
    """Hidden states `[B, C, D]` that predict the tokens at `index`."""
    chex.assert_equal_shape([batch.tokens, batch.positions])
    inputs = [batch.tokens, batch.positions]
    inputs += [batch.segments] if isinstance(batch, PackedBatch) else []
    keys: dict[str, Any] = {} if rngs is None else {"rngs": dict(rngs)}
    hidden: Any = model.apply(variables, *inputs, method="hidden", **keys)
    return jnp.take_along_axis(hidden, index[:, :, None] - 1, axis=1)


def _head_variables(variables: Params) -> Params:
    """The part that the head reads: a gradient is accumulated for that and for nothing else."""
    return {
        collection: {name: tree[name] for name in _HEAD_MODULES if name in tree}
        for collection, tree in variables.items()
    }
