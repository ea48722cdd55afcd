"""What of a folder belongs to a model, so that a folder never holds two.

Readers look for several names and take the first that is there: of two models in a folder each
reader gets another one, or the weights of one with the tokenizer of the other.
"""

import re
from collections.abc import Collection
from pathlib import Path

from rsft_jax.interop.huggingface_tokenizer import GENERATION, TEMPLATE, TEMPLATES

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"

_ADAPTER = "adapter_config.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# Files that say something of a model or of its tokenizer, and win over, or add to, what is written.
_BESIDE = (INDEX, WEIGHTS, GENERATION, TEMPLATE, "chat_template.json", "special_tokens_map.json")
_BESIDE += ("added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
# Weights in other forms, which some reader would take for the model.
_OTHERS = ("*.safetensors", "*.gguf", "pytorch_model*", "tf_model*", "flax_model*", "consolidated*")
_OTHERS += (_ADAPTER, "adapter_model*")


def check_one_model(path: Path) -> None:
    """Raises a ValueError for a folder with an adapter, or with weights of two models."""
    if (path / _ADAPTER).exists():
        raise ValueError(
            f"{path / _ADAPTER}: the folder holds an adapter (PEFT), which would be left out; "
            "give the folder of its base model, and merge it into its base model by `load_adapter` "
            "or policy.adapter"
        )
    if (path / INDEX).exists() and (path / WEIGHTS).exists():
        raise ValueError(
            f"{path}: holds two models, {WEIGHTS} and the parts that {INDEX} lists; remove one"
        )


def older_files(path: Path, new: Collection[str]) -> list[Path]:
    """The files of the model in a folder that a new one of these files would not replace.

    Args:
      path: the folder.
      new: names of the files that are about to be written.

    Raises:
      ValueError: it holds weights of a kind that is never written here, which are not removed.
    """
    shards = [file for file in path.glob("model-*.safetensors") if _SHARD.fullmatch(file.name)]
    replaced = {path / WEIGHTS, *shards}
    others = sorted({file for pattern in _OTHERS for file in path.glob(pattern)} - replaced)
    others = [file for file in others if file.name != INDEX]
    if others:
        raise ValueError(
            f"{others[0]}: belongs to another model; give an empty folder, or remove this file"
        )
    beside = [path / name for name in _BESIDE if name not in new and (path / name).exists()]
    return [*beside, *sorted((path / TEMPLATES).glob("*.jinja")), *sorted(shards)]
