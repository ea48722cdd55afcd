"""Texts of somebody else as completions of a policy: encoded by its tokenizer, ended by its end."""

from collections import Counter

from rsft_jax.data.ends import without_end
from rsft_jax.data.tokenizer import Tokenizer


class TextEncoder:
    """How texts become completions with a policy's tokenizer.

    A text that was finished ends with the token that ends a turn of the policy, whether it spells
    an end or not; one that was cut ends without. Special tokens that it spells elsewhere are text.

    Args:
      tokenizer: the policy's.

    Example:
      >>> from rsft_jax.data.tokenizer import byte_alphabet
      >>> letters = Tokenizer.from_bpe([*byte_alphabet(), "<|end|>"], [], special_ids=[256])
      >>> TextEncoder(letters).encode("a<|end|>", True, Counter())
      ([97, 256], True)
    """

    def __init__(self, tokenizer: Tokenizer):
        ends = {*tokenizer.stop_token_ids, tokenizer.pad_id}
        special = tokenizer.special_tokens
        self._tokenizer, self._special = tokenizer, special
        self._spelled = [token for token, i in special.items() if i in ends]
        self._end = [] if tokenizer.end_id is None else [tokenizer.end_id]

    def encode(self, text: str, finished: bool, counts: "Counter[str]") -> tuple[list[int], bool]:
        """The ids of a text, and whether it has an end; counts what is to be told of it.

        Args:
          text: without its prompt.
          finished: whether it ended itself; one that spells an end did in any case.
          counts: of texts that spell an end ("spelled"), or special tokens inside ("inside"), and
            that were cut ("cut").
        """
        bare = without_end(text, self._spelled)
        finished = finished or bare != text
        counts["spelled"] += bare != text
        counts["inside"] += any(token in bare for token in self._special)
        counts["cut"] += not finished
        return self._tokenizer.encode(bare) + (self._end if finished else []), finished
