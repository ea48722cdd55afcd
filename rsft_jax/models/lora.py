"""Low-rank adapters: a small trainable pair of matrices beside each frozen kernel.

A kernel W `[in, out]` is adapted to W + scale * a b with a `[in, r]` and b `[r, out]`. The pairs
live in a tree of their own (the Flax collection "lora") that follows the path of each kernel, with
`{"a", "b"}` where the parameters have `{"kernel"}`; `Transformer` adds `(x @ a) @ b` wherever it
finds one. The functions here are pure and work on either layout of the parameters: in the scanned
layout every leaf has the layers on a leading axis. Shapes: L layers, r rank.

References:
  Hu et al. 2021, "LoRA", https://arxiv.org/abs/2106.09685, section 4.1.
"""

import difflib
import re
import zlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rsft_jax.numerics.checks import check_integer
from rsft_jax.numerics.dtypes import wide_dtype, widened
from rsft_jax.types import Array, Numeric, Params, PRNGKey


class Adapted(NamedTuple):
    """Parameters with adapters beside them: what `logits_fn` takes where they are not merged.

    Attributes:
      params: the parameters.
      lora: adapters in their layout, b with its scale in it.
    """

    params: Params
    lora: Params


def linear_maps(params: Params) -> tuple[str, ...]:
    """The names of the linear maps of the layers, in alphabetical order.

    Example:
      >>> params = {"layers_0": {"mlp": {"up": {"kernel": jnp.ones((4, 8))}}}}
      >>> linear_maps(params | {"head": {"kernel": jnp.ones((4, 9))}})
      ('up',)
    """
    return tuple(sorted({path[-1] for path, _ in _kernels(params) if len(path) > 1}))


def init_lora(
    key: PRNGKey, params: Params, *, rank: int, targets: Collection[str] | None = None
) -> Params:
    """Makes adapters that change nothing yet: b = 0, a ~ Normal(0, 1 / in).

    The variance 1 / in keeps `x @ a` at the scale of x whatever the width. The draw for a kernel
    depends on the key, the name and the number of its layer alone, so both layouts and every
    choice of `targets` give the same numbers.

    Args:
      key: random key, consumed.
      params: parameters in either layout; kernels are `[in, out]` or `[L, in, out]`.
      rank: r, at least 1.
      targets: names of the modules to adapt; by default all of `linear_maps`, the seven of a
        Llama's layer: query, key, value, output, gate, up and down.

    Returns:
      A tree with `a` `[in, r]` and `b` `[r, out]` (or with a leading L) for each adapted kernel;
      float32 where that is in half precision, in which small steps of an optimizer are lost.

    Raises:
      ValueError: if `rank` is below 1, or a target names no module that has a kernel.

    Example:
      >>> params = {"layers_0": {"mlp": {"up": {"kernel": jnp.ones((4, 8))}}}}
      >>> lora = init_lora(jax.random.key(0), params, rank=2, targets=["up"])
      >>> jax.tree.map(jnp.shape, lora)
      {'layers_0': {'mlp': {'up': {'a': (4, 2), 'b': (2, 8)}}}}
    """
    check_integer("rank", rank)
    kernels = dict(_kernels(params))
    names = sorted({path[-1] for path in kernels})
    targets = linear_maps(params) if targets is None else targets
    for target in targets:
        if target not in names:
            near = difflib.get_close_matches(target, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"targets: no module {target!r} among {names}{hint}")
    lora: dict[str, Any] = {}
    for path, kernel in kernels.items():
        if path[-1] in targets:
            node = lora
            for name in path:
                node = node.setdefault(name, {})
            node["a"] = _draw(key, path, kernel, rank)
            shape = (*kernel.shape[:-2], rank, kernel.shape[-1])
            node["b"] = jnp.zeros(shape, wide_dtype(kernel.dtype))
    return lora


def scale_lora(lora: Params, scale: Numeric) -> Params:
    """Multiplies every b by `scale`, so that the model itself needs to know no scale.

    Args:
      lora: adapters.
      scale: usually alpha / rank.

    Returns:
      The adapters with `a` as it was and `b` times `scale`.
    """

    def scaled(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf * jnp.asarray(scale, leaf.dtype) if path[-1].key == "b" else leaf

    return jax.tree_util.tree_map_with_path(scaled, lora)


def merge_lora(params: Params, lora: Params, scale: Numeric = 1.0) -> Params:
    """Adds `scale * a b` to each adapted kernel.

    Args:
      params: parameters, in the layout of `lora`.
      lora: adapters as made by `init_lora`.
      scale: usually alpha / rank.

    Returns:
      New parameters; leaves that have no adapter are the same arrays. A kernel in half precision
      becomes float32, because a small change of it would be rounded away.

    Raises:
      ValueError: if an adapter stands where the parameters have no kernel.
    """
    if not isinstance(lora, dict):
        raise ValueError(f"lora must be a nested dict, got {type(lora).__name__}")
    merged = dict(params)
    for name, adapter in lora.items():
        if name not in merged:
            raise ValueError(f"lora has {name!r}, which is not among {sorted(merged)}")
        if "a" in adapter:
            kernel = widened(merged[name]["kernel"])
            # In float32 on every device: the default precision of a TPU would round the product.
            product = jnp.matmul(adapter["a"], adapter["b"], precision=jax.lax.Precision.HIGHEST)
            change = product * jnp.asarray(scale, product.dtype)
            merged[name] = {**merged[name], "kernel": kernel + change.astype(kernel.dtype)}
        else:
            merged[name] = merge_lora(merged[name], adapter, scale)
    return merged


def _kernels(tree: Params, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Array]]:
    """Lists the modules that have a kernel, as (path, kernel)."""
    found = []
    for name, child in tree.items():
        if name == "kernel" and path:
            found.append((path, jnp.asarray(child)))
        elif hasattr(child, "items"):
            found += _kernels(child, (*path, name))
    return found


def _draw(key: PRNGKey, path: Sequence[str], kernel: Array, rank: int) -> Array:
    layer = re.fullmatch(r"layers_(\d+)", path[0])
    # The name of a module inside its layer picks its key (crc32 is stable, Python's hash is not).
    name = "/".join(path[1:] if layer or kernel.ndim == 3 else path)
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    width, dtype = kernel.shape[-2], wide_dtype(kernel.dtype)

    def draw(layer: Numeric) -> Array:
        normal = jax.random.normal(jax.random.fold_in(key, layer), (width, rank), dtype)
        return normal * jnp.asarray(width**-0.5, dtype)

    if kernel.ndim == 3:
        return jax.vmap(draw)(jnp.arange(kernel.shape[0], dtype=jnp.uint32))
    return draw(int(layer[1]) if layer else 0)
