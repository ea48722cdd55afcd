"""Proposals other than the policy itself: what they draw, and whether they know log q of it."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import Completions
from rsft_jax.interop.endpoints import Answered, Completer, EndpointError, OnAnswered, first_seed
from rsft_jax.policies.foreign import TextEncoder
from rsft_jax.policies.prompts import PromptBatch
from rsft_jax.rounds import Proposed
from rsft_jax.selection import SelectionRule, stage_names
from rsft_jax.types import PRNGKey


class Proposal(Protocol):
    """Who draws candidates: a `rsft_jax.rounds.ProposeFn`, and whether it knows log q."""

    @property
    def log_prob_known(self) -> bool:
        """Whether log q of what is drawn is known, of whole completions."""
        ...

    def propose(self, key: PRNGKey, state: Any, prompts: PromptBatch) -> Proposed:
        """Draws N candidates for each of P prompts."""
        ...


def check_rule(rule: SelectionRule, proposal: Proposal) -> None:
    """Refuses a rule that needs what a proposal does not have.

    Raises:
      ValueError: it needs log q, and that is not known.
    """
    if "log_proposal" in rule.needs and not proposal.log_prob_known:
        raise ValueError(
            f"{' > '.join(stage_names(rule))}; needs log q of every candidate, which the proposal "
            "does not know"
        )


class Told(NamedTuple):
    """What is known of candidates besides; the `info` of their `Proposed`.

    Attributes:
      source: columns of a rollout file, P * N values each.
      num_cut: candidates cut at the longest answer.
      num_too_long: candidates left out because the policy's tokens of them are too many.
      num_refused: candidates left out because the server refused the prompt or its answer is no
        whole one.
      refused: what the server said where it first refused a prompt.
    """

    source: Mapping[str, list[Any]]
    num_cut: int
    num_too_long: int
    num_refused: int
    refused: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointProposal:
    """A served model as proposal: its texts, in the policy's tokens.

    The law of the candidates is the server's, and the policy is trained off its own law: what is
    accepted is distilled into it. The k-th token of a text is not the server's k-th, so that of
    single tokens no log q is known; of whole texts it is the sum that the server gives
    (`rsft_jax.interop.endpoints.laws` says when, and what that sum lacks).

    Attributes:
      completer: asks.
      tokenizer: the policy's.
      num_candidates: N.
      max_new_tokens: longest completion, in the policy's tokens; a longer one is left out, as a
        part of it would be another text.
    """

    completer: Completer
    tokenizer: Tokenizer
    num_candidates: int
    max_new_tokens: int

    @property
    def log_prob_known(self) -> bool:
        """Whether log q of whole texts is known."""
        return self.completer.log_prob_known

    def propose(
        self,
        key: PRNGKey,
        state: Any,
        prompts: PromptBatch,
        on_answered: OnAnswered | None = None,
    ) -> Proposed:
        """Draws N candidates for each of P prompts; those of the same key are the same.

        Args:
          key: random key, consumed; with the number of a prompt it gives the seeds.
          state: not read: the policy does not draw.
          prompts: P prompts; their messages are sent.
          on_answered: see `rsft_jax.interop.endpoints.OnAnswered`.

        Returns:
          `[P, N]` completions; failed where there is none to train on. `info` is a `Told`.

        Raises:
          EndpointError, BudgetSpent: see `rsft_jax.interop.endpoints.Answers.of`; or the server
            refused every prompt.
          ValueError: tokens are banned for the prompts.
        """
        del state
        prompts.check_nothing_banned("a served model")
        bits = np.asarray(jax.random.key_data(key)).tobytes().hex()
        seeds = [first_seed(bits, int(draw)) for draw in prompts.draws]
        chats = [prompt.messages for prompt in prompts.prompts]
        answered = self.completer.draw(chats, seeds, self.num_candidates, on_answered)
        if answered and all(row.refused for row in answered):
            raise EndpointError(answered[0].refused)
        return self._proposed(prompts, seeds, answered)

    def _proposed(
        self, prompts: PromptBatch, seeds: Sequence[int], answered: Sequence[Answered]
    ) -> Proposed:
        shape = (len(answered), self.num_candidates)
        tokens = np.full((*shape, self.max_new_tokens), -1, np.int32)
        log_probs = np.zeros(tokens.shape, np.float32)
        lengths, log_q = np.zeros(shape, np.int32), np.full(shape, np.nan)
        finished, too_long = np.zeros((2, *shape), bool)
        encoder, counts = TextEncoder(self.tokenizer), Counter()
        for i, row in enumerate(answered):
            for j, answer in enumerate(row.answers):
                if answer.ending == "other":
                    continue
                ids, ended = encoder.encode(answer.text, answer.ending == "stop", counts)
                too_long[i, j] = len(ids) > self.max_new_tokens
                if not ids or too_long[i, j]:
                    continue
                tokens[i, j, : len(ids)], lengths[i, j] = ids, len(ids)
                log_probs[i, j, : len(ids)] = np.nan
                finished[i, j], log_q[i, j] = ended, answer.log_prob
        completions = Completions(
            tokens=jnp.asarray(tokens),
            lengths=jnp.asarray(lengths),
            log_probs=jnp.asarray(log_probs),
            finished=jnp.asarray(finished),
            failed=jnp.asarray(lengths == 0),
        )
        told = Told(
            source=self._source(prompts, seeds),
            num_cut=counts["cut"],
            num_too_long=int(too_long.sum()),
            num_refused=int(((lengths == 0) & ~too_long).sum()),
            refused=next((row.refused for row in answered if row.refused), ""),
        )
        return Proposed(completions, told, log_q.astype(np.float32))

    def _source(self, prompts: PromptBatch, seeds: Sequence[int]) -> dict[str, list[Any]]:
        """Where the candidates come from: the name of the answers, who gave them, each its seed."""
        chats = [prompt.messages for prompt in prompts.prompts]
        numbers, total = range(self.num_candidates), len(chats) * self.num_candidates
        names = self.completer.names(chats, seeds)
        return {
            "draw": [name for name in names for _ in numbers],
            "policy": [self.completer.answers.client.endpoint.where] * total,
            "law": [repr(self.completer.law)] * total,
            "key": [str(seed + number) for seed in seeds for number in numbers],
            "place": [int(place) for place in prompts.places for _ in numbers],
        }
