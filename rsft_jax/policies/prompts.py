"""Prompts in every form that a round needs: as read, as the model sees them, as token ids."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from rsft_jax.data import Prompt
from rsft_jax.data.chat import Message
from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import Prompts, pad_prompts

# Prompts are padded to a multiple of this: sets of nearly the same length share a compilation.
_MULTIPLE = 16


AssistantLast = Literal["refuse", "continue"]
"""What becomes of a chat that ends with words of the assistant."""


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
      banned: of each prompt, the tokens that no completion of it may have, in ascending order; None
        where none is banned.
    """

    prompts: list[Prompt]
    rendered: list[str]
    tokens: Prompts
    places: np.ndarray
    draws: np.ndarray
    size: int
    banned: list[tuple[int, ...]] | None = None

    def allowed_tokens(self, vocab_size: int) -> np.ndarray | None:
        """`[P, V]` bool, what `generate` and `score` take as `allowed_tokens`; None for all."""
        if self.banned is None:
            return None
        allowed = np.ones((len(self.banned), vocab_size), bool)
        for row, tokens in zip(allowed, self.banned):
            row[list(tokens)] = False
        return allowed

    def check_nothing_banned(self, proposal: str) -> None:
        """Raises a ValueError for prompts whose banned tokens a proposal cannot leave out."""
        if self.banned is not None:
            raise ValueError(f"banned must be None for candidates that {proposal} draws")

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
            banned=None if self.banned is None else [self.banned[i] for i in places],
        )


def encode_prompts(
    prompts: Sequence[Prompt | str],
    tokenizer: Tokenizer,
    *,
    room: int,
    assistant_last: AssistantLast = "refuse",
    banned: str | None = None,
) -> PromptBatch:
    """Renders prompts as chats; for a model without a chat template, a text as it is.

    A base model's text begins with what its tokenizer begins every text with
    (`Tokenizer.encode_prompt`); what a chat begins with, its template writes.

    Args:
      prompts: P prompts; a string is one message of the user.
      tokenizer: the policy's.
      room: longest prompt that leaves space for a completion, in tokens.
      assistant_last: what becomes of a chat that ends with words of the assistant: "refuse" it, or
        "continue" them, so that a completion is the rest of that message.
      banned: a column with a list of texts, of one token each, that no completion of the prompt may
        have. The law of a completion is then that of the policy whose other tokens share their
        mass, at each step.

    Raises:
      ValueError: `assistant_last` is neither; or, by the prompt's id: it is longer, nothing being
        cut in silence; it is a chat, and there is no template; the template refuses it or leaves a
        message out; it ends with words of the assistant, which are to be refused; what is banned
        for it is no list of texts, or one of them is not one token.

    Example:
      >>> from rsft_jax.data.tokenizer import byte_alphabet
      >>> letters = Tokenizer.from_bpe([*byte_alphabet(), "<|end|>"], [], special_ids=[256])
      >>> batch = encode_prompts(["Once", "upon a time"], letters, room=100)
      >>> batch.tokens.tokens.shape, batch.tokens.lengths.tolist()
      ((2, 16), [4, 11])
    """
    if assistant_last not in get_args(AssistantLast):
        allowed = " or ".join(get_args(AssistantLast))
        raise ValueError(f"assistant_last must be {allowed}, got {assistant_last!r}")
    known = [_as_prompt(prompt, number) for number, prompt in enumerate(prompts)]
    rendered, ids = [], []
    for prompt in known:
        try:
            text, tokens = _encoded(prompt, tokenizer, assistant_last)
        except ValueError as error:
            raise ValueError(f"prompt {prompt.id}: {error}") from error
        if not 1 <= len(tokens) <= room:
            raise ValueError(
                f"prompt {prompt.id} has {len(tokens)} tokens; there is room for 1 to {room}, the "
                "policy's context less the longest completion"
            )
        rendered.append(text)
        ids.append(tokens)
    width = min(room, -(-max(map(len, ids)) // _MULTIPLE) * _MULTIPLE)
    places = np.arange(len(known))
    tokens = pad_prompts(ids, width=width)
    never = None if banned is None else [_banned(prompt, banned, tokenizer) for prompt in known]
    return PromptBatch(known, rendered, tokens, places, places, len(known), banned=never)


def _banned(prompt: Prompt, column: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that a column of a prompt names."""
    texts = prompt.fields.get(column)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        found = "no such column" if texts is None else f"{texts!r:.60}"
        raise ValueError(f"prompt {prompt.id}: column {column} must be a list of texts, {found}")
    found = tokenizer.encode_batch(texts)
    for text, tokens in zip(texts, found):
        if len(tokens) != 1:
            raise ValueError(
                f"prompt {prompt.id}: column {column}: {text!r:.60} is {len(tokens)} tokens of the "
                "policy; one can be banned"
            )
    return tuple(sorted({tokens[0] for tokens in found}))


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


def _encoded(
    prompt: Prompt, tokenizer: Tokenizer, assistant_last: AssistantLast
) -> tuple[str, list[int]]:
    """A prompt as the model sees it, as text and as ids."""
    roles = [message["role"] for message in prompt.messages]
    if tokenizer.chat_template is None:
        if roles != ["user"]:
            raise ValueError(
                f"a chat of {', '.join(roles)} needs a chat template, and the policy's tokenizer "
                "has none; write it as one text"
            )
        return tokenizer.render_prompt(prompt.text), tokenizer.encode_prompt(prompt.text)
    goes_on = roles[-1] == "assistant"
    if goes_on and assistant_last == "refuse":
        raise ValueError(
            "its last message is the assistant's; assistant_last=continue lets completions go on "
            "with it"
        )
    options = {"add_generation_prompt": not goes_on, "continue_last": goes_on}
    text = tokenizer.render_chat(prompt.messages, **options)
    for place, message in enumerate(prompt.messages):
        if message["content"].strip() not in text:
            _check_written(prompt.messages, place, tokenizer, text, options)
    return text, tokenizer.encode_chat(prompt.messages, **options)


def _check_written(
    messages: Sequence[Message],
    place: int,
    tokenizer: Tokenizer,
    text: str,
    options: dict[str, bool],
) -> None:
    """Refuses a chat of which the template leaves out a message, whatever it says.

    A template may write a message in other words (without thoughts, in capitals): then other
    content gives another text.
    """
    other = {**messages[place], "content": "x"}
    if tokenizer.render_chat([*messages[:place], other, *messages[place + 1 :]], **options) == text:
        raise ValueError(
            f"the policy's chat template leaves out its message {place}, of the role "
            f"{messages[place]['role']!r:.40}"
        )


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
