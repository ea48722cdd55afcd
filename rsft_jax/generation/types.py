"""What generation takes and gives."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.numerics.checks import check_between, check_integer
from rsft_jax.types import Array, record


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """The law of one completion given its prompt; static and hashable.

    Each token is drawn from the softmax of the policy's logits after, in this order: the
    repetition penalty, the mask of allowed tokens (an argument of `generate`, as it may differ from
    prompt to prompt), the mask of stop tokens before `min_new_tokens`, division by the temperature,
    `top_k`, `top_p`, `min_p`. A completion ends with the first stop token, which it contains, or
    after `max_new_tokens`.

    Attributes:
      max_new_tokens: longest completion, in tokens; at least 1.
      temperature: divides the logits; 0 is greedy, the lowest id among equals.
      top_k: keep the k most probable tokens; 0 keeps all.
      top_p: keep the most probable tokens until their mass reaches this; 1 keeps all.
      min_p: keep tokens at least this times as probable as the best; 0 keeps all.
      stop_token_ids: ids that end a completion.
      min_new_tokens: no stop token is drawn before so many other tokens.
      repetition_penalty: makes the tokens of the prompt and of the completion so far less
        probable, see `rsft_jax.sampling.repetition_penalty`; 1 is off.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop_token_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_token_ids", tuple(int(i) for i in self.stop_token_ids))
        check_integer("max_new_tokens", self.max_new_tokens)
        check_between(
            "temperature", self.temperature, 0, math.inf, bounds="[)", note="(0 is greedy)"
        )
        check_integer("top_k", self.top_k, 0, note="(0 is off)")
        check_between("top_p", self.top_p, 0, 1, bounds="(]", note="(1 is off)")
        check_between("min_p", self.min_p, 0, 1, note="(0 is off)")
        for i in self.stop_token_ids:
            check_integer("stop_token_ids", i, 0, note="each")
        check_between(
            "min_new_tokens", self.min_new_tokens, 0, self.max_new_tokens, note="(max_new_tokens)"
        )
        check_between(
            "repetition_penalty",
            self.repetition_penalty,
            0,
            math.inf,
            bounds="()",
            note="(1 is off)",
        )


StopFn = Callable[[np.ndarray], int | None]
"""`stop(tokens[t]) -> n`: the completion ends with its n-th token; None while it goes on."""


class Prompts(NamedTuple):
    """Tokenised prompts, padded on the right.

    Attributes:
      tokens: `[P, T]` int32; what stands after a prompt's length is never read.
      lengths: `[P]` int32, each at least 1.
    """

    tokens: Array | np.ndarray
    lengths: Array | np.ndarray


@record
class Completions:
    """N completions for each of P prompts, padded on the right to the longest allowed.

    Attributes:
      tokens: `[P, N, T]` int32, the stop token included; -1 after the end.
      lengths: `[P, N]` int32, number of tokens, the stop token counted.
      log_probs: `[P, N, T]` log-probability in nats of each token under the law that it was drawn
        from (temperature and truncation included); 0 after the end.
      finished: `[P, N]` whether a stop token ended it (False: cut at `max_new_tokens`).
      failed: `[P, N]` whether the policy gave no distribution to draw from (NaN, or every token
        masked); the completion then ends before that token. `check_completions` raises for it.
      policy_log_probs: `[P, N, T]` log-probability in nats of each token under the policy itself,
        the softmax of its logits as they are; None unless asked for.
      steps: `[P, N]` int32 calls of the policy that the completion took: its length, or less with
        `Speculative`. None if not known.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    finished: Array
    failed: Array
    policy_log_probs: Array | None = None
    steps: Array | None = None


def check_completions(completions: Completions) -> None:
    """Raises ValueError naming prompt and position where the policy gave no distribution.

    Inside jit a completion without a distribution to draw from ends and is flagged; outside,
    whoever cannot go on with such a policy calls this.

    Example:
      >>> ok = jnp.zeros((1, 1), jnp.int32)
      >>> check_completions(Completions(tokens=ok[..., None], lengths=ok + 1, finished=ok > 0,
      ...                               failed=ok > 0, log_probs=jnp.zeros((1, 1, 1))))
    """
    failed = np.argwhere(np.asarray(completions.failed))
    if len(failed):
        prompt, candidate = (int(i) for i in failed[0])
        position = int(np.asarray(completions.lengths)[prompt, candidate])
        raise ValueError(
            "the policy gave no distribution (NaN, +inf or all tokens masked) for "
            f"prompt {prompt}, candidate {candidate}, at new token {position}; {len(failed)} of "
            f"{np.asarray(completions.failed).size} completions failed so"
        )


def pad_prompts(
    sequences: Sequence[Sequence[int]], *, width: int = 0, multiple_of: int = 1
) -> Prompts:
    """Pads token lists on the right.

    Args:
      sequences: P lists of token ids.
      width: pad at least to this length, so that several sets of prompts share a compilation.
      multiple_of: pad to a length that this divides.

    Raises:
      ValueError: when there is no prompt, one is empty, or one has a negative id.

    Example:
      >>> pad_prompts([[5, 6, 7], [8]]).tokens.tolist()
      [[5, 6, 7], [8, 0, 0]]
    """
    if not sequences:
        raise ValueError("prompts must hold at least one prompt, got none")
    lengths = np.array([len(s) for s in sequences], np.int32)
    if (lengths == 0).any():
        raise ValueError(f"prompt {int(np.argmin(lengths))} is empty; it needs at least one token")
    width = -(-max(width, int(lengths.max())) // multiple_of) * multiple_of
    tokens = np.zeros((len(sequences), width), np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        if min(sequence) < 0:
            raise ValueError(f"prompt {row} holds the id {min(sequence)}; ids must be >= 0")
    return Prompts(tokens, lengths)


def as_prompts(prompts: Prompts | Array | np.ndarray | Sequence[Sequence[int]]) -> Prompts:
    """Reads prompts in any form: padded, a `[P, T]` array of full rows, or lists of ids."""
    if isinstance(prompts, Prompts):
        chex.assert_rank([prompts.tokens, prompts.lengths], [2, 1])
        return prompts
    if isinstance(prompts, jax.Array | np.ndarray):
        chex.assert_rank(prompts, 2)
        return Prompts(prompts, jnp.full(prompts.shape[0], prompts.shape[1], jnp.int32))
    return pad_prompts(prompts)
