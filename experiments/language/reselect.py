"""Selecting, and scoring, again what was drawn before: no model is loaded, nothing is generated."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rsft_jax.data import Prompt, group_numbers
from rsft_jax.data.groups import Label
from rsft_jax.metrics import distinct_n, self_bleu
from rsft_jax.numerics.round_keys import round_keys
from rsft_jax.rollouts import Record, RolloutStore, read_rollouts
from rsft_jax.rounds import select_candidates
from rsft_jax.sampling import acceptance_rate, effective_sample_size
from rsft_jax.selection import (
    Candidates,
    Selection,
    SelectionRule,
    random_control,
    stage_names,
    text_fingerprint,
)

from ..settings import schema
from ..terminal.errors import ConfigError, shown
from . import make
from .candidates import check_log_prob
from .endpoint import answers_store
from .rule import RuleFn, controls
from .sliced import selection_slices, slice_rows, slices_note


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reselected:
    """What a rule accepts of stored candidates, with a matched random control beside it.

    Attributes:
      rule: its stages.
      law: how sure its law is.
      num_scored: candidates with a reward.
      num_accepted: of these.
      rate: acceptance rate with its 95 % interval, (estimate, low, high).
      reward: mean reward of what was accepted; NaN when nothing was.
      control_reward: the same of as many candidates picked by coin.
      ess: effective sample size of the weights.
      max_log_weight: the largest log-weight of an accepted candidate, nats.
      distinct_2: share of distinct word pairs in what was accepted.
      control_distinct_2: the same of the control.
      self_bleu: similarity of accepted completions.
      prompts_without: prompts of which nothing was accepted.
    """

    rule: str
    law: str
    num_scored: int
    num_accepted: int
    rate: tuple[float, float, float]
    reward: float
    control_reward: float
    ess: float
    max_log_weight: float
    distinct_2: float
    control_distinct_2: float
    self_bleu: float
    prompts_without: int


Groups = Sequence[Sequence[Label]]
"""For each record the groups of its prompts."""


def as_candidates(record: Record, labels: Sequence[Label] | None = None) -> Candidates:
    """The candidates of a record as a rule sees them.

    Args:
      record: the candidates.
      labels: the groups of the prompts, for a rule that reads them.
    """
    return Candidates(
        rewards=jnp.asarray(record.reward.astype(np.float32)),
        valid=jnp.asarray(record.valid),
        log_proposal=jnp.asarray(np.where(record.valid, record.log_prob, 0.0), jnp.float32),
        finished=jnp.asarray(record.finished),
        fingerprint=jnp.asarray(text_fingerprint(record.texts)),
        group=None if labels is None else jnp.asarray(group_numbers(labels)),
    )


def select_again(
    record: Record, rule: SelectionRule, seed: int, labels: Sequence[Label] | None = None
) -> Selection:
    """Applies a rule to candidates with the randomness of the run that has this seed.

    The run of the same settings and seed would accept exactly these.

    Args:
      record: the candidates.
      rule: accepts or rejects.
      seed: of the run.
      labels: the groups of the prompts, for a rule that reads them.
    """
    keys = round_keys(make.run_keys(seed)["rounds"], record.round)
    return select_candidates(keys.collect, as_candidates(record, labels), rule)


def reselect(
    records: Sequence[Record], rules: RuleFn, seed: int, groups: Groups | None = None
) -> Reselected:
    """Applies the rule of each round, and its random control, to all records together.

    Args:
      records: the candidates.
      rules: accepts or rejects, in each round.
      seed: of the run that drew them.
      groups: what a rule that reads groups reads.

    Raises:
      ConfigError: the rule needs log q of candidates, and one has none.
    """
    for record in records:
        check_log_prob(record, rules(record.round), "reselect")
    own = [None] * len(records) if groups is None else groups
    coin = controls(rules, random_control)

    def selected(rules: RuleFn) -> list[Selection]:
        return [select_again(r, rules(r.round), seed, some) for r, some in zip(records, own)]

    chosen, by_coin = selected(rules), selected(coin)
    accepted = [np.asarray(s.accepted) for s in chosen]
    control = [np.asarray(s.accepted) for s in by_coin]
    log_weights = np.concatenate(  # of all: of one shape for every rule, so compiled once
        [np.where(a, np.asarray(s.log_weight), -np.inf).ravel() for s, a in zip(chosen, accepted)]
    )
    num_scored = sum(int((np.isfinite(r.reward) & r.valid).sum()) for r in records)
    num_accepted = sum(int(a.sum()) for a in accepted)
    rate = acceptance_rate(num_accepted, num_scored)
    texts, control_texts = _texts(records, accepted), _texts(records, control)
    return Reselected(
        rule=_name(records, rules),
        law=min(rules(record.round).law for record in records).name,
        num_scored=num_scored,
        num_accepted=num_accepted,
        rate=(float(rate.estimate), float(rate.low), float(rate.high)),
        reward=_mean(records, accepted),
        control_reward=_mean(records, control),
        ess=float(effective_sample_size(jnp.asarray(log_weights))) if num_accepted else 0.0,
        max_log_weight=float(log_weights.max()) if num_accepted else math.nan,
        distinct_2=distinct_n(texts, 2) if texts else math.nan,
        control_distinct_2=distinct_n(control_texts, 2) if control_texts else math.nan,
        self_bleu=self_bleu(texts) if len(texts) > 1 else math.nan,
        prompts_without=sum(int((~a.any(axis=1)).sum()) for a in accepted),
    )


class Table(NamedTuple):
    """What a rule does to groups of prompts, as a table."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str


