"""Why each candidate of a prompt was accepted or not: what the store says, and the draws again.

A coin is not stored, since it follows from the seed: it is drawn again, and shown only where the
rule, run again, gives the verdicts that are stored.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.data.groups import Label
from rsft_jax.numerics.round_keys import collect_keys, round_keys
from rsft_jax.rollouts import Record
from rsft_jax.selection import (
    Candidates,
    SelectionRule,
    candidate_log_uniform,
    first_control,
    random_control,
)
from rsft_jax.types import PRNGKey

from ..settings.rules import SelectionConfig
from ..settings.schema import LanguageConfig
from ..terminal.errors import ConfigError, shown
from . import make
from .reselect import as_candidates, select_again


class Draws(NamedTuple):
    """What a rule draws, run again on a round.

    Attributes:
      same: `[P, N]` whether the verdict is the stored one.
      coin: `[P, N]` the uniform draw u of the stage that tosses a coin for each candidate, NaN for
        one that an earlier stage turned down; None where no stage does, or where it cannot be told
        from outside.
      below: `[P, N]` what u must be below to pass that stage.
      by: the name of the stage.
    """

    same: np.ndarray
    coin: np.ndarray | None = None
    below: np.ndarray | None = None
    by: str = ""


class Told(NamedTuple):
    """One candidate of a prompt, and what became of it.

    Attributes:
      number: of the candidate.
      reason: the stored one: accepted, or which stage turned it down.
      reward: what selection looked at; NaN for none.
      rank: 1 for the highest reward of the prompt; equal rewards share one. None without a reward.
      terms: name -> (value, weight); the reward is the sum of their products.
      judge: the second score.
      accept_prob: the probability with which the rule accepts it, stored.
      coin: u, where a coin was tossed; None otherwise.
      below: what u must be below.
      log_weight: of the sample in training.
      text: the completion.
    """

    number: int
    reason: str
    reward: float
    rank: int | None
    terms: dict[str, tuple[float, float]]
    judge: float
    accept_prob: float
    coin: float | None
    below: float | None
    log_weight: float
    text: str


def places_of(record: Record, prompt: str) -> list[int]:
    """Where a prompt stands in a record; several times where it was drawn more than once.

    Raises:
      ConfigError: it is not there.
    """
    places = [i for i, name in enumerate(record.prompt_ids) if name == prompt]
    if not places:
        some = ", ".join(map(shown, dict.fromkeys(record.prompt_ids[:3])))
        raise ConfigError(
            f"--prompt: {shown(prompt)} has no candidates in round {record.round}; these have: "
            f"{some}, ... ({len(record.prompt_ids)})"
        )
    return places


def tell(record: Record, place: int, run: LanguageConfig, draws: Draws) -> list[Told]:
    """The candidates of one prompt, in the order in which they were drawn."""
    verdict = record.verdict
    assert verdict is not None
    num = record.drawn.shape[1]
    rewards = record.reward[place]
    weights = {name: term.weight for name, term in run.reward.terms.items()}
    known = draws.coin is not None and draws.below is not None and draws.same.all()

    def told(j: int) -> Told:
        reward = float(rewards[j])
        coin = float(draws.coin[place, j]) if draws.coin is not None else math.nan
        tossed = known and math.isfinite(reward + coin)
        return Told(
            number=j,
            reason=verdict.reasons[place * num + j],
            reward=reward,
            rank=1 + int((rewards > reward).sum()) if np.isfinite(reward) else None,
            terms={n: (float(v[place, j]), weights.get(n, 1.0)) for n, v in record.terms.items()},
            judge=float(record.judge[place, j]),
            accept_prob=float(verdict.accept_prob[place, j]),
            coin=coin if tossed else None,
            below=float(draws.below[place, j]) if tossed and draws.below is not None else None,
            log_weight=float(verdict.log_weight[place, j]),
            text=record.texts[place][j],
        )

    return [told(int(j)) for j in np.flatnonzero(record.drawn[place])]


def draw_again(
    record: Record,
    run: LanguageConfig,
    allowed: Sequence[str] = (),
    labels: Sequence[Label] | None = None,
) -> Draws:
    """Runs the rule of a run again on a round of it, with the key that it had.

    Args:
      record: the round, with its verdict.
      run: the settings.
      allowed: the user's own packages whose functions may be called.
      labels: the groups of the prompts, for a rule that reads them.
    """
    assert record.verdict is not None
    settings = run.selection.in_round(record.round)
    rule = settings.whole(allowed)
    if record.arm == "control":
        rule = first_control(rule) if run.sampling.early_stop else random_control(rule)
    again = select_again(record, rule, run.seed, labels)
    same = np.asarray(again.accepted) == record.verdict.accepted
    if record.arm == "control" or not same.all():
        return Draws(same)
    keys = round_keys(make.run_keys(run.seed)["rounds"], record.round)
    select = collect_keys(keys.collect).select
    found = _coin(settings, select, as_candidates(record, labels), allowed)
    return Draws(same) if found is None else Draws(same, *found)


def what_draws_say(draws: Draws) -> str:
    """What there is to say of the draws of a round, a sentence."""
    if draws.coin is not None:
        return f"u: the coin of {draws.by}, drawn again; all stored verdicts come out again"
    if draws.same.all():
        return "no coin is tossed for each candidate; all stored verdicts come out again"
    return (
        f"the rule, run again, gives another verdict on {int((~draws.same).sum())} of "
        f"{draws.same.size} candidates of the round (early stop, or another version): "
        "its draws cannot be shown"
    )


def _coin(
    settings: SelectionConfig, key: PRNGKey, candidates: Candidates, allowed: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """The coin of the first rule that tosses one, what it must be below, and the rule's name."""
    if settings.limit() is not None:
        key = jax.random.fold_in(key, 0)  # its budget is a stage behind it
    for i, inner in enumerate(settings.within()):
        own = jax.random.fold_in(key, i)
        if (found := _coin(inner, own, candidates, allowed)) is not None:
            return found
        left = inner.whole(allowed).select(own, candidates).accepted
        candidates = dataclasses.replace(candidates, valid=left)
    return None if settings.within() else _own_coin(settings.build(allowed), key, candidates)


def _own_coin(
    rule: SelectionRule, key: PRNGKey, candidates: Candidates
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """The coin of a rule that is not made of others."""
    alone = rule.select(key, candidates)
    log_u = np.asarray(candidate_log_uniform(key, candidates))
    prob, accepted = np.asarray(alone.accept_prob), np.asarray(alone.accepted)
    scored = np.asarray(candidates.valid & jnp.isfinite(candidates.rewards))
    with np.errstate(divide="ignore"):
        log_prob = np.log(prob)
    # A rule says how probable it is, not how it draws: that it compares this very coin is tested.
    clear = scored & (np.abs(log_u - log_prob) > 1e-5)
    tosses = ((prob > 0) & (prob < 1) & scored).any()
    if not tosses or ((log_u < log_prob) != accepted)[clear].any():
        return None
    met = np.where(scored, 1.0, np.nan)  # an earlier stage has turned the others down
    return np.exp(log_u) * met, prob * met, " > ".join(rule.stages)
