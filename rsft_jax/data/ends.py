"""Which tokens end a completion, and which of them ends a turn.

Families say it in several places, and no place says all: `generation_config.json` and
`config.json` (one id or a list), the tokenizer's `eos_token`, a GGUF file's eos, eot and eom, and
the chat template, which writes the end of a turn after each answer. A base model that was tuned to
chat often keeps the end of a text as its `eos_token` while its turns end with another token.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

Render = Callable[[Sequence[Mapping[str, str]]], str]
"""Writes a chat as text, without the beginning of a further turn."""

END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|eot|>",
    "<|eom|>",
    "<eos>",
    "</s>",
)
"""Spellings that end a turn or a text in published families, where they are special tokens."""

_ANSWER = "Forty-two."


def end_tokens(
    special_tokens: Mapping[str, int],
    *,
    eos_id: int | None = None,
    named: Iterable[int] = (),
    after_answer: str = "",
) -> tuple[int, ...]:
    """Every id that ends a completion; the first is the one that ends a turn.

    A turn ends with what the chat template writes after an answer; where that is no special token,
    with `eos_id`, else with the first that is named, else with the first of `END_TOKENS`.

    Args:
      special_tokens: spelling -> id.
      eos_id: of the tokenizer's `eos_token`, or None.
      named: ids that the model's files name as ends, in their order.
      after_answer: what the chat template writes after an answer; see `text_after_answer`.

    Example:
      Llama 3, whose generation_config.json names the end of a text first:

      >>> llama = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|eot_id|>": 9}
      >>> end_tokens(llama, eos_id=1, named=[1, 9], after_answer="<|eot_id|>")
      (9, 1)
    """
    known = [special_tokens[token] for token in END_TOKENS if token in special_tokens]
    turn = _first_special(after_answer, special_tokens)
    found = [*turn, *([] if eos_id is None else [eos_id]), *named, *known]
    return tuple(dict.fromkeys(found))


def text_after_answer(render: Render) -> str:
    """What a chat template writes after an answer; "" if it fails or does not write the answer.

    A template that fails here fails where prompts are rendered as well, and is told of there.
    """
    chat = [{"role": "user", "content": "Six by seven?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        _, written, after = render(chat).rpartition(_ANSWER)
    except ValueError:
        return ""
    return after if written else ""


def without_end(text: str, ends: Iterable[str]) -> str:
    """A text without the ends that are spelled out behind it, and the blanks between and after.

    Other programs keep `"Yes.<|im_end|>"`, with padding `"Yes.</s></s>"`, with what a template
    writes behind it `"Yes.<|im_end|>\\n"`. A text that spells no end stays as it is, blanks too.

    >>> without_end("Yes. <|im_end|>\\n", ["<|im_end|>"])
    'Yes. '
    >>> without_end("Yes.\\n", ["<|im_end|>"])
    'Yes.\\n'
    """
    spelled = tuple(end for end in ends if end)
    while spelled and (rest := text.rstrip()).endswith(spelled):
        text = rest[: -len(max((end for end in spelled if rest.endswith(end)), key=len))]
    return text


def _first_special(text: str, special_tokens: Mapping[str, int]) -> list[int]:
    """The special token that a text begins with, blanks aside."""
    longest_first = sorted(special_tokens, key=len, reverse=True)
    if not longest_first:
        return []
    found = re.match(rf"\s*({'|'.join(map(re.escape, longest_first))})", text)
    return [special_tokens[found.group(1)]] if found else []
