"""Low-rank pairs for the tiny model, and what an adapter's files say of one, by NumPy alone."""

import json

import jax
import numpy as np
from safetensors.numpy import load_file

from rsft_jax.models.lora import init_lora
from tests.tiny import tiny_params


def random_lora(rank=4, targets=("query", "up"), seed=3):
    """Pairs with no zeros in them."""
    lora = init_lora(jax.random.key(seed), tiny_params(), rank=rank, targets=targets)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(np.float32), lora)


def merged_by_hand(folder, tensors):
    """W + (alpha / r) B A, by the files alone."""
    config = json.loads((folder / "adapter_config.json").read_text())
    pairs = load_file(folder / "adapter_model.safetensors")
    tensors = dict(tensors)
    for name in [name for name in pairs if name.endswith(".lora_A.weight")]:
        a, b = pairs[name], pairs[name.replace("lora_A", "lora_B")]
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        rank = config["rank_pattern"].get(module, config["r"])
        assert a.shape[0] == b.shape[1] == rank
        alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + alpha / rank * (b @ a)
    return tensors


def biggest_gap(tensors, others):
    assert tensors.keys() == others.keys()
    return max(np.abs(tensors[name] - others[name]).max() for name in tensors)
