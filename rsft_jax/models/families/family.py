"""What a family of published models is: the names and shapes by which its files are read."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Protocol

from rsft_jax.models.config import TransformerConfig


class Values(Protocol):
    """Checked values of a file's header or configuration."""

    def __call__(self, key: str, kind: type, default: Any = None, /) -> Any:
        """The value of a key.

        Raises:
          ValueError: it has another type, or is missing without a default; the file and the key
            are named.
        """
        ...

    def fail(self, key: str, reason: str, /) -> NoReturn:
        """Raises a ValueError that names the file and the key."""
        ...


def always(config: TransformerConfig) -> bool:
    """Whether a model has an array that every model of the family has."""
    del config
    return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """One array of a model; `{i}` in a name stands for the number of its layer.

    Attributes:
      path: where it lies in the parameters. A kernel is `[in, out]` here.
      axes: of its shape here, among the names of `sizes`.
      huggingface: its name in a Hugging Face checkpoint.
      gguf: its name in a GGUF file.
      untied: it is there only when the output layer is not the embedding.
      when: whether a model of these sizes has it.
      parts: where a file keeps several arrays as one, stacked along the output: the last axes of
        all of them, in their order; `part` is the number of this one.
      as_it_lies: whether a Hugging Face checkpoint holds a kernel `[in, out]` and not `[out, in]`.
    """

    path: tuple[str, ...]
    axes: tuple[str, ...]
    huggingface: str
    gguf: str
    untied: bool = False
    when: Callable[[TransformerConfig], bool] = always
    parts: tuple[str, ...] = ()
    part: int = 0
    as_it_lies: bool = False

    def at(self, layer: int) -> "Weight":
        """The same array of one layer."""
        return dataclasses.replace(
            self,
            path=tuple(part.format(i=layer) for part in self.path),
            huggingface=self.huggingface.format(i=layer),
            gguf=self.gguf.format(i=layer),
        )

    def shape(self, config: TransformerConfig) -> tuple[int, ...]:
        """Its shape in a model of these sizes."""
        length = sizes(config)
        return tuple(length[axis] for axis in self.axes)

    def span(self, config: TransformerConfig) -> tuple[int, int, int]:
        """Where it begins and ends along the output of the array of a file, and how long that is.

        Example:
          >>> from rsft_jax.models.families.phi3 import FAMILY
          >>> heads = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 2}
          >>> config = TransformerConfig(vocab_size=8, d_model=4, num_layers=1, d_ff=6, **heads)
          >>> [weight.span(config) for weight in FAMILY.layer if "key" in weight.path]
          [(4, 6, 8)]
        """
        length = sizes(config)
        widths = [length[axis] for axis in self.parts or self.axes[-1:]]
        start = sum(widths[: self.part])
        return start, start + widths[self.part], sum(widths)


def sizes(config: TransformerConfig) -> dict[str, int]:
    """How long each axis of a `Weight` is."""
    return {
        "width": config.d_model,
        "heads": config.num_heads * config.head_dim,
        "kv_heads": config.num_kv_heads * config.head_dim,
        "head": config.head_dim,
        "hidden": config.d_ff,
        "vocab": config.vocab_size,
        "positions": config.num_positions,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Models that one `Transformer` computes and one set of names describes.

    Attributes:
      name: what people call it.
      model_types: `model_type` of a `config.json` that is of this family; the first is written.
      architecture: of the class in Hugging Face transformers that runs what is written.
      classifier: of the class there that scores a text by its last token
        (`rsft_jax.models.score_head`).
      gguf_prefix: `general.architecture` of a GGUF file, before each of its keys; None where
        there is none.
      json_only: key of `config.json` -> (value when it is missing, values that the model computes).
      gguf_only: key without the prefix -> (value when it is missing, the value that it computes).
      sizes_of_json: reads fields of `TransformerConfig` from `config.json`.
      sizes_of_gguf: the same from a GGUF header, but for what its tensors say: `vocab_size` and
        `tie_embeddings`.
      json_of: what `config.json` says of the sizes.
      gguf_of: what a GGUF header says of them, by keys without the prefix; None where no file of
        the family is written.
      first, layer, last: the arrays before the layers, of each layer, and after them.
      interleaved: names in Hugging Face's checkpoint, by their end, of projections whose rows GGUF
        keeps in rotary pairs -> the field of `TransformerConfig` that counts their heads.
      left_out: patterns of names in checkpoints that say nothing of the model, such as masks.
    """

    name: str
    model_types: tuple[str, ...]
    architecture: str
    classifier: str
    gguf_prefix: str | None
    json_only: Mapping[str, tuple[Any, tuple[Any, ...]]]
    gguf_only: Mapping[str, tuple[Any, Any]]
    sizes_of_json: Callable[[Values], dict[str, Any]]
    sizes_of_gguf: Callable[[Values], dict[str, Any]]
    json_of: Callable[[TransformerConfig], dict[str, Any]]
    first: tuple[Weight, ...]
    layer: tuple[Weight, ...]
    last: tuple[Weight, ...]
    interleaved: Mapping[str, str]
    gguf_of: Callable[[TransformerConfig], dict[str, Any]] | None = None
    left_out: tuple[str, ...] = ()

    def weights(self, config: TransformerConfig) -> Iterator[Weight]:
        """Every array of a model of these sizes, from the embedding to the output."""
        for weight in self.first:
            if weight.when(config):
                yield weight
        for i in range(config.num_layers):
            for weight in self.layer:
                if weight.when(config):
                    yield weight.at(i)
        for weight in self.last:
            if weight.when(config) and not (weight.untied and config.tie_embeddings):
                yield weight
