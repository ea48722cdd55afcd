"""Which part of the model is trained: all, low-rank adapters, the last layers, or any paths.

A `Part` is a tuple of pure functions, as an optax transformation is. It divides the parameters
into two trees once, before training, and the optimizer, the gradient and the train state know the
trainable tree alone. (`optax.multi_transform` with `set_to_zero` reaches the same updates, but
from gradients of every parameter: the backward pass of the frozen ones runs, their gradients are
held, and they pass through the donated state. A partition costs none of that, and several states
can share one frozen tree.)
"""

import dataclasses
import difflib
import fnmatch
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.lora import Adapted, init_lora, merge_lora, scale_lora
from rsft_jax.models.transformer import stack_layers, unstack_layers
from rsft_jax.numerics.checks import check_between, check_integer
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.types import Array, Params, PRNGKey

DEFAULT_REMAT = "dots"
"""The fastest where it fits. Two cores take 5.8 s a step of 8 x 256 tokens of a 135M model in
float32 and 3.6 s in bfloat16, with 2.1 and 1.5 GiB of temporaries; with "layers" 6.3 and 3.7 s, and
1.2 and 1.1 GiB (`experiments/benchmarks/training.py`). For large models or long rows take that.
"""


NORMS_AND_BIASES = ("*norm/scale", "*/bias")
"""Patterns for `matching`; a model without biases trains its norms."""


class Part(NamedTuple):
    """Pure functions between parameters for sampling and the two trees of training.

    Sampling wants the unrolled layout; training runs in the scanned one, in which a single layer
    is compiled.

    Attributes:
      split: parameters (unrolled) -> (trainable, frozen), both scanned.
      variables: (trainable, frozen) -> what `model.apply` takes.
      export: (trainable, frozen) -> parameters (unrolled), adapters merged. They share no array
        with `trainable`, so that they outlive the step to which the trainable ones are donated.
      model: configuration for sampling -> configuration for training.
      sampled: (trainable, frozen) -> what `rsft_jax.models.logits_fn` takes to draw from the same
        policy; None where that is what `export` gives.
    """

    split: Callable[[Params], tuple[Params, Params]]
    variables: Callable[[Params, Params], Params]
    export: Callable[[Params, Params], Params]
    model: Callable[[TransformerConfig], TransformerConfig]
    sampled: Callable[[Params, Params], Params] | None = None


def all_parameters(*, remat: str = DEFAULT_REMAT) -> Part:
    """Trains every parameter.

    Args:
      remat: what the backward pass computes again; see `rsft_jax.models.config.REMAT`.
    """
    return Part(
        split=lambda params: (stack_layers(params), {}),
        variables=lambda trainable, _: {"params": trainable},
        export=lambda trainable, _: _own(unstack_layers(trainable), trainable),
        model=lambda config: dataclasses.replace(
            config, scan_layers=True, frozen_layers=0, remat=remat
        ),
    )


def lora(
    key: PRNGKey,
    *,
    rank: int = 16,
    alpha: float = 32.0,
    targets: Collection[str] | None = None,
    dropout: float = 0.0,
    remat: str = DEFAULT_REMAT,
) -> Part:
    """Trains low-rank adapters of the layers' linear maps: W + (alpha / rank) a b.

    With dropout p a training step gives each adapter x m / (1 - p) for its input x, each entry of m
    being 1 with probability 1 - p and else 0: the mean is x. Everything else sees x.

    Args:
      key: random key for `a`, consumed; every split of the same parameters draws the same.
      rank: r, at least 1.
      alpha: alpha / rank scales the adapters.
      targets: names of the adapted modules; by default all linear maps of the layers.
      dropout: p, in [0, 1); above 0 the train state needs a key, see `create_train_state`.
      remat: see `all_parameters`.

    Returns:
      The part; its trainable tree is a Flax collection "lora".
    """
    check_integer("rank", rank)
    check_between("dropout", dropout, 0, 1, bounds="[)")
    scale = alpha / rank

    def split(params: Params) -> tuple[Params, Params]:
        frozen = stack_layers(params)
        return init_lora(key, frozen, rank=rank, targets=targets), frozen

    def export(trainable: Params, frozen: Params) -> Params:
        return unstack_layers(merge_lora(frozen, trainable, scale))

    def sampled(trainable: Params, frozen: Params) -> Params:
        if all(leaf.dtype == wide_dtype(leaf.dtype) for leaf in jax.tree.leaves(frozen)):
            return export(trainable, frozen)
        # Merged kernels would be float32: a whole model of them, beside the one that is frozen.
        return Adapted(unstack_layers(frozen), unstack_layers(scale_lora(trainable, scale)))

    return Part(
        split=split,
        variables=lambda trainable, frozen: {
            "params": frozen,
            "lora": scale_lora(trainable, scale),
        },
        export=export,
        model=lambda config: dataclasses.replace(
            config, scan_layers=True, frozen_layers=0, remat=remat, lora_dropout=dropout
        ),
        sampled=sampled,
    )


