"""A causal language model of PyTorch as proposal, in the tokens of the policy."""

import dataclasses
from typing import Any

from rsft_jax.generation import SamplingParams
from rsft_jax.interop.pytorch import TorchModule, torch_generate
from rsft_jax.policies.prompts import PromptBatch
from rsft_jax.rounds import Proposed
from rsft_jax.types import PRNGKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchProposal:
    """A module that draws for the policy: a `Proposal` that knows log q of every token.

    Prompts go to it as the policy's tokens, so it must have the policy's vocabulary.

    Attributes:
      module: see `rsft_jax.interop.pytorch.torch_generate`.
      sampling: the law of the candidates; its stop tokens are the policy's.
      num_candidates: N.
      cached, rows_at_once, num_threads: see `torch_generate`.
    """

    module: TorchModule
    sampling: SamplingParams
    num_candidates: int
    cached: bool = True
    rows_at_once: int = 64
    num_threads: int | None = None

    @property
    def log_prob_known(self) -> bool:
        """It is: the law is computed here."""
        return True

    def propose(self, key: PRNGKey, state: Any, prompts: PromptBatch) -> Proposed:
        """Draws N candidates for each of P prompts; those of the same key are the same.

        Raises:
          ValueError: tokens are banned for the prompts; and as `torch_generate` does.
        """
        del state  # the policy does not draw
        prompts.check_nothing_banned("a module of PyTorch")
        completions = torch_generate(
            key,
            self.module,
            prompts.tokens,
            num_candidates=self.num_candidates,
            sampling=self.sampling,
            prompt_ids=prompts.draws,
            cached=self.cached,
            rows_at_once=self.rows_at_once,
            num_threads=self.num_threads,
        )
        return Proposed(completions, None)
