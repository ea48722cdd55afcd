"""Early stop: no more is drawn for a prompt once as many are accepted as the rule has budget for.

A budget takes the first so many that are accepted (`rsft_jax.selection.at_most`), so what lies
behind them has no say in what is accepted: the policy is trained on exactly the samples that it
would be trained on without early stop. What does change is a random control, which is the first so
many candidates here (`first_control`), and every figure of all candidates drawn.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import Completions, count_tried, stopped_rate
from rsft_jax.numerics.round_keys import collect_keys
from rsft_jax.policies.kept import DrawMoreFn, padded_completions, replaced
from rsft_jax.policies.language import LanguagePolicy
from rsft_jax.policies.prompts import PromptBatch
from rsft_jax.policies.scoring import as_sum, record_of, scored
from rsft_jax.rewards import WeightedSum
from rsft_jax.rollouts import Record
from rsft_jax.rounds import Collected, Info, as_candidates
from rsft_jax.selection import Candidates, SelectionRule
from rsft_jax.training import TrainState
from rsft_jax.types import PRNGKey, RewardFn


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """When drawing for a prompt ends.

    Attributes:
      rule: a separable rule: judges each candidate by itself, with the random numbers that it has
        as the first stage of the chain with its budget.
      wanted: how many it must accept; the budget.
    """

    rule: SelectionRule
    wanted: int


class Stopped(NamedTuple):
    """What is known of a round's candidates that were drawn until it was enough.

    Attributes:
      rates: `[P]` unbiased estimates of the rule's acceptance rate, its budget aside.
      always: so many first candidates are drawn for each prompt whatever their rewards: they are a
        fair sample of what is proposed, which all that are drawn are not.
    """

    rates: np.ndarray
    always: int


class Memo:
    """The terms of a round's rewards by prompt and tokens, so that nothing is scored twice.

    Each candidate is scored for itself, as it ends: a reward that compares the candidates of a
    prompt with each other cannot be used with early stop.

    Args:
      prompts: of the round.
      reward: scores texts.
      tokenizer: makes texts of tokens.
    """

    def __init__(self, prompts: PromptBatch, reward: WeightedSum, tokenizer: Tokenizer):
        self._prompts, self._reward, self._tokenizer = prompts, reward, tokenizer
        self._terms: dict[tuple[int, bytes], dict[str, float]] = {}

    def rewards(
        self, places: Sequence[int] | np.ndarray, tokens: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Rewards of completions of these prompts of the batch; NaN for what has none."""
        return self._reward.combine(self.columns(self.terms(places, tokens)))

    def terms(
        self, places: Sequence[int] | np.ndarray, tokens: Sequence[np.ndarray]
    ) -> list[dict[str, float]]:
        """Every term of each of these completions."""
        names = [(int(p), np.asarray(ids, np.int32).tobytes()) for p, ids in zip(places, tokens)]
        new = {name: ids for name, ids in zip(names, tokens) if name not in self._terms}
        if new:
            asked = [self._prompts.prompts[place] for place, _ in new]
            texts = self._tokenizer.decode_completions([ids.tolist() for ids in new.values()])
            terms = self._reward.terms(asked, [[text] for text in texts])
            for row, name in enumerate(new):
                self._terms[name] = {term: float(values[row, 0]) for term, values in terms.items()}
        return [self._terms[name] for name in names]

    def columns(self, rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
        """The terms of completions as arrays."""
        return {name: np.array([row[name] for row in rows]) for name in self._reward.weights}


def collect_until_accepted(
    key: PRNGKey,
    state: TrainState,
    prompts: PromptBatch,
    *,
    policy: LanguagePolicy,
    early: EarlyStop,
    rule: SelectionRule,
    reward: WeightedSum,
    num_candidates: int,
    judge: RewardFn | None = None,
    keep: Callable[[DrawMoreFn], Completions] | None = None,
    propose: Callable[..., Completions] | None = None,
    round_: int = 1,
    arm: str = "policy",
) -> Collected:
    """Collects a round's candidates: those that are kept, and what must be drawn beyond them.

    An `rsft_jax.rounds.CollectFn` once its options are set; what is drawn and accepted is what
    `rsft_jax.rounds.collect` would draw and accept with the same key, up to where it is enough.

    Args:
      key: of collecting, consumed.
      state: the policy.
      prompts: P prompts.
      policy: what draws.
      early: when it is enough.
      rule: the verdict on what was drawn.
      reward: what the rules look at.
      num_candidates: N, the most for a prompt.
      judge: a second score, which selection does not see.
      keep: asks a store: `KeptDraws.get_longest` with all but its `draw`. None keeps nothing.
      propose: draws in place of `policy.propose_accepted`, with the same arguments.
      round_, arm: of the record.

    Returns:
      Candidates and verdict, `[P, N]`; what was not drawn is empty and invalid. Of its info
      `propose` is a `Stopped`, `score` the `Record`.
    """
    select_key = collect_keys(key).select
    memo = Memo(prompts, reward, policy.tokenizer)

    def accepted(completions: Completions) -> tuple[np.ndarray, np.ndarray]:
        """Verdicts of the rule alone `[P, N]`, and which candidates are there."""
        drawn = np.asarray(completions.lengths) > 0
        rewards = _scattered(drawn, memo.rewards(*_drawn(completions)))
        candidates = as_candidates(completions, jnp.asarray(rewards, jnp.float32))
        return np.asarray(early.rule.select(select_key, candidates).accepted), drawn

    def draw_missing(kept: Completions) -> tuple[np.ndarray, Completions | None]:
        verdicts, there = accepted(kept)
        tried, enough = count_tried(verdicts, there, early.wanted)
        places = np.flatnonzero(~enough & (tried < num_candidates))
        if not places.size:
            return places, None
        drawn = (propose or policy.propose_accepted)(
            key,
            state,
            prompts.take(places),
            num_candidates=num_candidates,
            num_accepted=early.wanted,
            rule=_numbered(early.rule, places),
            reward=lambda rows, tokens: memo.rewards(places[rows], tokens),
        )
        return places, drawn

    if keep is None:
        shape = (len(prompts.prompts), num_candidates, policy.sampling.max_new_tokens)
        completions = _from_nothing(shape, draw_missing)
    else:
        completions = keep(draw_missing)
    verdicts, there = accepted(completions)
    tried, enough = count_tried(verdicts, there, early.wanted)
    counts = np.arange(num_candidates) < tried[:, None]
    completions = _only(completions, counts)
    record = record_of(prompts, completions, policy.tokenizer, round_=round_, arm=arm)
    record = _with_scores(record, prompts, completions, memo, reward, judge)
    candidates = as_candidates(completions, jnp.asarray(record.reward, jnp.float32))
    selection = rule.select(select_key, candidates)
    rates = stopped_rate((verdicts & counts).sum(axis=1), tried, enough, early.wanted)
    info = Info(propose=Stopped(rates, early.wanted), score=record)
    return Collected(completions, candidates, selection, info)


def tokens_saved(completions: Completions, drawn_tokens: int) -> int:
    """Estimates how many tokens more it would have been to draw all N for all these prompts.

    The mean length of the candidates that count stands for those that were not drawn.

    Args:
      completions: `[P, N]`, empty where not drawn.
      drawn_tokens: what was drawn for them, dropped candidates included.
    """
    lengths = np.asarray(completions.lengths)
    mean = lengths.sum() / max((lengths > 0).sum(), 1)
    return max(round(mean * lengths.size) - drawn_tokens, 0)


def _from_nothing(shape: tuple[int, int, int], draw: DrawMoreFn) -> Completions:
    """What is drawn where nothing is kept."""
    count, num, width = shape
    nothing = padded_completions([None] * count, num, width)
    places, drawn = draw(nothing)
    return nothing if drawn is None else replaced(nothing, places, drawn)


def _numbered(rule: SelectionRule, places: np.ndarray) -> SelectionRule:
    """The rule for some prompts of a batch, with the random numbers that it has for the whole."""
    numbers = jnp.asarray(places, jnp.int32)

    def select(key: PRNGKey, candidates: Candidates):
        return rule.select(key, dataclasses.replace(candidates, prompt_ids=numbers))

    return rule._replace(select=select)


def _drawn(completions: Completions) -> tuple[np.ndarray, list[np.ndarray]]:
    """The prompt and the tokens of each candidate that is there."""
    tokens, lengths = np.asarray(completions.tokens), np.asarray(completions.lengths)
    at = np.argwhere(lengths > 0)
    return at[:, 0], [tokens[i, j, : lengths[i, j]] for i, j in at]


def _scattered(where: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`[P, N]` float64, NaN where there is none."""
    out = np.full(where.shape, np.nan)
    out[where] = values
    return out


def _only(completions: Completions, counts: np.ndarray) -> Completions:
    """Empties what does not count."""
    there = jnp.asarray(counts)

    def emptied(name: str, leaf: Any) -> Any:
        if leaf is None:
            return None
        mask = there.reshape(there.shape + (1,) * (leaf.ndim - 2))
        return jnp.where(mask, leaf, -1 if name == "tokens" else jnp.zeros_like(leaf))

    names = [field.name for field in dataclasses.fields(completions)]
    return Completions(**{name: emptied(name, getattr(completions, name)) for name in names})


def _with_scores(
    record: Record,
    prompts: PromptBatch,
    completions: Completions,
    memo: Memo,
    reward: WeightedSum,
    judge: RewardFn | None,
) -> Record:
    """The record with the scores of what is there."""
    there = np.asarray(completions.lengths) > 0
    places, tokens = _drawn(completions)
    terms = memo.columns(memo.terms(places, tokens))
    judged = None
    if judge is not None:
        asked = [prompts.prompts[place] for place in places]
        flat = [[record.texts[i][j]] for i, j in np.argwhere(there)]
        judged = _scattered(there, as_sum(judge, "judge")(asked, flat)[:, 0])
    return scored(
        record,
        {name: _scattered(there, values) for name, values in terms.items()},
        _scattered(there, reward.combine(terms)),
        judged,
    )
