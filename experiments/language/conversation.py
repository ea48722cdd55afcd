"""A conversation with a policy: its messages, and what the policy is given to read of them."""

import dataclasses
from collections.abc import Mapping

from rsft_jax.data import Prompt
from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.policies import encode_prompts
from rsft_jax.texts import conversation

_ANY_LENGTH = 1 << 30  # the length is looked at by `check_room`, which knows what to say


@dataclasses.dataclass(frozen=True)
class Conversation:
    """What was said; every change makes a new one, so that a turn that fails leaves the old.

    Attributes:
      system: the message that comes before all, or None.
      messages: of the user and of the assistant, in turn.
    """

    system: str | None = None
    messages: tuple[Mapping[str, str], ...] = ()

    def asked(self, text: str) -> "Conversation":
        """With a further message of the user."""
        return self._with("user", text)

    def answered(self, text: str) -> "Conversation":
        """With a further message of the assistant."""
        return self._with("assistant", text)

    def unanswered(self) -> "Conversation | None":
        """Without the last answer; None where there is none."""
        if not self.messages:
            return None
        return dataclasses.replace(self, messages=self.messages[:-1])

    def restarted(self) -> "Conversation":
        """Nothing said yet."""
        return Conversation(self.system)

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        """What the policy reads, as ids: all of it as a chat, ending where an answer begins.

        A policy without a chat template goes on with the last text alone.

        Raises:
          ValueError: the template refuses it, or leaves a message out.
        """
        messages = self.messages
        if tokenizer.chat_template is None:
            messages = messages[-1:]
        elif self.system is not None:
            messages = ({"role": "system", "content": self.system}, *messages)
        prompt = Prompt(id="chat", text=conversation(messages), messages=messages)
        try:
            batch = encode_prompts([prompt], tokenizer, room=_ANY_LENGTH)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("prompt chat: ")) from error
        return batch.tokens.tokens[0][: batch.tokens.lengths[0]].tolist()

    def _with(self, role: str, text: str) -> "Conversation":
        message = {"role": role, "content": text}
        return dataclasses.replace(self, messages=(*self.messages, message))


def check_room(length: int, new_tokens: int, max_length: int) -> None:
    """Checks that a prompt and the longest answer fit into a policy's context.

    Raises:
      ValueError: they do not. Nothing is cut in silence.

    >>> check_room(100, 28, 128)
    """
    if length + new_tokens > max_length:
        raise ValueError(
            f"the context is full: the conversation has {length} tokens, an answer may have "
            f"{new_tokens} more, and the policy reads {max_length}; /reset begins a new one"
        )