def last_layers(num_layers: int, *, remat: str = DEFAULT_REMAT) -> Part:
    """Trains the last layers; embedding, first layers, final norm and head stay as they are.

    The gradient stops below the trained layers, so the frozen ones have no backward pass.

    Args:
      num_layers: how many layers, counted from the top, are trained; at least 1.
      remat: see `all_parameters`.

    Returns:
      The part. Its functions raise ValueError for a model with fewer layers.
    """
    check_integer("num_layers", num_layers)

    def num_frozen(total: int) -> int:
        check_between("num_layers", num_layers, 1, total, note="here")
        return total - num_layers

    def split(params: Params) -> tuple[Params, Params]:
        total = sum(name.startswith("layers_") for name in params)
        stacked = stack_layers(params, num_frozen(total))
        return {"layers": stacked.pop("layers")}, stacked

    def config_for_training(config: TransformerConfig) -> TransformerConfig:
        frozen = num_frozen(config.num_layers)
        return dataclasses.replace(config, scan_layers=True, frozen_layers=frozen, remat=remat)

    return Part(
        split=split,
        variables=lambda trainable, frozen: {"params": {**frozen, **trainable}},
        export=lambda trainable, frozen: _own(unstack_layers({**frozen, **trainable}), trainable),
        model=config_for_training,
    )


def matching(*patterns: str, remat: str = DEFAULT_REMAT) -> Part:
    """Trains the parameters whose paths match, such as "*norm/scale" for all norms.

    A path is that of the layout for training, in which a leaf holds all layers:
    "layers/attention/query/kernel", "embedder/embedding", "final_norm/scale".

    Args:
      patterns: shell patterns (`*`, `?`, `[...]`, where `*` matches "/" too), each of which must
        match a parameter. `matching(*NORMS_AND_BIASES)` is the usual small choice.
      remat: see `all_parameters`.

    Returns:
      The part. Its `split` raises ValueError for a pattern that matches nothing, with near paths.
    """
    if not patterns:
        raise ValueError("patterns must name at least one parameter, got none")

    def split(params: Params) -> tuple[Params, Params]:
        leaves = flatten_dict(stack_layers(params), sep="/")
        for pattern in patterns:
            # Biases may be asked for beside norms; a model of this family has none.
            if pattern not in NORMS_AND_BIASES and not fnmatch.filter(leaves, pattern):
                near = difflib.get_close_matches(pattern, leaves, n=3, cutoff=0.3)
                hint = ", ".join(near or sorted(leaves)[:3])
                raise ValueError(f"patterns: no parameter matches {pattern!r}; near: {hint}")
        chosen = {path for p in patterns for path in fnmatch.filter(leaves, p)}
        if not chosen:
            raise ValueError(f"patterns: no parameter matches any of {patterns}")
        trainable = {path: leaf for path, leaf in leaves.items() if path in chosen}
        frozen = {path: leaf for path, leaf in leaves.items() if path not in chosen}
        return unflatten_dict(trainable, sep="/"), unflatten_dict(frozen, sep="/")

    def joined(trainable: Params, frozen: Params) -> Params:
        return unflatten_dict({**flatten_dict(frozen), **flatten_dict(trainable)})

    return Part(
        split=split,
        variables=lambda trainable, frozen: {"params": joined(trainable, frozen)},
        export=lambda trainable, frozen: _own(unstack_layers(joined(trainable, frozen)), trainable),
        model=lambda config: dataclasses.replace(
            config, scan_layers=True, frozen_layers=0, remat=remat
        ),
    )


class WithReference(NamedTuple):
    """The frozen tree of `with_reference`.

    Attributes:
      frozen: that of the part.
      reference: the parameters of the policy as it was when they were divided.
    """

    frozen: Params
    reference: Params


def with_reference(part: Part) -> Part:
    """Keeps the policy as it is at the start beside the trained one, for a KL term in the loss.

    What the part does not train is shared and not copied: beside adapters the reference costs no
    memory. The loss finds it in the collection "reference" of the variables.

    Args:
      part: which part is trained.

    Returns:
      The same part with a `WithReference` as its frozen tree.
    """

    def split(params: Params) -> tuple[Params, Params]:
        trainable, frozen = part.split(params)
        start = part.variables(trainable, frozen)["params"]
        return trainable, WithReference(frozen, _own(start, trainable))

    def variables(trainable: Params, frozen: Params) -> Params:
        found = part.variables(trainable, frozen.frozen)
        return {**found, "reference": frozen.reference}

    drawn = part.sampled
    return part._replace(
        split=split,
        variables=variables,
        export=lambda trainable, frozen: part.export(trainable, frozen.frozen),
        sampled=drawn and (lambda trainable, frozen: drawn(trainable, frozen.frozen)),
    )


def _own(exported: Params, trainable: Params) -> Params:
    """Copies the leaves that are arrays of `trainable` themselves."""
    shared = {id(leaf) for leaf in jax.tree.leaves(trainable)}

    def copied(leaf: Array) -> Array:
        return jnp.copy(leaf) if id(leaf) in shared else leaf

    return jax.tree.map(copied, exported)
