"""What PEFT calls the linear maps of a model, by the table of weights of its family.

A kernel W `[in, out]` at `layers_3/attention/query` is the module `model.layers.3.self_attn.q_proj`
there, and its pair (a `[in, r]`, b `[r, out]`) the tensors `lora_A` `[r, in]` and `lora_B`
`[out, r]`, transposed as all matrices are, under that name.

PEFT names the modules that it adapts by the ends of their names, between dots.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import Family, Weight

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before each name in the file: PEFT wraps the model twice."""

Path = tuple[str, ...]
"""Where a module lies in the parameters: the path of its kernel without `kernel`."""

Pair = tuple[np.ndarray, np.ndarray]
"""a `[in, r]` and b `[r, out]`."""


class Module(NamedTuple):
    """A linear map of Hugging Face's model: one of our kernels, or several side by side.

    A pair of such a matrix is one of each of its parts, of the same a. The other way round the
    pairs of the parts are one pair whose rank is the sum of theirs:

        [x a1 b1, x a2 b2] = x [a1 a2] [[b1, 0], [0, b2]]

    Attributes:
      parts: the kernels, in their order along the output.
    """

    parts: tuple[Weight, ...]

    def shape(self, config: TransformerConfig) -> tuple[int, int]:
        """`(in, out)` of the whole."""
        return self.parts[0].shape(config)[0], self.parts[0].span(config)[2]

    def paths(self) -> list[Path]:
        """Where its parts lie in the parameters."""
        return [part.path[:-1] for part in self.parts]

    def joined(self, pairs: Mapping[Path, Pair], config: TransformerConfig) -> Pair:
        """The pair of the whole, of those of the parts that have one."""
        if len(self.parts) == 1:
            return pairs[self.paths()[0]]
        some = [
            (part, *pairs[path]) for part, path in zip(self.parts, self.paths()) if path in pairs
        ]
        lower = np.zeros((sum(len(b) for _, _, b in some), self.shape(config)[1]), np.float32)
        row = 0
        for part, _, b in some:
            start, stop, _ = part.span(config)
            lower[row : row + len(b), start:stop] = b
            row += len(b)
        return np.concatenate([a for _, a, _ in some], axis=1), lower

    def parted(self, pair: Pair, config: TransformerConfig) -> Iterator[tuple[Path, Pair]]:
        """The pairs of the parts, of that of the whole."""
        a, b = pair
        for part, path in zip(self.parts, self.paths()):
            start, stop, _ = part.span(config)
            yield path, (a, b[:, start:stop])


def linear_modules(family: Family, config: TransformerConfig) -> dict[str, Module]:
    """The maps inside of layers, which can be adapted, by their names in Hugging Face's model.

    Example:
      >>> from rsft_jax.models.families.phi3 import FAMILY
      >>> from rsft_jax.models import TransformerConfig
      >>> sizes = dict(vocab_size=9, d_model=4, num_layers=2, num_heads=2, num_kv_heads=1, d_ff=8)
      >>> modules = linear_modules(FAMILY, TransformerConfig(**sizes, head_dim=2))
      >>> modules["model.layers.1.mlp.gate_up_proj"].paths()
      [('layers_1', 'mlp', 'gate'), ('layers_1', 'mlp', 'up')]
    """
    modules: dict[str, Module] = {}
    for layer in range(config.num_layers):
        for weight in (weight.at(layer) for weight in family.layer):
            if weight.path[-1] == "kernel":
                name = weight.huggingface.removesuffix(".weight")
                before = modules.get(name, Module(())).parts
                modules[name] = Module((*before, weight))
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
