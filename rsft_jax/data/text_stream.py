"""The text of a completion while its tokens come in: whole characters, and nothing taken back."""

from collections.abc import Callable, Sequence

_UNREAD = "\ufffd"  # what decoding makes of bytes that are no character, or not yet one


class TextStream:
    """Gives out what each token adds to a text.

    A character may be spelled by several tokens, and the first of them alone decode to U+FFFD. Such
    an end is held back until the next token makes a character of it, or until the text ends. What
    was given out stays: the pieces, put together, are the text that `decode` gives of all tokens.
    (A tokenizer with byte fallback can break that where invalid bytes follow a whole character; the
    pieces then hold the character, and the whole text does not.)

    All tokens are decoded again for each one, as decoding a piece by itself may drop its blanks: a
    millisecond where a text has thousands of tokens.

    Args:
      decode: token ids -> text, such as that of a tokenizer.

    Example:
      >>> stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"))
      >>> [stream.add(byte) for byte in "né!".encode()], stream.end(), stream.text
      (['n', '', 'é', '!'], '', 'né!')
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode = decode
        self._ids: list[int] = []
        self.text = ""
        """All that was given out."""

    def add(self, token: int) -> str:
        """What a further token adds, "" while a character is not whole."""
        self._ids.append(token)
        return self._give(self._decode(self._ids).rstrip(_UNREAD))

    def end(self) -> str:
        """What was held back: no token follows that could make characters of it."""
        return self._give(self._decode(self._ids))

    def _give(self, text: str) -> str:
        if not text.startswith(self.text):
            return ""
        piece = text[len(self.text) :]
        self.text = text
        return piece
