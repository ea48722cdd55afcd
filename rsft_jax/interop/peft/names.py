"""What PEFT calls the linear maps of a model, by the table of weights of its family.

A kernel W `[in, out]` at `layers_3/attention/query` is the module `model.layers.3.self_attn.q_proj`
there, and its pair (a `[in, r]`, b `[r, out]`) the tensors `lora_A` `[r, in]` and `lora_B`
`[out, r]`, transposed as all matrices are, under that name.

PEFT names the modules that it adapts by the ends of their names, between dots.
"""

from collections.abc import Collection

from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import Family

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before each name in the file: PEFT wraps the model twice."""

Path = tuple[str, ...]
"""Where a module lies in the parameters: the path of its kernel without `kernel`."""


def linear_modules(family: Family, config: TransformerConfig) -> dict[str, Path]:
    """The maps inside of layers, which can be adapted: name in Hugging Face's model -> path.

    Raises:
      ValueError: two of our kernels are one matrix there, for which a pair has no counterpart.

    Example:
      >>> from rsft_jax.models.families.llama import FAMILY
      >>> from rsft_jax.models import TransformerConfig
      >>> sizes = dict(vocab_size=9, d_model=4, num_layers=2, num_heads=2, num_kv_heads=1, d_ff=8)
      >>> linear_modules(FAMILY, TransformerConfig(**sizes))["model.layers.1.mlp.up_proj"]
      ('layers_1', 'mlp', 'up')
    """
    modules: dict[str, Path] = {}
    for layer in range(config.num_layers):
        for weight in (weight.at(layer) for weight in family.layer):
            if weight.path[-1] != "kernel":
                continue
            name = weight.huggingface.removesuffix(".weight")
            if name in modules:
                raise ValueError(
                    f"{name}: is {'/'.join(modules[name])} and {'/'.join(weight.path[:-1])} here; "
                    f"adapters of {family.name} models are not written or read"
                )
            modules[name] = weight.path[:-1]
    return modules


def ends_with(name: str, end: str) -> bool:
    """Whether PEFT takes `end` for the module of this name.

    >>> ends_with("model.layers.0.mlp.up_proj", "up_proj"), ends_with("a.b_up_proj", "up_proj")
    (True, False)
    """
    return name == end or name.endswith(f".{end}")


def shortest_ends(chosen: Collection[str], everything: Collection[str]) -> list[str]:
    """The shortest ends of names that mean the chosen modules and no other one.

    >>> shortest_ends(["h.0.attn.c_proj", "h.1.attn.c_proj"],
    ...               ["h.0.attn.c_proj", "h.1.attn.c_proj", "h.0.mlp.c_proj", "h.1.mlp.c_proj"])
    ['attn.c_proj']
    """
    ends = []
    for name in chosen:
        parts = name.split(".")
        tries = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        ends.append(next(end for end in tries if _means_only(end, chosen, everything)))
    return sorted(set(ends))


def _means_only(end: str, chosen: Collection[str], everything: Collection[str]) -> bool:
    return all(name in chosen for name in everything if ends_with(name, end))
