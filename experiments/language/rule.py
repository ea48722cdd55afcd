"""The rule of each round, the control beside it, and what a rule needs that a run does not know."""

import functools
from collections.abc import Callable, Sequence

from rsft_jax.selection import SelectionRule, stage_names

from ..settings import schema
from ..terminal.errors import ConfigError, shown

RuleFn = Callable[[int], SelectionRule]
"""From the number of a round, from 1, to what is accepted in it."""

_KNOWN = frozenset({"log_proposal", "finished", "fingerprint"})


def make_rules(selection: schema.SelectionConfig, allowed: Sequence[str] = ()) -> RuleFn:
    """The rule of each round, with its budget as a rule of its own behind it.

    Rounds with the same settings have the same object, which is compiled once.

    Args:
      selection: settings of the rule.
      allowed: the user's own packages whose functions may be called.
    """
    made: list[tuple[schema.SelectionConfig, SelectionRule]] = []

    def rule(number: int) -> SelectionRule:
        settings = selection.in_round(number)
        if not any(known == settings for known, _ in made):
            made.append((settings, settings.whole(allowed)))
        return next(found for known, found in made if known == settings)

    return rule


def controls(rules: RuleFn, control: Callable[[SelectionRule], SelectionRule]) -> RuleFn:
    """The control of each round's rule."""
    made = functools.cache(control)
    return lambda number: made(rules(number))


def check_rule(config: schema.LanguageConfig) -> None:
    """Refuses, before anything is loaded, a rule that needs what a run does not know.

    Raises:
      ConfigError: names the rule and what it would need.
    """
    selection = config.selection
    known = _KNOWN if selection.group_column() is None else _KNOWN | {"group"}
    rules = make_rules(selection, config.allow_packages)
    for number in range(1, config.rounds.num_rounds + 1):
        rule = rules(number)
        name = " > ".join(stage_names(rule))
        if unknown := sorted(rule.needs - known):
            raise ConfigError(
                f"selection: {shown(name)}; needs {' and '.join(unknown)} of the candidates, and a "
                f"run knows {', '.join(sorted(known))}"
            )
        if isinstance(config.proposal, schema.EndpointProposal):
            config.proposal.check_rule(rule.needs, name)
