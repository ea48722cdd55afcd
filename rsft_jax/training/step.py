"""The training step, compiled once, and the loop over batches as a generator."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from rsft_jax.models.layers import Layer
from rsft_jax.numerics.checks import check_integer
from rsft_jax.sharding.rules import TrainShardings
from rsft_jax.training.batches import Batch, PackedBatch
from rsft_jax.training.losses import LossFn, LossTerms, completion_loss
from rsft_jax.training.parts import Part
from rsft_jax.training.score_batches import PairBatch, RatedBatch
from rsft_jax.training.state import TrainState
from rsft_jax.types import Array, Params, PRNGKey, record


@record
class StepMetrics:
    """What one step did.

    Attributes:
      loss: [] mean weighted loss before the update, in nats.
      grad_norm: [] global norm of the gradient, before clipping.
      update_norm: [] global norm of what was added to the parameters; 0 for a refused step.
      num_tokens: [] int32 completion tokens trained on.
      entropy: [] mean entropy of the predictions, in nats a token.
      accuracy: [] part of the tokens that were the likeliest.
      kl: [] mean KL divergence of the predictions from the reference's, in nats a token; 0 without
        a reference.
      clipped: [] part of the tokens whose importance ratio was at its bound.
      finite: [] bool, whether loss and gradient norm were finite. Otherwise, and where no token
        was to be trained, the state is as it was.
    """

    loss: Array
    grad_norm: Array
    update_norm: Array
    num_tokens: Array
    entropy: Array
    accuracy: Array
    kl: Array
    clipped: Array
    finite: Array


AnyBatch = Batch | PackedBatch | PairBatch | RatedBatch

StepFn = Callable[[TrainState, Params, AnyBatch], tuple[TrainState, StepMetrics]]
"""(state, frozen, batch) -> (state, metrics); the given state is donated and gone afterwards."""


def make_train_step(
    model: nn.Module,
    part: Part,
    *,
    loss: LossFn | None = None,
    accumulate: int = 1,
    shardings: TrainShardings | None = None,
) -> StepFn:
    """Compiles an optimizer step on the trainable part.

    The gradient is that of sum of losses / sum of counts over the whole batch, whatever
    `accumulate` is: parts of unequal numbers of tokens are added up before the division. A step
    whose loss or gradient is not finite, or which has nothing to train, changes neither
    parameters nor optimizer nor step count.

    Args:
      model: the model for training, `Transformer(part.model(config))`.
      part: which part is trained.
      loss: by default `completion_loss(model)`. A state with a key gives it the key of the step in
        the variables, as `{"rngs": {"dropout": key}}`.
      accumulate: how many parts the rows of a batch are divided into, one after the other, to
        save memory; divides the batch size (and its share of each device).
      shardings: where state, frozen tree and batch live; by default on one device.

    Returns:
      The jitted step. It compiles anew for each shape of a batch.

    Raises:
      ValueError: if `accumulate` is below 1, or, at the first call, does not divide the batch.
    """
    check_integer("accumulate", accumulate)
    loss_fn = completion_loss(model) if loss is None else loss

    def gradient(
        trainable: Params, frozen: Params, batch: AnyBatch, key: PRNGKey | None
    ) -> tuple[Params, LossTerms]:
        rngs = {} if key is None else {"rngs": {"dropout": key}}

        def total(trainable: Params) -> tuple[Array, LossTerms]:
            terms = loss_fn({**part.variables(trainable, frozen), **rngs}, batch)
            return terms.total, terms

        with _rows_divided(shardings):
            return jax.grad(total, has_aux=True)(trainable)

    def step(state: TrainState, frozen: Params, batch: AnyBatch) -> tuple[TrainState, StepMetrics]:
        key = None if state.key is None else jax.random.fold_in(state.key, state.step)
        if accumulate == 1:
            grads, terms = gradient(state.params, frozen, batch, key)
        else:
            keys = None if key is None else jax.random.split(key, accumulate)
            parts = (_split_rows(batch, accumulate), keys)

            def add(sums: tuple[Params, LossTerms], part_and_key: tuple[AnyBatch, PRNGKey | None]):
                new = gradient(state.params, frozen, *part_and_key)
                return jax.tree.map(jnp.add, sums, new), None

            first = jax.tree.map(lambda leaf: leaf[0], parts)
            shapes = jax.eval_shape(gradient, state.params, frozen, *first)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            (grads, terms), _ = lax.scan(add, zeros, parts)
        return _apply(state, grads, terms, in_order=_platform(shardings) == "cpu")

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings.state, shardings.frozen, shardings.batch),
        out_shardings=(shardings.state, shardings.replicated),
    )


def fine_tune(
    state: TrainState,
    frozen: Params,
    batches: Iterable[AnyBatch],
    step: StepFn,
    *,
    max_refused: int = 3,
) -> Iterator[tuple[TrainState, StepMetrics]]:
    """Steps through the batches, and hands out each state with its metrics.

    Args:
      state: donated to the first step, as each state handed out is to the step after it.
      frozen: the frozen tree.
      batches: what to train on.
      step: as made by `make_train_step`.
      max_refused: this many steps in a row with a non-finite loss or gradient stop the run.

    Yields:
      `(state, metrics)` after each batch, a refused one included.

    Raises:
      FloatingPointError: after `max_refused` refused steps in a row; the state that was handed
        out last is the last good one.
    """
    refused = 0
    for batch in batches:
        state, metrics = step(state, frozen, batch)
        yield state, metrics
        refused = 0 if metrics.finite else refused + 1
        if refused >= max_refused:
            raise FloatingPointError(
                f"{refused} steps in a row had a non-finite loss or gradient (last: loss "
                f"{float(metrics.loss)}, gradient norm {float(metrics.grad_norm)}); the "
                f"parameters are those after optimizer step {int(state.step)}"
            )


def _rows_divided(shardings: TrainShardings | None) -> contextlib.AbstractContextManager[None]:
    """Keeps the rows of activations on the devices that the rows of the batch are on.

    Of a parameter whose width is divided the compiler may gather the parameter or divide the
    activations by width, too; left alone it does some of the second, and sums partial products
    over the devices in every layer. With the residual stream pinned to rows it gathers parameters.
    """
    if shardings is None:
        return contextlib.nullcontext()
    rows = shardings.batch
    mesh, leaves = rows.mesh, jax.tree.leaves((shardings.state, shardings.frozen))
    divided = any("fsdp" in leaf.spec for leaf in leaves)
    by_width = NamedSharding(mesh, PartitionSpec("data", None, "fsdp" if divided else None))

    def constrained(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        out = call(*args, **kwargs)
        if context.method_name != "__call__":
            return out
        if isinstance(context.module, nn.Embed):
            # By way of the division that a look-up in a table divided by width gives: from there an
            # all-to-all leads to rows, and without it the compiler gathers the whole batch.
            out = lax.with_sharding_constraint(out, by_width) if divided else out
            return lax.with_sharding_constraint(out, rows)
        if isinstance(context.module, Layer):
            return lax.with_sharding_constraint(out[0], rows), *out[1:]
        return out

    return nn.intercept_methods(constrained)


def _platform(shardings: TrainShardings | None) -> str:
    if shardings is None:
        return jax.default_backend()
    return next(iter(shardings.batch.device_set)).platform


def _apply(
    state: TrainState, grads: Params, terms: LossTerms, *, in_order: bool
) -> tuple[TrainState, StepMetrics]:
    def mean(total: Array, count: Array) -> Array:
        return total / jnp.maximum(count, 1).astype(total.dtype)

    grads = jax.tree.map(lambda g: mean(g, terms.count), grads)
    loss = mean(terms.total, terms.count)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    update_norm = optax.tree.norm(updates)
    if in_order:
        # In a call of its own, that begins when the updates are known. XLA:CPU otherwise sees no
        # order between the two passes that read the moments, and copies them before it overwrites
        # the donated ones. What both calls compute alike is computed once.
        old = _after(update_norm, state.opt_state)
        _, opt_state = state.tx.update(grads, old, state.params)
    new = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
    )
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    # A selection and not a branch: it joins the update's own pass over the donated buffers.
    accepted = finite & (terms.num_tokens > 0)
    new = jax.tree.map(lambda ours, old: jnp.where(accepted, ours, old), new, state)
    return new, StepMetrics(
        loss=loss,
        grad_norm=grad_norm,
        update_norm=jnp.where(accepted, update_norm, jnp.zeros_like(update_norm)),
        num_tokens=terms.num_tokens,
        entropy=mean(terms.entropy, terms.num_tokens),
        accuracy=mean(terms.correct, terms.num_tokens),
        kl=mean(terms.kl, terms.num_tokens),
        clipped=mean(terms.clipped, terms.num_tokens),
        finite=finite,
    )


def _after(known: Array, tree: Any) -> Any:
    """The tree, in a form that XLA can read only when it knows the number; NaN where that is NaN.

    (XLA:CPU drops `lax.optimization_barrier` before it decides what to copy.)
    """

    def leaf_after(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.where(jnp.isnan(known), jnp.asarray(jnp.nan, leaf.dtype), leaf)

    return jax.tree.map(leaf_after, tree)


def _split_rows(batch: AnyBatch, parts: int) -> AnyBatch:
    rows = batch.weights.shape[0]
    if rows % parts:
        near = [n for n in range(1, rows + 1) if rows % n == 0]
        nearest = min(near, key=lambda n: abs(n - parts))
        raise ValueError(
            f"accumulate must divide the batch of {rows} rows, got {parts}; nearest: {nearest}"
        )

    # Row i goes to part i mod `parts`, so that each device finds the rows of a part at home.
    def split(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(rows // parts, parts, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)