def reselect_by(
    records: Sequence[Record],
    rules: RuleFn,
    seed: int,
    labels: Mapping[str, Groups],
    intervals: tuple[float, int],
    groups: Groups | None = None,
) -> list[Table]:
    """What a rule accepts of each group of prompts: a table for each column.

    Args:
      records: the candidates.
      rules: accepts or rejects, in each round.
      seed: of the run that drew them.
      labels: column -> for each record the groups of its prompts.
      intervals: their confidence and resamples.
      groups: what a rule that reads groups reads.
    """
    own = [None] * len(records) if groups is None else groups
    accepted = [
        np.asarray(select_again(record, rules(record.round), seed, some).accepted)
        for record, some in zip(records, own)
    ]
    tables = []
    for column, of_records in labels.items():
        slices = selection_slices(records, accepted, of_records, intervals)
        tables.append(
            Table(
                f"{_name(records, rules)} by {column}",
                (column, *slices),
                slice_rows(slices),
                slices_note(slices),
            )
        )
    return tables


def rescore(
    folder: Path,
    reward: schema.RewardConfig,
    run: schema.LanguageConfig | None,
    allow_packages: Sequence[str] = (),
) -> tuple[Path, list[tuple[Any, ...]], list[str]]:
    """Writes a store with the same candidates and another reward.

    Returns:
      The store, a row of figures for each part, and the parts that were left out.
    """
    source = RolloutStore(folder / "rollouts" if (folder / "rollouts").is_dir() else folder)
    problems = source.problems()
    bad = {problem.partition(": ")[0] for problem in problems}
    parts = [p for p in source.parts() if str(source.folder / p.name) not in bad]
    if not parts:
        raise ConfigError(f"rescore: {shown(str(folder))}; holds no candidates that can be read")
    asked: dict[str, Prompt] = {}
    if run is not None and run.candidates is None:
        asked = {p.id: p for p in make.load_prompt_split(run.data, heldout=False)}
    version = make.reward_version(reward)
    answers = answers_store(run, folder if run is None else folder / "draws")
    score = make.make_reward(reward, allow_packages, answers)
    judge = make.make_judge(reward, allow_packages, answers)
    target = RolloutStore(folder / "rescored" / version)
    figures = []
    for part in parts:
        rows = read_rollouts(source.folder / part.name)
        prompts: list[Prompt | str] = [
            asked.get(str(i)) or text for i, text in zip(rows["prompt_id"], rows["prompt"])
        ]
        texts = [[text] for text in rows["completion"]]
        terms = score.terms(prompts, texts)
        after = score.combine(terms)[:, 0]
        dropped = {"accepted", "accept_prob", "log_weight", "reason", "rule"}
        kept = {
            name: values
            for name, values in rows.columns.items()
            if name not in dropped and not name.startswith("term/")
        }
        kept |= {f"term/{name}": values[:, 0] for name, values in terms.items()}
        judged = judge(prompts, texts)[:, 0]
        kept |= {"reward": after, "judge": judged}
        kept |= {"reward_version": [version] * rows.num_rows}
        target.append(kept, name=part.name.removesuffix(".parquet"))
        figures.append(
            (*_compared(part.name, np.asarray(rows["reward"]), after), *_mean_of_known(judged))
        )
    return target.folder, figures, problems


def _compared(name: str, before: np.ndarray, after: np.ndarray) -> tuple[Any, ...]:
    both = np.isfinite(before) & np.isfinite(after)
    spread = both.sum() > 1 and before[both].std() > 0 and after[both].std() > 0
    correlation = float(np.corrcoef(before[both], after[both])[0, 1]) if spread else None
    means = [
        float(v[np.isfinite(v)].mean()) if np.isfinite(v).any() else None for v in (before, after)
    ]
    return (name, len(after), int((~np.isfinite(after)).sum()), *means, correlation)


def _mean_of_known(values: np.ndarray) -> tuple[float | None, int]:
    """The mean of what is a number, and how many are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None, len(values) - len(known)


def _name(records: Sequence[Record], rules: RuleFn) -> str:
    """The stages of the rule; of a schedule those of each round."""
    names = (" > ".join(stage_names(rules(record.round))) for record in records)
    return ", then ".join(dict.fromkeys(names))


def _texts(records: Sequence[Record], accepted: Sequence[np.ndarray]) -> list[str]:
    return [r.texts[i][j] for r, mask in zip(records, accepted) for i, j in np.argwhere(mask)]


def _mean(records: Sequence[Record], kept: Sequence[np.ndarray]) -> float:
    values = np.concatenate([record.reward[mask] for record, mask in zip(records, kept)])
    return float(values.mean()) if values.size else math.nan
