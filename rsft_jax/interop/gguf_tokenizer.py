"""The tokenizer of a GGUF file: how its lists are read, and which names its splitting goes by."""

from collections.abc import Mapping
from typing import Any

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.gguf import GGUFFile

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Values of `tokenizer.ggml.token_type`."""

TEMPLATE = "tokenizer.chat_template"
"""The key of the default chat template; NAME of a further one follows a dot."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

SPLITS: Mapping[str, Mapping[str, Any]] = {
    "gpt-2": {},
    "smollm": {"split_digits": True},
    "llama-bpe": {"split_pattern": rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}", "ignore_merges": True},
    "qwen2": {"split_pattern": rf"{_WORDS}|\p{{N}}|{_REST}"},
}
"""How each `tokenizer.ggml.pre` splits text before the merges, as options of `from_bpe`.

llama.cpp has the same rules under these names (src/llama-vocab.cpp, `llm_tokenizer_bpe`). It knows
no Unicode normalisation: text in Qwen's GGUF files is not brought to NFC, as in its tokenizer.json.
"""

_READ_AS = {"default": "gpt-2"}
_BEGINS_TEXTS = ("llama-bpe",)  # with bos, where the file does not say whether to


def read_tokenizer(file: GGUFFile) -> Tokenizer:
    """Reads the tokenizer of a GGUF file.

    Unused tokens at the end of the list are padding of the embedding, and are left out.

    Raises:
      ValueError: a value is missing or not as it should be, or the tokenizer is of a kind that is
        not read; the message names the file and the key.
    """
    kind = file.require("tokenizer.ggml.model", str)
    split: str = file.require("tokenizer.ggml.pre", str, "default")
    for key, value, known in (
        ("tokenizer.ggml.model", kind, ("gpt2",)),
        ("tokenizer.ggml.pre", split, (*SPLITS, *_READ_AS)),
    ):
        if value not in known:
            file.fail(
                key,
                f"must be one of {', '.join(known)}, got {value!r:.80}; a Hugging Face directory "
                "of the model brings its own tokenizer.json",
            )
    tokens = file.require("tokenizer.ggml.tokens", list)
    kinds = file.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        file.fail("tokenizer.ggml.token_type", "must have one entry a token")
    while kinds and kinds[-1] == UNUSED:
        kinds.pop()
    ids = {
        f"{name}_id": file.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    ends = [file.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom")]
    templates = {
        key.removeprefix(TEMPLATE).lstrip("."): file.require(key, str)
        for key in file
        if key == TEMPLATE or key.startswith(f"{TEMPLATE}.")
    }
    try:
        return Tokenizer.from_bpe(
            tokens[: len(kinds)],
            file.require("tokenizer.ggml.merges", list),
            special_ids=[i for i, k in enumerate(kinds) if k == CONTROL],
            added_ids=[i for i, k in enumerate(kinds) if k == USER_DEFINED],
            also_stop=[end for end in ends if end is not None],
            chat_template=templates.pop("", None),
            named_templates=templates,
            add_bos=bool(file.get("tokenizer.ggml.add_bos_token", split in _BEGINS_TEXTS)),
            **SPLITS[_READ_AS.get(split, split)],
            **ids,
        )
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file.path}: tokenizer: {error}") from error
