"""Reads the folder of an adapter of PEFT; nothing in it is left out."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rsft_jax.interop.formats.safetensors import SafetensorsFile
from rsft_jax.interop.peft import names
from rsft_jax.interop.peft.config import AdapterConfig, read_adapter_config
from rsft_jax.interop.weights import named_family
from rsft_jax.models.transformer import Transformer
from rsft_jax.types import Params

# `default` is the name of the adapter in a model's own state dict, which some programs save.
_NAME = re.compile(rf"{re.escape(names.PREFIX)}(.+)\.lora_([AB])(?:\.default)?\.weight")


def load_adapter(path: str | os.PathLike[str], model: Transformer) -> Params:
    """Reads low-rank adapters that PEFT, or `save_adapter`, has saved.

    Args:
      path: the folder, with adapter_config.json and adapter_model.safetensors.
      model: the module of the base model; its modules have the names of `config.family`.

    Returns:
      The pairs a `[in, r]` and b `[r, out]`, float32, in the unrolled layout, b with the scale in
      it: `merge_lora(params, pairs)` of `rsft_jax.models.lora` is the adapted model.

    Raises:
      ValueError: a field of the configuration has a value that is not computed here, a target or a
        tensor has no place in the model, one is missing, or of another shape.
      FileNotFoundError: a file is missing.
    """
    path = Path(path)
    config = read_adapter_config(path)
    family = named_family(model.config)
    modules = names.linear_modules(family, model.config)
    chosen = config.chosen(modules, model.config.num_layers)
    tensors = _tensors(path, chosen)
    pairs: dict[str, Any] = {}
    for name in chosen:
        pair = _pair(path, name, config, modules[name].shape(model.config), tensors)
        for place, (a, b) in modules[name].parted(pair, model.config):
            node = pairs
            for key in place:
                node = node.setdefault(key, {})
            node["a"], node["b"] = jnp.array(a, copy=True), jnp.array(b, copy=True)
    return pairs


def _tensors(path: Path, chosen: list[str]) -> dict[tuple[str, str], np.ndarray]:
    """The tensors by module and letter."""
    file = path / names.WEIGHTS
    if not file.is_file() and (path / "adapter_model.bin").exists():
        raise ValueError(
            f"{path / 'adapter_model.bin'}: is a pickle, which runs code when it is read; save the "
            "adapter with safe_serialization=True"
        )
    held = SafetensorsFile(file)
    found: dict[tuple[str, str], np.ndarray] = {}
    for name in held:
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in chosen:
            raise ValueError(f"{file}: {name:.120}: no module that is adapted has such a tensor")
        if match.groups() in found:
            raise ValueError(f"{file}: {name:.120}: is there twice")
        found[match[1], match[2]] = held[name]
    return found


def _pair(
    path: Path,
    name: str,
    config: AdapterConfig,
    shape: tuple[int, int],
    tensors: Mapping[tuple[str, str], np.ndarray],
) -> names.Pair:
    """The pair of a module, whose kernel is `[in, out]`, b scaled."""
    inputs, outputs = shape
    rank, made = config.rank(name), []
    for letter, wanted in (("A", (rank, inputs)), ("B", (outputs, rank))):
        where = f"{path / names.WEIGHTS}: {names.PREFIX}{name}.lora_{letter}.weight"
        if (name, letter) not in tensors:
            raise ValueError(f"{where}: this tensor is missing")
        tensor = np.asarray(tensors[name, letter])
        if tensor.shape != wanted:
            raise ValueError(f"{where}: needs the shape {wanted}, got {tensor.shape}")
        tensor = tensor.astype(np.float32)
        if not np.isfinite(tensor).all():
            raise ValueError(f"{where}: has numbers that are not finite")
        made.append(tensor.T)
    a, b = made
    return a, b * np.float32(config.scale(name))
