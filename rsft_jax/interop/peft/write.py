"""Writes the folder of an adapter, which PEFT loads on top of its base model."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rsft_jax.interop.formats.text_files import write_json
from rsft_jax.interop.peft import names
from rsft_jax.interop.weights import named_family
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.transformer import Transformer
from rsft_jax.types import Params


def save_adapter(
    path: str | os.PathLike[str],
    model: Transformer,
    lora: Params,
    *,
    scale: float,
    base_model: str,
    dropout: float = 0.0,
) -> None:
    """Writes low-rank adapters as PEFT's `adapter_model.safetensors` and `adapter_config.json`.

    PEFT computes W + (alpha / r) B A for a matrix W `[out, in]`, with A `[r, in]` and B
    `[out, r]`: our pair (a, b) transposed, and alpha = scale r. Where ranks differ between modules,
    `rank_pattern` and `alpha_pattern` say so. The numbers are float32, as PEFT itself keeps them.

    Args:
      path: the folder; it is created if needed, and an adapter in it is replaced.
      model: the module; its sizes are in `model.config`, and its modules get the names of
        `config.family`.
      lora: the pairs in the unrolled layout (see `rsft_jax.models.unstack_layers`).
      scale: of the products a b, alpha / r of the training.
      base_model: name or folder of the model that the adapter was made for.
      dropout: of the adapters' inputs in training; loaded for inference it has no effect.

    Raises:
      ValueError: a pair stands where the family has no linear map or is of another shape, a number
        is not finite, or the folder holds a whole model.

    References:
      Hu et al. 2021, "LoRA", https://arxiv.org/abs/2106.09685, section 4.1.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if (path / "config.json").exists():
        raise ValueError(f"{path}: holds a model; give a folder of its own for the adapter")
    family = named_family(model.config)
    modules = names.linear_modules(family, model.config)
    pairs = _pairs(lora, modules, model.config)
    content = _config(pairs, modules, scale, base_model, dropout)
    tensors = {
        f"{names.PREFIX}{name}.lora_{letter}.weight": np.ascontiguousarray(matrix.T)
        for name, pair in pairs.items()
        for letter, matrix in zip("AB", pair)
    }
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path) as scratch:
        new = Path(scratch)
        write_json(new / names.CONFIG, content)
        save_file(tensors, new / names.WEIGHTS, metadata={"format": "pt"})
        # safetensors makes files that only their owner can read.
        (new / names.WEIGHTS).chmod((new / names.CONFIG).stat().st_mode)
        for name in (names.WEIGHTS, names.CONFIG):
            shutil.move(new / name, path / name)


def _pairs(
    lora: Params, modules: Mapping[str, names.Module], config: TransformerConfig
) -> dict[str, names.Pair]:
    """The pairs by the names of their modules."""
    found = dict(_leaves(lora))
    pairs = {}
    for name, module in modules.items():
        own = {path: found.pop(path) for path in module.paths() if path in found}
        if own:
            pairs[name] = module.joined(own, config)
    if found:
        raise ValueError(f"lora has a pair at {'/'.join(min(found))}, where nothing can be adapted")
    if not pairs:
        raise ValueError("lora has no pair, so there is no adapter")
    return pairs


def _leaves(lora: Params, path: names.Path = ()) -> Iterator[tuple[names.Path, names.Pair]]:
    if "a" in lora:
        a, b = (np.asarray(jax.device_get(lora[name]), np.float32) for name in "ab")
        where = "/".join(path)
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(
                f"lora {where}: needs [in, r] and [r, out], got {a.shape} and {b.shape}; "
                "is it in the unrolled layout?"
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError(f"lora {where}: has numbers that are not finite")
        yield path, (a, b)
        return
    for name, child in lora.items():
        yield from _leaves(child, (*path, name))


def _config(
    pairs: Mapping[str, names.Pair],
    modules: Mapping[str, names.Module],
    scale: float,
    base_model: str,
    dropout: float,
) -> dict[str, Any]:
    """What adapter_config.json says; see `peft.LoraConfig`."""
    ranks = {name: a.shape[1] for name, (a, _) in pairs.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: r for name, r in ranks.items() if r != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": _plain(scale * rank),
        "rank_pattern": others,
        "alpha_pattern": {name: _plain(scale * r) for name, r in others.items()},
        "target_modules": names.shortest_ends(list(pairs), list(modules)),
        "lora_dropout": dropout,
        "use_rslora": False,
        "use_dora": False,
        # Of a matrix that lies [in, out] there; PEFT would say so itself, with a warning.
        "fan_in_fan_out": any(part.as_it_lies for name in pairs for part in modules[name].parts),
        "bias": "none",
        "modules_to_save": None,
        "layers_to_transform": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _plain(number: float) -> int | float:
    """A whole number as such, which is what PEFT says alpha is."""
    return int(number) if float(number).is_integer() else float(number)
