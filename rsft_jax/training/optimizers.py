"""Optimizers from a handful of arguments, each a chain of optax transformations."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rsft_jax.types import Array, Params

SCHEDULES = ("constant", "cosine", "linear")
OPTIMIZERS = ("adamw", "sgd")


def make_schedule(
    learning_rate: float,
    schedule: str = "constant",
    *,
    warmup_steps: int = 0,
    total_steps: int | None = None,
) -> optax.Schedule:
    """A learning rate that rises linearly over the warm-up and then stays or falls.

    With w warm-up steps the rate of step t (from 0) is eta (t + 1) / w while t < w: no step is
    spent on a rate of zero. After that it is eta (constant), or falls from eta towards 0 at
    `total_steps` along half a cosine or a line.

    Args:
      learning_rate: eta, the highest rate; finite and not negative.
      schedule: "constant", "cosine" or "linear".
      warmup_steps: w, at least 0.
      total_steps: number of steps, warm-up included; the falling schedules need it.

    Returns:
      A function from the step to the rate.

    Raises:
      ValueError: naming the argument, its value and the allowed range.

    >>> rate = make_schedule(1.0, "linear", warmup_steps=2, total_steps=6)
    >>> [float(rate(t)) for t in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    _check_number("learning_rate", learning_rate)
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {schedule!r}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")
    if schedule != "constant" and (total_steps is None or total_steps <= warmup_steps):
        raise ValueError(
            f"total_steps must be above warmup_steps = {warmup_steps} for the {schedule} "
            f"schedule, got {total_steps}"
        )
    if schedule == "constant" and not warmup_steps:
        return optax.constant_schedule(learning_rate)

    def rate(step: jax.typing.ArrayLike) -> Array:
        step = jnp.asarray(step).astype(jnp.float32)
        rise = jnp.minimum((step + 1) / max(warmup_steps, 1), 1)
        if total_steps is None or schedule == "constant":
            return learning_rate * rise
        done = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0, 1)
        fall = (1 + jnp.cos(jnp.pi * done)) / 2 if schedule == "cosine" else 1 - done
        return learning_rate * rise * fall

    return rate


def make_optimizer(
    name: str = "adamw",
    *,
    learning_rate: float,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    momentum: float = 0.0,
) -> optax.GradientTransformation:
    """Builds AdamW or SGD.

    "sgd" with no momentum, clipping or decay is the plain formula theta <- theta - eta grad.
    Weight decay is decoupled (eta * weight_decay * theta) and spares norm scales and biases.

    Build it once and pass it around: a compiled step compares it by identity, and another one
    with the same numbers compiles again.

    Args:
      name: "adamw" or "sgd".
      learning_rate: eta, the highest rate.
      schedule: see `make_schedule`.
      warmup_steps: see `make_schedule`.
      total_steps: see `make_schedule`.
      clip_norm: gradients are scaled down to this global norm, if theirs is above it.
      weight_decay: at least 0.
      b1: AdamW's decay of the mean of gradients, in [0, 1).
      b2: AdamW's decay of the mean of squared gradients, in [0, 1).
      eps: AdamW's addend in the denominator.
      momentum: SGD's momentum, in [0, 1).

    Returns:
      The optax transformation.

    Raises:
      ValueError: naming the argument, its value and the allowed range.

    References:
      Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 2.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"name must be one of {OPTIMIZERS}, got {name!r}")
    _check_number("weight_decay", weight_decay)
    for argument, value in (("b1", b1), ("b2", b2), ("momentum", momentum)):
        if not 0 <= value < 1:
            raise ValueError(f"{argument} must be in [0, 1), got {value}")
    if clip_norm is not None and not (math.isfinite(clip_norm) and clip_norm > 0):
        raise ValueError(f"clip_norm must be finite and above 0, got {clip_norm}")
    rate = make_schedule(
        learning_rate, schedule, warmup_steps=warmup_steps, total_steps=total_steps
    )
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    if name == "adamw":
        _check_number("eps", eps)
        parts.append(optax.scale_by_adam(b1=b1, b2=b2, eps=eps))
    elif momentum:
        parts.append(optax.trace(decay=momentum))
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=_decayed))
    parts.append(optax.scale_by_learning_rate(rate))
    return _with_standard_promotion(optax.chain(*parts))


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


def _check_number(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
