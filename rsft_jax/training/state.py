"""The train state: a Flax `TrainState` of the trainable parameters alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import train_state

from rsft_jax.numerics.dtypes import widened
from rsft_jax.sharding.processes import replicate
from rsft_jax.sharding.rules import TrainShardings
from rsft_jax.training.parts import Part
from rsft_jax.types import Array, Params, PRNGKey


class TrainState(train_state.TrainState):
    """Flax's train state, with a random key.

    Attributes:
      key: what is random in step t draws from `fold_in(key, t)`: a run that goes on from a
        checkpoint draws what the uninterrupted one draws. None where nothing is random.
    """

    key: PRNGKey | None = None


def create_train_state(
    model: nn.Module,
    part: Part,
    params: Params,
    tx: optax.GradientTransformation,
    *,
    key: PRNGKey | None = None,
    shardings: TrainShardings | None = None,
) -> tuple[TrainState, Params]:
    """Divides parameters into a train state and the frozen tree that goes with it.

    What is trained is float32, also where the parameters are in half precision, in which an
    optimizer's small steps are lost; what is frozen keeps its dtype. A bfloat16 model whose part is
    trained therefore takes 2 bytes a frozen parameter.

    Args:
      model: the model for training, `Transformer(part.model(config))`.
      part: which part is trained.
      params: parameters in the unrolled layout. They are left alone: the state owns its arrays,
        because a step donates them.
      tx: the optimizer; build it once.
      key: random key for dropout, which the state keeps a copy of; a part without needs none.
      shardings: where the arrays go; by default they stay on the default device.

    Returns:
      `(state, frozen)`: the state at step 0, with the trainable tree as its `params`; and the
      frozen tree, which no step donates, so that several states may share it.
    """
    trainable, frozen = part.split(params)
    trainable = _own(jax.tree.map(widened, trainable), params)
    frozen = jax.tree.map(jnp.asarray, frozen)
    if shardings is None:
        return _create(model, trainable, tx, key), frozen
    trainable = jax.device_put(trainable, shardings.state.params)
    frozen = jax.device_put(frozen, shardings.frozen)
    # The optimizer's state is born sharded: it never exists whole on one device.
    create = jax.jit(lambda p, k: _create(model, p, tx, k), out_shardings=shardings.state)
    key = None if key is None else replicate(shardings.replicated, key)
    return create(trainable, key), frozen


def abstract_train_state(
    model: nn.Module,
    part: Part,
    params: Params,
    tx: optax.GradientTransformation,
    *,
    key: PRNGKey | None = None,
) -> tuple[TrainState, Params]:
    """`create_train_state` in shapes and dtypes alone; `params` may be abstract, too."""

    def create(params: Params, key: PRNGKey | None) -> tuple[TrainState, Params]:
        trainable, frozen = part.split(params)
        return _create(model, jax.tree.map(widened, trainable), tx, key), frozen

    return jax.eval_shape(create, params, key)


@dataclasses.dataclass(frozen=True)
class _Apply:
    """`model.apply`, equal where the models are equal.

    Bound methods are equal only where the very object is the same, and the state of an equal model
    would be another tree to jax: compiled again, and refused where it meets the first.
    """

    model: nn.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.apply(*args, **kwargs)


def _create(
    model: nn.Module, trainable: Params, tx: optax.GradientTransformation, key: PRNGKey | None
) -> TrainState:
    key = None if key is None else jnp.copy(key)  # a step donates its state
    state = TrainState.create(apply_fn=_Apply(model), params=trainable, tx=tx, key=key)
    # Flax starts with a Python 0, which a step gives back as an array: it would compile twice.
    return state.replace(step=jnp.zeros((), jnp.int32))


def _own(trainable: Params, params: Params) -> Params:
    shared = {id(leaf) for leaf in jax.tree.leaves(params)}

    def owned(leaf: Array) -> Array:
        known = not isinstance(leaf, jax.Array) or id(leaf) in shared
        return jnp.array(leaf, copy=True) if known else leaf

    return jax.tree.map(owned, trainable)
