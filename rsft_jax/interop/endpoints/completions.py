"""Candidates of prompts, drawn by somebody else's model."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from rsft_jax.interop.endpoints.answers import Answered, Answers, OnAnswered, Question
from rsft_jax.interop.endpoints.client import Messages
from rsft_jax.interop.endpoints.laws import SamplingLaw, ServerKind, log_prob_options
from rsft_jax.numerics.checks import check_between, check_integer

SEED_BLOCK = 1024
"""Seeds of a prompt's candidates lie in a block of so many; no two blocks overlap."""

_NUM_BLOCKS = 2**31 // SEED_BLOCK  # servers take seeds of 32 bits at least, some signed


@dataclasses.dataclass(frozen=True)
class Completer:
    """Draws N answers to each of P chats.

    Attributes:
      answers: asks, and keeps what was answered.
      law: that is asked for.
      server: which names for cuts it knows.
      log_probs: whether to ask for log-probabilities.

    Raises:
      ValueError: the server has no name for a cut of the law, or says no log-probabilities.

    Example:
      >>> from rsft_jax.interop.endpoints import Answers, Client, Endpoint
      >>> client = Client(Endpoint(base_url="http://127.0.0.1:8000/v1", model="m"))
      >>> law = SamplingLaw(max_tokens=64, temperature=0.7)
      >>> Completer(Answers(client, None, kind="endpoint"), law, "vllm", True).log_prob_known
      False
    """

    answers: Answers
    law: SamplingLaw
    server: ServerKind = "openai"
    log_probs: bool = False

    def __post_init__(self) -> None:
        self._options()

    @property
    def log_prob_known(self) -> bool:
        """Whether what servers say of log-probabilities is log q: they say it of the plain law."""
        return self.log_probs and self.law.is_plain

    def draw(
        self,
        chats: Sequence[Messages],
        seeds: Sequence[int],
        num: int,
        on_answered: OnAnswered | None = None,
    ) -> list[Answered]:
        """Draws candidates, or finds them among what is kept.

        Candidate k of a prompt is drawn with seed s + k, whether the server gives all at once or
        one at a time: one that gives several draws choice i of seed s as choice 0 of seed s + i
        (seen of vLLM 0.32), so that seeds s, s + 1, ... of N choices each would repeat all but one.
        Hence candidate k does not depend on N either, where the server keeps to its seeds. One that
        does not (they are a best effort everywhere) gives the same only from what is kept.

        Args:
          chats: P chats.
          seeds: P seeds, as of `first_seed`.
          num: N, from 1 to `SEED_BLOCK`.
          on_answered: see `OnAnswered`.

        Returns:
          P times N answers. `log_prob` is NaN unless `log_prob_known`, and where the server did not
          say it.
        """
        check_between("num", check_integer("num", num), 1, SEED_BLOCK)
        answered = self.answers.of(self._questions(chats, seeds, num), on_answered)
        return answered if self.log_prob_known else [_without_log_prob(row) for row in answered]

    def names(self, chats: Sequence[Messages], seeds: Sequence[int]) -> list[str]:
        """The draws under which the answers of `draw` are kept."""
        endpoint = self.answers.client.endpoint
        return [question.name(endpoint) for question in self._questions(chats, seeds, 1)]

    def _questions(
        self, chats: Sequence[Messages], seeds: Sequence[int], num: int
    ) -> list[Question]:
        options = self._options()
        return [
            Question(chat, options, seed, num, self.law.max_tokens)
            for chat, seed in zip(chats, seeds, strict=True)
        ]

    def _options(self) -> dict[str, Any]:
        """The fields of a request besides the chat, the seed and the number."""
        more = log_prob_options(self.server) if self.log_probs else {}
        return {**self.law.options(self.server), **more}


def first_seed(key: str, number: int) -> int:
    """The seed of a prompt's first candidate: the begin of one of 2^21 blocks, by a hash.

    Args:
      key: the random key of the round, in any canonical form.
      number: of the prompt under that key.

    >>> first_seed("0", 3) % SEED_BLOCK, first_seed("0", 3) == first_seed("0", 4)
    (0, False)
    """
    digest = hashlib.sha256(f"{key}\x1f{number}".encode()).digest()
    return int.from_bytes(digest[:8]) % _NUM_BLOCKS * SEED_BLOCK


def _without_log_prob(answered: Answered) -> Answered:
    nan = float("nan")
    return answered._replace(answers=[a._replace(log_prob=nan) for a in answered.answers])
