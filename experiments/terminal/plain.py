"""Text of a model on a terminal: letters, and nothing that a terminal would obey."""

import unicodedata


def without_controls(text: str) -> str:
    r"""Spells out control characters, but for line breaks and tabs.

    A model may write the byte that begins a command to the terminal: to clear it, to rename its
    window, to paint what stands above.

    >>> without_controls("a\x1b[2Jb\n")
    'a\\x1b[2Jb\n'
    """
    return "".join(
        f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c
        for c in text
    )
