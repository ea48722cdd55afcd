"""Whole conversations as tokens, and which of them the assistant said."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rsft_jax.data.chat import Message
from rsft_jax.data.tokenizer import Tokenizer


class Turns(NamedTuple):
    """A conversation of T tokens.

    Attributes:
      tokens: `[T]` ids of the whole chat.
      said: `[T]` bool, true for the tokens of the assistant's turns, the one that ends a turn
        among them: what a policy that speaks in the assistant's place has to say.
    """

    tokens: np.ndarray
    said: np.ndarray


def encode_turns(messages: Sequence[Message], tokenizer: Tokenizer) -> Turns:
    """Encodes a conversation and marks the assistant's turns.

    A turn is what follows the beginning that the chat template writes for it, up to and with the
    first token that ends one (`Tokenizer.stop_token_ids`): exactly what would have been drawn. What
    the template writes behind that, a line break say, and all that others say is not marked.

    Args:
      messages: of the conversation, at least one by the role "assistant", which is not the first.
      tokenizer: the policy's, with a chat template.

    Raises:
      ValueError: nothing is said by the assistant, or nothing before it; the template fails, writes
        no end behind a turn, or writes a turn otherwise where more follows (as templates do that
        drop earlier thoughts), so that the turn was never drawn like that.

    Example:
      >>> from rsft_jax.data.tokenizer import byte_alphabet
      >>> template = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"
      >>> letters = [*byte_alphabet(), "<|end|>"]
      >>> own = Tokenizer.from_bpe(letters, [], special_ids=[256], chat_template=template)
      >>> chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
      >>> encode_turns(chat, own).said.astype(int).tolist()
      [0, 0, 0, 1, 1, 1, 1]
    """
    places = [place for place, m in enumerate(messages) if m.get("role") == "assistant"]
    if not places or places[0] == 0:
        raise ValueError(
            "messages must hold a turn of the assistant behind another one, got the roles "
            f"{[m.get('role') for m in messages]}"
        )
    tokens = tokenizer.encode_chat(messages, add_generation_prompt=False)
    said, ends = np.zeros(len(tokens), bool), frozenset(tokenizer.stop_token_ids)
    for place in places:
        start = tokenizer.encode_chat(messages[:place], add_generation_prompt=True)
        through = tokenizer.encode_chat(messages[: place + 1], add_generation_prompt=False)
        if tokens[: len(through)] != through or through[: len(start)] != start:
            raise ValueError(
                f"messages[{place}]: the chat template writes this turn otherwise where it is "
                "asked for, or where more follows"
            )
        turn = through[len(start) :]
        end = next((i for i, token in enumerate(turn) if token in ends), None)
        if end is None:
            raise ValueError(f"messages[{place}]: the chat template writes no end behind this turn")
        said[len(start) : len(start) + end + 1] = True
    return Turns(np.asarray(tokens, np.int32), said)
