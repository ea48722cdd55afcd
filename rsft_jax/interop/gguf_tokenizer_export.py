"""A tokenizer as the lists of a GGUF file; what they cannot say is refused.

A GGUF file holds tokens, merges and the name of a rule by which text is split before them.
Everything else that a tokenizer may do (normal forms, tokens that take the blanks around them,
what follows a text) the programs that read it would leave out without a word, and would then
answer to other tokens than the model was trained on.

One difference stays: a byte without a token (SmolLM2 has none for some control characters) falls
away here before the merges, so that its neighbours may merge, and in llama.cpp after them.
"""

import json
from collections.abc import Iterator, Mapping, Set
from typing import Any

from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.interop.gguf_tokenizer import (
    CONTROL,
    NORMAL,
    SPLITS,
    TEMPLATE,
    UNUSED,
    USER_DEFINED,
)

# Tokens that llama.cpp ends a completion at by their spelling, wherever they are special
# (src/llama-vocab.cpp, `special_eog_ids`), of those in `rsft_jax.data.ends.END_TOKENS`: both find
# them again without a key.
_KNOWN_ENDS = frozenset(
    (
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|end|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
        "<eos>",
        "</s>",
    )
)


def tokenizer_values(
    tokenizer: Tokenizer, num_rows: int, *, drop_normalizer: bool = False
) -> dict[str, Any]:
    """The header values of a tokenizer, by key.

    Args:
      tokenizer: to write.
      num_rows: of the embedding. llama.cpp wants a token for each: those without one are unused.
      drop_normalizer: whether to write a tokenizer without its Unicode normal form.

    Raises:
      ValueError: the tokenizer has more ids than there are rows, or does something that GGUF
        cannot say; the message says what.
    """
    if tokenizer.vocab_size > num_rows:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, but the model only {num_rows}"
        )
    definition = json.loads(tokenizer.definition)
    for reason in _what_gguf_cannot_say(tokenizer, definition, drop_normalizer):
        raise ValueError(f"this tokenizer cannot be written as GGUF: {reason}")
    merges = definition["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _split(definition),
        **_tokens(tokenizer, definition, num_rows),
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        **_special_ids(tokenizer),
        # Said in any case: without the key llama.cpp decides by the rule of splitting.
        "tokenizer.ggml.add_bos_token": bool(tokenizer.start_ids),
        "tokenizer.ggml.add_eos_token": False,
        **_templates(tokenizer),
    }


