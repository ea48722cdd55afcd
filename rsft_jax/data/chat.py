"""Renders chat templates, which come with models and are therefore not trusted.

A template is a small program in Jinja; `chat_sandbox` says what it may use and what it pays for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

MAX_TEMPLATE_LENGTH = 1 << 16

# Characters without a meaning, which mark places in messages on their way through a template.
_MARKS = tuple(map(chr, range(0xF0000, 0xF0100)))
_ASKS_FOR_TODAY = "'strftime_now' is undefined"
_TODAY = "; prompts do not depend on the day: write a date into the template instead"


class ChatTemplate:
    """A compiled chat template.

    The result equals what Hugging Face's `apply_chat_template(tokenize=False)` gives for templates
    that use what is allowed here, `{% generation %}` too; `strftime_now` is missing, so that the
    text of a chat does not depend on the day.

    Args:
      source: the template, in Jinja.

    Raises:
      ValueError: the template cannot be parsed or is longer than `MAX_TEMPLATE_LENGTH`.

    >>> template = ChatTemplate("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    >>> template.render([{"role": "user", "content": "Hi"}])
    '[Hi]'
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_LENGTH:
            raise ValueError(
                f"the chat template has {len(source)} characters, more than {MAX_TEMPLATE_LENGTH}"
            )
        self.source = source
        from rsft_jax.data.chat_sandbox import Budget, compile_template

        self._budget = Budget()
        self._compiled = compile_template(source, self._budget)

    def __reduce__(self) -> tuple[type["ChatTemplate"], tuple[str]]:
        return ChatTemplate, (self.source,)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_last: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a chat.

        Args:
          messages: each with the strings "role" and "content"; other keys are for the template.
          add_generation_prompt: whether the text ends where the assistant's turn begins.
          continue_last: whether it ends with the words of the last message instead, as
            `continue_final_message` of transformers does; blanks that the template takes from them
            are gone.
          variables: further names for the template, such as `bos_token`.

        Raises:
          ValueError: a message is malformed, the template refuses the chat, the template fails or
            goes past its limits, or it leaves out the message to go on with; the message says
            which.
        """
        check_messages(messages)
        if continue_last:
            return self._continued(messages, variables)
        names = {
            "tools": None,
            "documents": None,
            **(variables or {}),
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        pieces = []
        try:
            self._budget.fill(sum(len(message["content"]) for message in messages))
            for piece in self._compiled.generate(names):
                self._budget.spend(len(piece))
                pieces.append(piece)
        # A template can fail in any way a program can; its failure is a bad input here.
        except Exception as error:
            hint = _TODAY if _ASKS_FOR_TODAY in str(error) else ""
            raise ValueError(f"the chat template failed: {error}{hint}") from error
        return "".join(pieces)

    def _continued(self, messages: Sequence[Message], variables: Mapping[str, Any] | None) -> str:
        """The text up to the end of the last message, which a mark behind its words finds."""
        if not messages:
            raise ValueError("messages must hold one to go on with, got none")
        mark = unused_characters(messages, 1)[0]
        *before, last = messages
        marked = [*before, {**last, "content": f"{last['content']}{mark} "}]
        text = self.render(marked, add_generation_prompt=False, variables=variables)
        words, found, rest = text.rpartition(mark)
        if not found:
            raise ValueError("the chat template leaves out the last message, to go on with")
        return words if rest.startswith(" ") else words.rstrip()


def unused_characters(messages: Sequence[Message], count: int) -> str:
    """Characters without a meaning that no string of these messages holds.

    Raises:
      ValueError: the messages hold nearly all of them.
    """
    used = {character for text in strings_of(messages) for character in text if character in _MARKS}
    unused = [mark for mark in _MARKS if mark not in used]
    if len(unused) < count:
        raise ValueError(f"messages hold nearly all of the {len(_MARKS)} characters that mark text")
    return "".join(unused[:count])


def strings_of(value: Any) -> Iterator[str]:
    """Every string inside nested mappings and sequences."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_of(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings_of(item)


def check_messages(messages: Sequence[Message]) -> None:
    """Raises a ValueError that names the first message without a string role and content."""
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(f"messages must be a list of messages, got {type(messages).__name__}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"messages[{i}] must be a mapping, got {type(message).__name__}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise ValueError(f"messages[{i}][{key!r}] must be a string")
