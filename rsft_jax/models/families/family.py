"""What a family of published models is: the names and shapes by which its files are read."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from rsft_jax.models.transformer import TransformerConfig


class ReadValue(Protocol):
    """Reads one checked value of a file's header or configuration.

    It raises a `ValueError` that names the file and the key when the value has another type, or
    is missing and has no default.
    """

    def __call__(self, key: str, kind: type, default: Any = None, /) -> Any:
        """The value of a key."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """One array of a model; `{i}` in a name stands for the number of its layer.

    Attributes:
      path: where it lies in the parameters. A kernel is `[in, out]` here, `[out, in]` in files.
      axes: of its shape here, among `width`, `heads`, `kv_heads`, `hidden` and `vocab`.
      huggingface: its name in a Hugging Face checkpoint.
      gguf: its name in a GGUF file.
      untied: it is there only when the output layer is not the embedding.
    """

    path: tuple[str, ...]
    axes: tuple[str, ...]
    huggingface: str
    gguf: str
    untied: bool = False

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
        sizes = {
            "width": config.d_model,
            "heads": config.num_heads * config.head_dim,
            "kv_heads": config.num_kv_heads * config.head_dim,
            "hidden": config.d_ff,
            "vocab": config.vocab_size,
        }
        return tuple(sizes[axis] for axis in self.axes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Models that one `Transformer` computes and one set of names describes.

    Attributes:
      name: what people call it.
      model_types: `model_type` of a `config.json` that is of this family; the first is written.
      architecture: of the class in Hugging Face transformers that runs what is written.
      gguf_prefix: `general.architecture` of a GGUF file, before each of its keys.
      json_only: key of `config.json` -> (value when it is missing, values that the model computes).
      gguf_only: key without the prefix -> (value when it is missing, the value that it computes).
      sizes_of_json: reads fields of `TransformerConfig` from `config.json`.
      sizes_of_gguf: the same from a GGUF header, but for what its tensors say: `vocab_size` and
        `tie_embeddings`.
      json_of: what `config.json` says of the sizes.
      first, layer, last: the arrays before the layers, of each layer, and after them.
      interleaved: names in Hugging Face's checkpoint, by their end, of projections whose rows GGUF
        keeps in rotary pairs -> the field of `TransformerConfig` that counts their heads.
    """

    name: str
    model_types: tuple[str, ...]
    architecture: str
    gguf_prefix: str
    json_only: Mapping[str, tuple[Any, tuple[Any, ...]]]
    gguf_only: Mapping[str, tuple[Any, Any]]
    sizes_of_json: Callable[[ReadValue], dict[str, Any]]
    sizes_of_gguf: Callable[[ReadValue], dict[str, Any]]
    json_of: Callable[[TransformerConfig], dict[str, Any]]
    first: tuple[Weight, ...]
    layer: tuple[Weight, ...]
    last: tuple[Weight, ...]
    interleaved: Mapping[str, str]

    def weights(self, config: TransformerConfig) -> Iterator[Weight]:
        """Every array of a model of these sizes, from the embedding to the output."""
        yield from self.first
        for i in range(config.num_layers):
            for weight in self.layer:
                yield weight.at(i)
        for weight in self.last:
            if not (weight.untied and config.tie_embeddings):
                yield weight
