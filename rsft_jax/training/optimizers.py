"""Optimizers from a handful of arguments, each a chain of optax transformations."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rsft_jax.numerics.checks import check_between, check_choice, check_number
from rsft_jax.training.numbers import with_numbers
from rsft_jax.training.schedules import (
    make_rate,
    make_schedule,
    rate_of,
    scale_by_progress,
    schedule_of,
)
from rsft_jax.types import Numeric, Params

OPTIMIZERS = ("adafactor", "adamw", "lion", "sgd")
_DEFAULT_B2 = {"adamw": 0.999, "lion": 0.99}


class EmaState(NamedTuple):
    """State of `average_params`; `ema` is a tree like the parameters."""

    ema: Params


def make_optimizer(
    name: str = "adamw",
    *,
    learning_rate: float,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    by_progress: bool = False,
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float | None = None,
    eps: float = 1e-8,
    momentum: float = 0.0,
    ema_decay: float | None = None,
) -> optax.GradientTransformation:
    """Builds AdamW, Adafactor, Lion or SGD.

        name        numbers kept for each parameter
        adamw       2
        adafactor   rows + columns of a matrix (and 1 with momentum)
        lion        1
        sgd         0, or 1 with momentum

    "sgd" with no momentum, clipping or decay is the plain formula theta <- theta - eta grad.
    Adafactor here multiplies its update, whose root mean square is cut to 1, by the rate and by
    the root mean square of the parameter. Weight decay is decoupled (eta * weight_decay * theta)
    and spares norm scales and biases. Parameters that are not trained are not in the train state
    and cost the optimizer nothing.

    The learning rate, warm-up, clipping, weight decay and averaging are arguments of a compiled
    step, by way of the state: optimizers that differ in these numbers alone share one program (see
    `numbers.with_numbers`).

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: eta, the highest rate.
      schedule: see `make_schedule`.
      warmup_steps: see `make_schedule`.
      total_steps: see `make_schedule`.
      by_progress: a rate that falls does so with the progress that `at_progress` states before each
        step (see `make_rate`), and needs no `total_steps`.
      clip_norm: gradients are scaled down to this global norm, if theirs is above it.
      weight_decay: at least 0.
      b1: AdamW's decay of the mean of gradients, in [0, 1); Lion's weight of the past in a step.
      b2: AdamW's decay of the mean of squared gradients, in [0, 1), 0.999 by default; Lion's decay
        of the mean of gradients, 0.99 by default.
      eps: AdamW's addend in the denominator.
      momentum: SGD's and Adafactor's momentum, in [0, 1).
      ema_decay: keeps the moving average of the parameters with this decay, in [0, 1); see
        `average_params`. By default there is none.

    Returns:
      The optax transformation.

    Raises:
      ValueError: naming the argument, its value and the allowed range.

    References:
      Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 2 (AdamW).
      Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, algorithm 4 (Adafactor).
      Chen et al. 2023, https://arxiv.org/abs/2302.06675, algorithm 2 (Lion).
    """
    check_choice("name", name, OPTIMIZERS)
    check_between("weight_decay", weight_decay, 0, math.inf, bounds="[)")
    b2 = _DEFAULT_B2.get(name, 0.0) if b2 is None else b2
    fractions = {"b1": b1, "b2": b2, "momentum": momentum, "ema_decay": ema_decay}
    for argument, value in fractions.items():
        if value is not None:
            check_between(argument, value, 0, 1, bounds="[)")
    rate = {"learning_rate": learning_rate, "warmup_steps": warmup_steps}
    if schedule == "constant" or not by_progress:
        make_schedule(learning_rate, schedule, warmup_steps=warmup_steps, total_steps=total_steps)
    else:
        make_rate(learning_rate, schedule, warmup_steps=warmup_steps)
    if clip_norm is not None:
        check_number("clip_norm", clip_norm, above=0)
    if name == "adamw":
        check_between("eps", eps, 0, math.inf, bounds="[)")
    given = {"clip_norm": clip_norm, "weight_decay": weight_decay or None, "ema_decay": ema_decay}
    given = {key: value for key, value in given.items() if value is not None}
    chain = _Chain(
        name=name,
        schedule=schedule,
        total_steps=None if schedule == "constant" or by_progress else total_steps,
        b1=b1,
        b2=b2,
        eps=eps,
        momentum=momentum,
    )
    return with_numbers(chain, {**rate, **given})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chain:
    """A chain of optax transformations up to its numbers; which are given decides on its stages."""

    name: str
    schedule: str
    total_steps: int | None
    b1: float
    b2: float
    eps: float
    momentum: float

    def __call__(self, numbers: Mapping[str, Any]) -> optax.GradientTransformation:
        """The chain with its numbers."""
        parts: list[optax.GradientTransformation] = []
        if "clip_norm" in numbers:
            parts.append(_clip_by_global_norm(numbers["clip_norm"]))
        parts += _direction(self.name, b1=self.b1, b2=self.b2, eps=self.eps, momentum=self.momentum)
        if "weight_decay" in numbers:
            parts.append(optax.add_decayed_weights(numbers["weight_decay"], mask=_decayed))
        rate = (numbers["learning_rate"], self.schedule, numbers["warmup_steps"])
        if self.schedule != "constant" and self.total_steps is None:
            parts.append(scale_by_progress(rate_of(*rate)))
        else:
            by_step = schedule_of(*rate, total_steps=self.total_steps)
            parts.append(optax.scale_by_learning_rate(by_step))
        if "ema_decay" in numbers:
            parts.append(average_params(numbers["ema_decay"]))
        return _with_standard_promotion(optax.chain(*parts))


def _direction(
    name: str, *, b1: float, b2: float, eps: float, momentum: float
) -> list[optax.GradientTransformation]:
    """From the gradient to the step at a rate of 1: what the optimizers differ in."""
    if name == "adamw":
        return [optax.scale_by_adam(b1=b1, b2=b2, eps=eps)]
    if name == "lion":
        return [optax.scale_by_lion(b1=b1, b2=b2)]
    if name == "adafactor":
        average = [optax.ema(momentum, debias=False)] if momentum else []
        return [
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
            *average,
        ]
    return [optax.trace(decay=momentum)] if momentum else []


def average_params(decay: Numeric) -> optax.GradientTransformation:
    """Keeps ema <- decay * ema + (1 - decay) * theta of the parameters, and changes no update.

    The average starts at the parameters themselves. It must come last in a chain, where the updates
    are what is added. Read it with `averaged_params`.
    """

    def init(params: Params) -> EmaState:
        return EmaState(ema=jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, EmaState]:
        if params is None:
            raise ValueError("params must be given: the average is theirs")
        new = optax.apply_updates(params, updates)
        ema = jax.tree.map(lambda old, x: decay * old + (1 - decay) * x, state.ema, new)
        return updates, EmaState(ema=ema)

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state: optax.OptState) -> Params:
    """Finds the average that `average_params` keeps in the state of a chain.

    By type and not by the name of a field, which the momentum of Adafactor has too.

    Raises:
      ValueError: the chain keeps none.

    Example:
      >>> tx = make_optimizer("sgd", learning_rate=0.1, ema_decay=0.9)
      >>> averaged_params(tx.init({"x": jnp.float32(1.0)}))
      {'x': Array(1., dtype=float32)}
    """

    def is_average(node: Any) -> bool:
        return isinstance(node, EmaState)

    for node in jax.tree.leaves(opt_state, is_leaf=is_average):
        if is_average(node):
            return node.ema
    raise ValueError("opt_state keeps no average; see ema_decay of make_optimizer")


def _clip_by_global_norm(max_norm: Numeric) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` as one factor for all.

    Optax divides each leaf by the norm, which XLA does not repeat in the passes that read the
    result: it would write out a clipped copy of the whole gradient.
    """

    def clip(updates: optax.Updates, params: Params | None = None) -> optax.Updates:
        del params
        factor = jnp.minimum(1, max_norm / optax.tree.norm(updates))
        return jax.tree.map(lambda update: update * factor.astype(update.dtype), updates)

    return optax.stateless(clip)


def _with_standard_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Lets a caller be strict about dtypes though optax mixes integer counts with floats."""

    def init(params: Params) -> optax.OptState:
        with jax.numpy_dtype_promotion("standard"):
            return tx.init(params)

    def update(
        updates: optax.Updates, state: optax.OptState, params: Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(init, update)


def _decayed(params: Params) -> Any:
    """Marks matrices. By name and not by rank: in the scanned layout a norm's scale is [L, D]."""

    def is_matrix(path: tuple[Any, ...], _: Any) -> bool:
        return jax.tree_util.keystr(path[-1:], simple=True) not in ("scale", "bias")

    return jax.tree_util.tree_map_with_path(is_matrix, params)
