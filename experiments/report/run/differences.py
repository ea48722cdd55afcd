"""What two texts have in common, word by word."""

import difflib
import re
from typing import NamedTuple

_MAX_WORDS = 2000  # beyond, the comparison would take long and nobody would read it


class Piece(NamedTuple):
    """A piece of a text.

    Attributes:
      text: it.
      new: whether the other text lacks it.
    """

    text: str
    new: bool


def new_words(text: str, other: str) -> tuple[Piece, ...]:
    """Cuts a text into pieces that another one shares, in the same order, and pieces that are new.

    >>> [piece.text for piece in new_words("a red cat", "a blue cat") if piece.new]
    ['red']
    >>> "".join(piece.text for piece in new_words("a red  cat", "a cat"))
    'a red  cat'
    """
    words, others = _words(text), _words(other)
    if max(len(words), len(others)) > _MAX_WORDS:
        return (Piece(text, False),)
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    return tuple(
        Piece("".join(words[start:end]), kind != "equal")
        for kind, start, end, _, _ in matcher.get_opcodes()
        if end > start
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\s+|\w+|[^\w\s]", text)
