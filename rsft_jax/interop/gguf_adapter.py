"""Writes low-rank adapters as a GGUF file, which llama.cpp applies to the model they belong to."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from rsft_jax.interop.formats.files import refuse_pickles
from rsft_jax.interop.formats.gguf_writer import ENCODINGS, Tensor, write_gguf_file
from rsft_jax.interop.gguf_header import general_values, header_of
from rsft_jax.interop.gguf_tensors import heads_of, permute, stored
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import Family, Weight
from rsft_jax.numerics.checks import check_choice
from rsft_jax.types import Params

_NOTHING = np.empty(())  # stands for a missing array


def write_gguf_adapter(
    path: str | os.PathLike[str],
    config: TransformerConfig,
    lora: Params,
    *,
    alpha: float,
    dtype: str = "f32",
    name: str | None = None,
) -> None:
    """Writes low-rank adapters as a GGUF file for llama.cpp (`--lora FILE`).

    To a kernel W, llama.cpp adds `scale * (alpha / rank) * a b`, with the scale 1 unless its user
    says otherwise: with that it computes what `merge_lora(params, lora, alpha / rank)` makes. The
    model itself is a file of its own, such as `write_gguf` writes, of the same family.

    Args:
      path: the file; it appears whole or not at all, and an older one is replaced.
      config: sizes of the model that is adapted.
      lora: the adapters in the unrolled layout, as `init_lora` makes them: `a` `[in, r]` and `b`
        `[r, out]`, of one rank r.
      alpha: positive; the rank, for adapters that are added as they are.
      dtype: of the adapters, "f32", "f16", "bf16" or "q8_0"; rows that do not divide into blocks of
        q8_0 become f16.
      name: what people call the adapter; by default the file's name without its ending.

    Raises:
      ValueError: `alpha` is not positive and finite, there is no adapter, one stands where the
        model has no kernel or has another shape, or where files hold several kernels as one, the
        ranks differ, or a number does not fit into
        `dtype`.

    Example:
      >>> sizes = {"d_model": 8, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "d_ff": 9}
      >>> config = TransformerConfig(vocab_size=9, num_layers=1, **sizes)
      >>> pair = {"a": np.ones((8, 2)), "b": np.ones((2, 9))}
      >>> write_gguf_adapter("up.gguf", config, {"layers_0": {"mlp": {"up": pair}}}, alpha=4.0)
      >>> from rsft_jax.interop.formats.gguf import GGUFFile
      >>> sorted(GGUFFile("up.gguf").tensors)
      ['blk.0.ffn_up.weight.lora_a', 'blk.0.ffn_up.weight.lora_b']

    References:
      https://github.com/ggml-org/llama.cpp, convert_lora_to_gguf.py and src/llama-adapter.cpp.
    """
    path = Path(path)
    refuse_pickles(path)
    check_choice("dtype", dtype, ENCODINGS)
    # llama.cpp reads 0 as "no alpha": it then leaves out the division by the rank.
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be positive and finite, got {alpha}")
    family, _ = header_of(config)
    architecture = str(family.gguf_prefix)
    values = {
        **general_values(path, architecture=architecture, kind="adapter", dtype=dtype, name=name),
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
    }
    write_gguf_file(path, values, _tensors(family, config, lora, dtype))


def _tensors(
    family: Family, config: TransformerConfig, lora: Params, dtype: str
) -> dict[str, Tensor]:
    tensors = {}
    for weight, a, b in _pairs(family, config, lora):
        heads = heads_of(family, config, weight.huggingface)
        b = b.T if heads is None else permute(b.T, heads)
        tensors[f"{weight.gguf}.lora_a"] = stored(a.T, dtype)
        tensors[f"{weight.gguf}.lora_b"] = stored(b, dtype)
    return tensors


def _pairs(
    family: Family, config: TransformerConfig, lora: Params
) -> Iterator[tuple[Weight, np.ndarray, np.ndarray]]:
    """Every adapted kernel with its `a` and `b`, in the order of the model."""
    leaves = {
        tuple(str(getattr(key, "key", key)) for key in keys): np.asarray(leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(lora)
    }
    if not leaves:
        raise ValueError("lora holds no adapter")
    ranks = set()
    for weight in family.weights(config):
        *module, kind = weight.path
        keys = [(*module, "a"), (*module, "b")]
        if kind != "kernel" or not leaves.keys() & set(keys):
            continue
        if weight.parts:
            raise ValueError(
                f"lora {'/'.join(module)}: GGUF files of a {family.name} model hold it in "
                f"{weight.gguf} beside others; merge the adapters, and write the whole model"
            )
        a, b = (leaves.pop(key, _NOTHING) for key in keys)
        _check_shapes(weight, config, a, b)
        ranks.add(len(b))
        yield weight, a, b
    if leaves:
        raise ValueError(
            f"lora has {'/'.join(min(leaves))}, where the model has no kernel; is it in the "
            "unrolled layout?"
        )
    if len(ranks) > 1:
        raise ValueError(f"lora must have one rank, got {sorted(ranks)}")


def _check_shapes(weight: Weight, config: TransformerConfig, a: np.ndarray, b: np.ndarray) -> None:
    """Raises a ValueError unless `a` is `[in, r]` and `b` `[r, out]` for a kernel `[in, out]`."""
    wide, narrow = weight.shape(config)
    rank = a.shape[-1] if a.ndim else 0
    if (a.shape, b.shape) != ((wide, rank), (rank, narrow)):
        raise ValueError(
            f"lora {'/'.join(weight.path[:-1])} needs a and b of the shapes {(wide, 'r')} and "
            f"{('r', narrow)}, got {a.shape or 'nothing'} and {b.shape or 'nothing'}"
        )
