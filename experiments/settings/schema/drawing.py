"""Who draws the candidates: the policy itself, or a model that somebody else serves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...terminal.errors import ConfigError, shown
from .. import checks
from ..endpoints import EndpointSettings, refused
from ..rules import SelectionConfig
from .proposal import SamplingConfig

if TYPE_CHECKING:
    from rsft_jax.interop.endpoints import SamplingLaw

_OF_THE_LAW = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_PLAIN = "sampling.temperature=1 and no cut or penalty (top_k, top_p, min_p, repetition_penalty)"


@dataclass(frozen=True, kw_only=True)
class PolicyProposal:
    """The policy itself: what is accepted is its own."""

    source: Literal["policy"]


@dataclass(frozen=True, kw_only=True)
class EndpointProposal(EndpointSettings):
    """A served model: its texts, where accepted, are distilled into the policy.

    It is asked for the law of `sampling`, each cut by its name, on or off; max_new_tokens counts
    its tokens when it is asked, and the policy's when a text is taken.

    Attributes:
      log_probs: ask for log-probabilities, and take their sum as log q of a text. They are log q
        for temperature 1 without any cut or penalty, and refused for another law.
    """

    source: Literal["endpoint"]
    log_probs: bool

    def check(self, sampling: SamplingConfig, selection: SelectionConfig) -> None:
        """Checks that the server can be asked for this law, and that the rule can do with it.

        Raises:
          ConfigError: one line with the field, its value and the allowed range.
        """
        self.check_endpoint("proposal")
        is_off = sampling.min_new_tokens == 0
        allowed = "0 with proposal=endpoint"
        checks.check(is_off, "sampling.min_new_tokens", sampling.min_new_tokens, allowed)
        most, allowed = 1024, "at most 1024 with proposal=endpoint"
        num = sampling.num_candidates
        checks.check(num <= most, "sampling.num_candidates", num, allowed)
        from rsft_jax.interop.endpoints import log_prob_options

        law = self.law(sampling)
        try:
            law.options(self.server)
        except ValueError as error:
            raise refused(error, "sampling") from None
        if self.log_probs:
            try:
                log_prob_options(self.server)
            except ValueError as error:
                raise refused(error, "proposal") from None
        if self.log_probs and not law.is_plain:
            raise ConfigError(
                f"proposal.log_probs: true; what servers return is log q only with {_PLAIN}"
            )
        if not any(selection.functions()):  # those of the user are loaded when the run begins
            self.check_rule(selection.build().needs, selection.rule)

    def check_rule(self, needs: frozenset[str], name: str) -> None:
        """Refuses a rule that needs log q where it is not known.

        Raises:
          ConfigError: names the rule.
        """
        if "log_proposal" in needs and not self.log_probs:
            raise ConfigError(
                f"selection: {shown(name)}; needs log q of every candidate, which "
                f"proposal=endpoint knows only with proposal.log_probs=true, {_PLAIN}"
            )

    def law(self, sampling: SamplingConfig) -> "SamplingLaw":
        """What the server is asked for."""
        from rsft_jax.interop.endpoints import SamplingLaw

        return SamplingLaw(
            max_tokens=sampling.max_new_tokens,
            stop=tuple(sampling.stop_strings),
            **{name: getattr(sampling, name) for name in _OF_THE_LAW},
        )


ProposalConfig = PolicyProposal | EndpointProposal
"""Who draws."""