def _tokens(tokenizer: Tokenizer, definition: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    added = {t["id"]: CONTROL if t["special"] else USER_DEFINED for t in definition["added_tokens"]}
    tokens, kinds = [], []
    for i in range(num_rows):
        token = tokenizer.id_to_token(i)
        tokens.append(f"[PAD{i}]" if token is None else token)
        kinds.append(UNUSED if token is None else added.get(i, NORMAL))
    return {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}


def _special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of special tokens by key.

    There are three keys for ends: of a text (eos), a turn (eot) and a message (eom).
    """
    eos, turn = _eos(tokenizer), tokenizer.end_id
    further = [*([] if turn == eos else [turn]), *_unknown_ends(tokenizer, besides={eos, turn})]
    ids = {"bos": tokenizer.bos_id, "eos": eos, "padding": tokenizer.pad_id}
    ids |= dict(zip(("eot", "eom"), further))
    return {f"tokenizer.ggml.{key}_token_id": i for key, i in ids.items() if i is not None}


def _eos(tokenizer: Tokenizer) -> int | None:
    return tokenizer.end_id if tokenizer.eos_id is None else tokenizer.eos_id


def _unknown_ends(tokenizer: Tokenizer, *, besides: set[int | None]) -> list[int]:
    """Ends of a completion that only a key can tell of."""
    special = tokenizer.special_tokens
    known = besides | {special.get(token) for token in _KNOWN_ENDS}
    return [i for i in tokenizer.stop_token_ids if i not in known]


def _templates(tokenizer: Tokenizer) -> dict[str, Any]:
    named = dict(tokenizer.named_templates)
    default = {} if tokenizer.chat_template is None else {TEMPLATE: tokenizer.chat_template}
    names = {"tokenizer.chat_templates": list(named)} if named else {}
    return default | names | {f"{TEMPLATE}.{name}": text for name, text in named.items()}


def _split(definition: Mapping[str, Any]) -> str | None:
    """The name of the rule by which a tokenizer splits text, None if it has none in GGUF."""
    for name, options in SPLITS.items():
        named = Tokenizer.from_bpe(byte_alphabet(), [], **options).definition
        if _splitting(json.loads(named)) == _splitting(definition):
            return name
    return None


def _splitting(definition: Mapping[str, Any]) -> list[Any]:
    """What is done to a text before the merges, in a form that can be compared."""
    steps = [
        {key: value for key, value in step.items() if key != "trim_offsets"}  # of no id
        for step in _flat(definition["pre_tokenizer"], "pretokenizers")
    ]
    return [*steps, bool(definition["model"].get("ignore_merges"))]


def _flat(step: Mapping[str, Any] | None, inner: str) -> Iterator[Mapping[str, Any]]:
    """The steps of nested sequences."""
    if step is not None and step["type"] == "Sequence":
        for child in step[inner]:
            yield from _flat(child, inner)
    elif step is not None:
        yield step


def _what_gguf_cannot_say(
    tokenizer: Tokenizer, definition: Mapping[str, Any], drop_normalizer: bool
) -> Iterator[str]:
    model = definition["model"]
    if model["type"] != "BPE":
        yield f"its model is {model['type']}; only byte-level BPE is written"
        return
    yield from _of_the_model(model, {token["content"] for token in definition["added_tokens"]})
    normalizers = [n["type"] for n in _flat(definition["normalizer"], "normalizers")]
    if normalizers == ["NFC"] and not drop_normalizer:
        yield (
            "its normalizer, NFC, is unknown to llama.cpp; drop_normalizer=True writes the rest, "
            "and text that is not in this form gets other tokens there"
        )
    elif normalizers and normalizers != ["NFC"]:
        yield f"its normalizer, {', '.join(normalizers)}, is unknown to llama.cpp"
    if _split(definition) is None:
        yield (
            f"it splits text by none of the rules {', '.join(SPLITS)}, but by "
            f"{json.dumps(definition['pre_tokenizer'])}, ignore_merges "
            f"{bool(model.get('ignore_merges'))}"
        )
    for token in definition["added_tokens"]:
        for flag in ("lstrip", "rstrip", "single_word"):
            if token[flag]:
                yield f"its token {token['content']!r} has the flag {flag}"
    yield from _of_ends_and_starts(tokenizer)


def _of_the_model(model: Mapping[str, Any], added: Set[str]) -> Iterator[str]:
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            yield f"its model has {key} {model[key]!r}"
    alphabet = set(byte_alphabet())
    ordinary = model["vocab"].keys() - added
    strange = min((token for token in ordinary if not alphabet.issuperset(token)), default=None)
    if strange is not None:
        yield f"its token {strange!r} is not spelled in the byte alphabet of GPT-2"
    if model.get("unk_token") is not None and not alphabet <= set(model["vocab"]):
        yield f"it writes {model['unk_token']!r} for bytes that have no token"


def _of_ends_and_starts(tokenizer: Tokenizer) -> Iterator[str]:
    import tokenizers

    if tokenizer.start_ids not in ((), (tokenizer.bos_id,)):
        yield f"it begins texts with the ids {tokenizer.start_ids}, not with bos_id alone"
    whole = tokenizers.Tokenizer.from_str(tokenizer.definition).encode("a").ids
    if whole != [*tokenizer.start_ids, *tokenizer.encode("a")]:
        yield f"it adds tokens behind a text: 'a' becomes {whole}"
    eos = _eos(tokenizer)
    # Where the keys are missing, llama.cpp takes the token 11 for both, whatever it is.
    if eos is None:
        yield "no token ends its texts, and llama.cpp would end them at token 11; set eos_id"
    templates = (tokenizer.chat_template or "", *tokenizer.named_templates.values())
    if tokenizer.bos_id is None and any("bos_token" in text for text in templates):
        yield "its chat template writes bos_token, but there is no bos_id"
    besides = {eos, tokenizer.end_id}
    unknown = _unknown_ends(tokenizer, besides=besides)
    if len(besides) + len(unknown) > 3:
        yield f"it has more ends of a text than GGUF's three: {tokenizer.stop_token_ids}"
