"""Stop rules that only the host can see: strings in the text."""

from collections.abc import Callable, Sequence

import numpy as np

from rsft_jax.generation.types import StopFn


def stop_strings(
    decode: Callable[[Sequence[int]], str | Sequence[str]], strings: Sequence[str]
) -> StopFn:
    """Ends a completion with the token that completes one of some strings.

    The text then holds the string, and possibly what else its last token holds. As the tokens of a
    candidate depend on its key alone, ending it when the host looks and cutting what was drawn
    beyond gives the same completion as a check after every token.

    Args:
      decode: token ids -> text, such as a tokenizer's, or several readings of them, in any of which
        a string may be (`Tokenizer.readings`: special tokens left out, and spelled).
      strings: one or more, none empty.

    Returns:
      A `StopFn` for `generate`.

    Raises:
      ValueError: if there is no string, or an empty one.

    Example:
      >>> stop = stop_strings(lambda ids: "".join(map(chr, ids)), ["end"])
      >>> stop(np.array([ord(c) for c in "the end."])), stop(np.array([101]))
      (7, None)
      >>> spelled = lambda ids: ("".join(map(chr, ids)), " ".join(map(str, ids)))
      >>> stop_strings(spelled, ["98"])(np.array([97, 98, 99]))
      2
    """
    strings = (strings,) if isinstance(strings, str) else tuple(strings)
    if not strings or not all(strings):
        raise ValueError(f"stop strings must be one or more, none empty, got {list(strings)!r}")

    def stop(tokens: np.ndarray) -> int | None:
        ids = [int(i) for i in tokens]

        def found(count: int) -> bool:
            read = decode(ids[:count])
            texts = (read,) if isinstance(read, str) else read
            return any(string in text for text in texts for string in strings)

        if not found(len(ids)):
            return None
        low, high = 0, len(ids)  # the shortest prefix with a string is in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if found(middle) else (middle, high)
        return high

    return stop
