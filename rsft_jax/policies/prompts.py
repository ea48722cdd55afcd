"""Prompts in every form that a round needs: as read, as the model sees them, as token ids."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rsft_jax.data import Prompt
from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import Prompts, pad_prompts

# Prompts are padded to a multiple of this: sets of nearly the same length share a compilation.
_MULTIPLE = 16


class PromptBatch(NamedTuple):
    """P prompts of a set, in every form that a stage needs.

    Attributes:
      prompts: the prompts as read.
      rendered: their texts as the model sees them.
      tokens: their ids, padded to one width.
      places: `[P]` their places in the set.
      draws: `[P]` numbers that the sampling keys are folded from: the places, and for the k-th more
        of the same prompt k times the size of the set further on, so that it gets other candidates.
      size: of the set.
    """

    prompts: list[Prompt]
    rendered: list[str]
    tokens: Prompts
    places: np.ndarray
    draws: np.ndarray
    size: int

    @property
    def visits(self) -> np.ndarray:
        """`[P]` how often each prompt was taken before it in the batch."""
        return (self.draws - self.places) // self.size

    def take(self, places: Sequence[int] | np.ndarray) -> "PromptBatch":
        """The prompts at these places of this batch; one that is taken again is drawn for anew."""
        places = np.asarray(places)
        return PromptBatch(
            prompts=[self.prompts[i] for i in places],
            rendered=[self.rendered[i] for i in places],
            tokens=Prompts(self.tokens.tokens[places], self.tokens.lengths[places]),
            places=self.places[places],
            draws=_distinct(self.draws[places], self.size),
            size=self.size,
        )


def encode_prompts(
    prompts: Sequence[Prompt | str], tokenizer: Tokenizer, *, room: int
) -> PromptBatch:
    """Renders prompts as chats, or as they are for a model without a chat template.

    Args:
      prompts: P prompts; a string is one message of the user.
      tokenizer: the policy's.
      room: longest prompt that leaves space for a completion, in tokens.

    Raises:
      ValueError: for a prompt that is longer, by its id; nothing is cut in silence.

    Example:
      >>> from rsft_jax.data.tokenizer import byte_alphabet
      >>> letters = Tokenizer.from_bpe([*byte_alphabet(), "<|end|>"], [], special_ids=[256])
      >>> batch = encode_prompts(["Once", "upon a time"], letters, room=100)
      >>> batch.tokens.tokens.shape, batch.tokens.lengths.tolist()
      ((2, 16), [4, 11])
    """
    known = [_as_prompt(prompt, number) for number, prompt in enumerate(prompts)]
    rendered, ids = [], []
    for prompt in known:
        if tokenizer.chat_template is None:
            rendered.append(prompt.text)
            ids.append(tokenizer.encode(prompt.text))
        else:
            rendered.append(tokenizer.render_chat(prompt.messages))
            ids.append(tokenizer.encode_chat(prompt.messages))
        if not 1 <= len(ids[-1]) <= room:
            raise ValueError(
                f"prompt {prompt.id} has {len(ids[-1])} tokens; there is room for 1 to {room}"
            )
    width = min(room, -(-max(map(len, ids)) // _MULTIPLE) * _MULTIPLE)
    places = np.arange(len(known))
    tokens = pad_prompts(ids, width=width)
    return PromptBatch(known, rendered, tokens, places, draws=places, size=len(known))


def _distinct(draws: np.ndarray, size: int) -> np.ndarray:
    """The numbers, each that came before raised by `size` until it did not.

    >>> _distinct(np.array([2, 0, 2, 2]), 3).tolist()
    [2, 0, 5, 8]
    """
    taken: dict[int, None] = {}
    for draw in draws.tolist():
        while draw in taken:
            draw += size
        taken[draw] = None
    return np.array(list(taken), draws.dtype)


def same_width(*batches: PromptBatch) -> tuple[PromptBatch, ...]:
    """Pads the prompts of several sets to the width of the widest, so that they share programs."""
    width = max(batch.tokens.tokens.shape[1] for batch in batches)
    return tuple(batch._replace(tokens=_padded(batch.tokens, width)) for batch in batches)


def _padded(prompts: Prompts, width: int) -> Prompts:
    tokens = np.asarray(prompts.tokens)
    return Prompts(np.pad(tokens, ((0, 0), (0, width - tokens.shape[1]))), prompts.lengths)


def _as_prompt(prompt: Prompt | str, number: int) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    return Prompt(
        id=f"prompt-{number}", text=prompt, messages=({"role": "user", "content": prompt},)
    )
