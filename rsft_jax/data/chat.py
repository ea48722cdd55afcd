"""Renders chat templates, which come with models and are therefore not trusted.

A template is a small program in Jinja; `chat_sandbox` says what it may use and what it pays for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

MAX_TEMPLATE_LENGTH = 1 << 16


class ChatTemplate:
    """A compiled chat template.

    The result equals what Hugging Face's `apply_chat_template(tokenize=False)` gives for templates
    that use what is allowed here; `strftime_now` is missing, so that the text of a chat does not
    depend on the day.

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
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a chat.

        Args:
          messages: each with the strings "role" and "content"; other keys are for the template.
          add_generation_prompt: whether the text ends where the assistant's turn begins.
          variables: further names for the template, such as `bos_token`.

        Raises:
          ValueError: a message is malformed, the template refuses the chat, or the template fails
            or goes past its limits; the message says which.
        """
        check_messages(messages)
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
            raise ValueError(f"the chat template failed: {error}") from error
        return "".join(pieces)


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
