"""Early stop: no more is drawn for a prompt once as many are accepted as the rule has budget for.

A budget takes the first so many that are accepted (`rsft_jax.selection.at_most`), so what lies
behind them has no say in what is accepted: the policy is trained on exactly the samples that it
would be trained on without early stop. What does change is the control, which is the first so many
candidates here (`first_control`), and every figure of all candidates drawn.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.generation import Completions, count_tried, stopped_rate
from rsft_jax.rewards import guard
from rsft_jax.rounds import Collected, as_candidates
from rsft_jax.selection import Candidates, SelectionRule, chain
from rsft_jax.types import PRNGKey

from ..settings.schema import LanguageConfig
from ..terminal.errors import ConfigError
from . import make, samples
from .task import PromptBatch, Task


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


def make_early_stop(config: LanguageConfig) -> EarlyStop | None:
    """When drawing for a prompt ends; None where all candidates are drawn.

    Raises:
      ConfigError: a rule of one's own must see all candidates of a prompt.
    """
    if not config.sampling.early_stop:
        return None
    rule = make.make_unlimited_rule(config.selection, config.allow_packages)
    budget = make.budget_of(config.selection)
    if budget is None or not rule.separable or rule.needs - {"log_proposal"}:
        raise ConfigError(
            "sampling.early_stop: true; the rule of selection.function must be separable, that is "
            "judge each candidate by itself, and need nothing but its log_proposal"
        )
    return EarlyStop(chain(rule), budget)


class Stopped(NamedTuple):
    """One round's candidates, drawn until it was enough.

    Attributes:
      collected: candidates and verdict, `[P, N]`; what was not drawn is empty and invalid.
      scores: of the candidates.
      rates: `[P]` unbiased estimates of the rule's acceptance rate, its budget aside.
      always: so many first candidates are drawn for each prompt whatever their rewards: they are a
        fair sample of what is proposed, which all that are drawn are not.
    """

    collected: Collected
    scores: samples.Scores
    rates: np.ndarray
    always: int


class Memo:
    """The terms of a round's rewards by prompt and tokens, so that nothing is scored twice.

    Each candidate is scored for itself, as it ends: a reward that compares the candidates of a
    prompt with each other cannot be used with early stop.
    """

    def __init__(self, task: Task, batch: PromptBatch):
        self._task, self._batch = task, batch
        self._terms: dict[tuple[int, bytes], dict[str, float]] = {}

    def rewards(self, places: Sequence[int], tokens: Sequence[np.ndarray]) -> np.ndarray:
        """Rewards of completions of these prompts of the batch; NaN for what has none."""
        found = self.terms(places, tokens)
        return self._task.reward.combine(self.columns(found))

    def terms(self, places: Sequence[int], tokens: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """Every term of each of these completions."""
        names = [(int(p), np.asarray(ids, np.int32).tobytes()) for p, ids in zip(places, tokens)]
        new = {name: ids for name, ids in zip(names, tokens) if name not in self._terms}
        if new:
            questions = [self._batch.prompts[place].text for place, _ in new]
            texts = self._task.tokenizer.decode_batch([ids.tolist() for ids in new.values()])
            terms = self._task.reward.terms(questions, [[text] for text in texts])
            for row, name in enumerate(new):
                self._terms[name] = {term: float(values[row, 0]) for term, values in terms.items()}
        return [self._terms[name] for name in names]

    def columns(self, rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
        """The terms of completions as arrays."""
        return {name: np.array([row[name] for row in rows]) for name in self._task.reward.weights}


def collect_until_accepted(
    key: PRNGKey,
    batch: PromptBatch,
    *,
    task: Task,
    early: EarlyStop,
    rule: SelectionRule,
    draw: Callable[..., Completions],
    keep: Callable[[Callable], Completions],
) -> Stopped:
    """Collects a round's candidates: those that are kept, and what must be drawn beyond them.

    Args:
      key: of the round, consumed; what is drawn and accepted is what `rsft_jax.rounds.collect`
        would draw and accept with it, up to where it is enough.
      batch: P prompts.
      task: what draws and scores.
      early: when it is enough.
      rule: the verdict on what was drawn.
      draw: `(some prompts, rule, rewards) -> completions`, until it is enough for each of them.
      keep: asks the store; `KeptDraws.get_longest` with all but its last argument.
    """
    _, select_key = jax.random.split(key)
    memo = Memo(task, batch)
    num = task.config.sampling.num_candidates

    def accepted(completions: Completions) -> tuple[np.ndarray, np.ndarray]:
        """Verdicts of the rule alone `[P, N]`, and which candidates are there."""
        drawn = np.asarray(completions.lengths) > 0
        rewards = _scattered(drawn, memo.rewards(*_drawn(completions)))
        candidates = as_candidates(completions, jnp.asarray(rewards, jnp.float32))
        return np.asarray(early.rule.select(select_key, candidates).accepted), drawn

    def draw_missing(kept: Completions) -> tuple[np.ndarray, Completions | None]:
        verdicts, there = accepted(kept)
        tried, enough = count_tried(verdicts, there, early.wanted)
        places = np.flatnonzero(~enough & (tried < num))
        if not places.size:
            return places, None
        found = draw(
            batch.take(places),
            _numbered(early.rule, places),
            lambda rows, tokens: memo.rewards(places[rows], tokens),
        )
        return places, found

    completions = keep(draw_missing)
    verdicts, there = accepted(completions)
    tried, enough = count_tried(verdicts, there, early.wanted)
    counts = np.arange(num) < tried[:, None]
    completions = _only(completions, counts)
    scores = _scores(task, batch, completions, memo)
    candidates = as_candidates(completions, jnp.asarray(scores.reward, jnp.float32))
    selection = rule.select(select_key, candidates)
    rates = stopped_rate((verdicts & counts).sum(axis=1), tried, enough, early.wanted)
    return Stopped(Collected(completions, candidates, selection), scores, rates, early.wanted)


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


def _scores(task: Task, batch: PromptBatch, completions: Completions, memo: Memo) -> samples.Scores:
    there = np.asarray(completions.lengths) > 0
    places, tokens = _drawn(completions)
    terms = memo.columns(memo.terms(places, tokens))
    texts = samples.completion_texts(completions, task.tokenizer)
    questions = [batch.prompts[place].text for place in places]
    flat = [[text] for row, here in zip(texts, there) for text, drawn in zip(row, here) if drawn]
    judged = guard(task.judge)(questions, flat)[:, 0]
    return samples.Scores(
        texts=texts,
        terms={name: _scattered(there, values) for name, values in terms.items()},
        reward=_scattered(there, task.reward.combine(terms)),
        judge=_scattered(there, judged),
    )
