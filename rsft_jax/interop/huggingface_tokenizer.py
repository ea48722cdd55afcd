"""The tokenizer of a Hugging Face directory: its ids, what ends a turn, its chat templates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.text_files import read_json, read_text, write_json

GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"
TEMPLATES = "additional_chat_templates"

_CONFIG = "tokenizer_config.json"


def read_tokenizer(path: Path, model_config: Mapping[str, Any]) -> Tokenizer:
    """Reads the tokenizer of a directory.

    Args:
      path: the directory.
      model_config: what its `config.json` holds, which may name the tokens that end a text.

    Raises:
      FileNotFoundError: there is no `tokenizer.json`.
      ValueError: a file is damaged or hostile, or a value in it is not as it should be.
    """
    file = path / "tokenizer.json"
    definition = read_text(file)
    options = read_json(path / _CONFIG, default={})
    options = read_json(path / "special_tokens_map.json", default={}) | options
    if "auto_map" in options:
        raise ValueError(f"{path / _CONFIG}: auto_map: code that comes with a model is not run")
    templates = _templates(path, options.get("chat_template"))
    try:
        plain = Tokenizer(definition)
        ids = {}
        for name in ("bos", "eos", "pad"):
            token = options.get(f"{name}_token")
            token = token.get("content") if isinstance(token, dict) else token
            ids[f"{name}_id"] = None if token is None else plain.token_to_id(token)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    ends = _named_ends(path, model_config, plain)
    default = templates.pop("default", None)
    return plain.with_options(
        **ids, also_stop=ends, chat_template=default, named_templates=templates
    )


def write_tokenizer(path: Path, tokenizer: Tokenizer, max_length: int) -> None:
    """Writes the files of a tokenizer into a directory.

    Several chat templates go into `tokenizer_config.json` as a list, which transformers 4 and 5
    read as well as the files that 5 writes.

    Args:
      path: the directory.
      tokenizer: to write.
      max_length: longest sequence of the model, in tokens.
    """
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    (path / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")
    options = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{k}_token": tokenizer.id_to_token(i) for k, i in ids.items() if i is not None},
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    template: Any = tokenizer.chat_template
    if tokenizer.named_templates:
        named = {**({} if template is None else {"default": template}), **tokenizer.named_templates}
        template = [{"name": name, "template": text} for name, text in named.items()]
    write_json(path / _CONFIG, options | ({} if template is None else {"chat_template": template}))
    if tokenizer.stop_token_ids:
        write_json(path / GENERATION, {"eos_token_id": list(tokenizer.stop_token_ids)})


def _named_ends(path: Path, model_config: Mapping[str, Any], tokenizer: Tokenizer) -> list[int]:
    """Ids that the files name as ends of a text, those of `generation_config.json` first.

    Where that names any, transformers does not look into `config.json`, which may then hold what
    nobody has set (2, whatever token that is). Of it only special tokens are taken.
    """
    generation = read_json(path / GENERATION, default={})
    ends = _ids(path / GENERATION, generation, tokenizer.vocab_size)
    special = set(tokenizer.special_tokens.values())
    limit = None if ends else tokenizer.vocab_size
    of_config = _ids(path / "config.json", model_config, limit)
    return ends + [i for i in of_config if not ends or i in special]


def _ids(path: Path, config: Mapping[str, Any], limit: int | None) -> list[int]:
    """The ids that a file names as `eos_token_id`, one or a list."""
    value = config.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(i) is int and i >= 0 and (limit is None or i < limit) for i in ids):
        what = "an id or a list of ids" + ("" if limit is None else f" in [0, {limit})")
        raise ValueError(f"{path}: eos_token_id: must be {what}, got {value!r:.80}")
    return ids


def _templates(path: Path, in_config: Any) -> dict[str, str]:
    """The chat templates by name; the one that renders prompts is "default".

    As in transformers, files beside `tokenizer_config.json` take the place of all that it holds.
    """
    files = {file.stem: file for file in sorted((path / TEMPLATES).glob("*.jinja"))}
    files |= {"default": path / TEMPLATE} if (path / TEMPLATE).exists() else {}
    if files:
        found: dict[str, Any] = {name: read_text(file) for name, file in files.items()}
        where = f"{path / TEMPLATES}"
    else:
        found, where = _templates_of_config(path, in_config), f"{path / _CONFIG}: chat_template"
    if found and "default" not in found:
        # Without one, prompts would go to a model that was tuned to chat as if it were not.
        raise ValueError(f"{where}: must have one named 'default', got {', '.join(found)!r:.80}")
    return found


def _templates_of_config(path: Path, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    listed = value if isinstance(value, list) else [{"name": "default", "template": value}]
    pairs = [(t.get("name"), t.get("template")) for t in listed if isinstance(t, dict)]
    found = {k: text for k, text in pairs if isinstance(k, str) and isinstance(text, str)}
    if len(found) != len(listed):
        raise ValueError(
            f"{path / _CONFIG}: chat_template: must be a string, or a list of objects with a name "
            f"of its own and a template each, got {value!r:.80}"
        )
    return found
