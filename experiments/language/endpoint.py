"""What a run asks of models that somebody else serves, and where the answers are kept."""

from collections.abc import Iterable
from pathlib import Path

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.endpoints import Answers, BudgetSpent, Completer, EndpointError, Judge
from rsft_jax.policies import EndpointProposal
from rsft_jax.rewards import Term
from rsft_jax.rollouts import RolloutStore

from ..settings import schema
from ..terminal.errors import ConfigError

_ANSWERS = "answers"


def answers_store(config: schema.LanguageConfig | None, draws: Path) -> RolloutStore:
    """Where the answers of a run's endpoints are kept: beside the candidates of policies.

    Args:
      config: the settings; runs that share a `store` share what they have asked. None for
        candidates that are of no run.
      draws: where the run keeps candidates of its own.
    """
    if config is not None and config.store is not None:
        draws = Path(config.store)
    return RolloutStore(draws / _ANSWERS)


def make_proposal(
    config: schema.LanguageConfig, tokenizer: Tokenizer, store: RolloutStore | None
) -> EndpointProposal | None:
    """The served model that draws candidates; None where the policy does."""
    settings = config.proposal
    if not isinstance(settings, schema.EndpointProposal):
        return None
    answers = Answers(settings.client(), store, kind="endpoint")
    law = settings.law(config.sampling)
    return EndpointProposal(
        completer=Completer(answers, law, settings.server, settings.log_probs),
        tokenizer=tokenizer,
        num_candidates=config.sampling.num_candidates,
        max_new_tokens=config.sampling.max_new_tokens,
    )


def check_clients(proposal: EndpointProposal | None, terms: Iterable[Term]) -> None:
    """Checks that all endpoints of a run can be asked; sends nothing.

    Raises:
      ConfigError: the package or the key is missing.
    """
    asked = [] if proposal is None else [proposal.completer.answers]
    asked += [term.function.answers for term in terms if isinstance(term.function, Judge)]
    for answers in asked:
        try:
            answers.client.check()
        except EndpointError as error:
            raise ConfigError(f"endpoint: {error}") from None


def cap_behind(error: BaseException | None) -> BudgetSpent | None:
    """The cap that was reached, where that is behind an error: a reward's errors are wrapped."""
    while error is not None and not isinstance(error, BudgetSpent):
        error = error.__cause__ or error.__context__
    return error
