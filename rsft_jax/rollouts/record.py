"""The one record of P x N candidates: what was drawn, what the rewards say, what was accepted.

A record lives on the host and goes with a round: it begins with what was drawn, is given scores and
then a verdict, and becomes rows of a rollout file; rows, and JSON Lines files of other programs,
become records again. P is prompts, N the largest number of candidates of a prompt.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.data.prompts import Prompt, read_prompts
from rsft_jax.rollouts.parquet import Rollouts
from rsft_jax.rollouts.schema import TERM_PREFIX


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a selection rule says of P x N candidates.

    Attributes:
      accepted: `[P, N]` bool.
      accept_prob: `[P, N]` float64 probability that one draw of the rule accepts it.
      log_weight: `[P, N]` float64 log-weight that repairs the bias of the rule, nats.
      reasons: P * N reasons, prompt by prompt.
      rule: the name of the rule.
    """

    accepted: np.ndarray
    accept_prob: np.ndarray
    log_weight: np.ndarray
    reasons: list[str]
    rule: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """P x N candidates that were drawn together: one round and arm of a run, or a whole file.

    Attributes:
      prompt_ids: P names of prompts.
      prompts: P texts; of a run, as the model saw them.
      places: `[P]` number of each prompt under the key that its candidates were drawn with.
      texts: P rows of N completions, "" where there is none.
      tokens: the same as token ids, without padding; None where only texts are known.
      log_probs: P rows of N arrays, the log-probability of each token under the law that it was
        drawn from, nats, NaN where unknown; None where no more than that of whole ones is known.
      log_prob: `[P, N]` float64 log-probability of whole completions, nats; NaN where unknown.
      drawn: `[P, N]` whether there is a candidate; early stop leaves empty what it does not draw.
      failed: `[P, N]` whether the policy gave no distribution to draw it from.
      finished: `[P, N]` whether a stop token ended it.
      reward: `[P, N]` float64, what selection looks at; NaN where there is none.
      judge: `[P, N]` float64, the second judge's score; NaN where there is none.
      terms: name -> `[P, N]` float64, every term of the reward that is known.
      verdict: what a rule has accepted of them; None before.
      asked: P prompts as they were read, of a JSON Lines file; None otherwise.
      visits: `[P]` how often each prompt stands further up: its candidates are numbered on from
        those; None for never.
      lines: P rows of N places "FILE:LINE" in a JSON Lines file; None otherwise.
      left_out: rows of a JSON Lines file that cannot be read, a sentence each.
      round: its round; 1 for a file.
      arm: its arm; "policy" for a file.
    """

    prompt_ids: list[str]
    prompts: list[str]
    places: np.ndarray
    texts: list[list[str]]
    tokens: Sequence[Sequence[Sequence[int] | np.ndarray]] | None
    log_probs: Sequence[Sequence[np.ndarray]] | None
    log_prob: np.ndarray
    drawn: np.ndarray
    failed: np.ndarray
    finished: np.ndarray
    reward: np.ndarray
    judge: np.ndarray
    terms: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    verdict: Verdict | None = None
    asked: list[Prompt] | None = None
    visits: np.ndarray | None = None
    lines: list[list[str]] | None = None
    left_out: tuple[str, ...] = ()
    round: int = 1
    arm: str = "policy"

    @property
    def valid(self) -> np.ndarray:
        """`[P, N]` whether there is a candidate that can be used."""
        return self.drawn & ~self.failed

    @property
    def drawn_texts(self) -> list[str]:
        """The completions that there are, prompt by prompt."""
        return [self.texts[i][j] for i, j in np.argwhere(self.drawn)]


def to_rows(
    record: Record, source: Mapping[str, Sequence[Any]] | None = None
) -> dict[str, list[Any]]:
    """The columns of a rollout file, a row for each candidate drawn, prompt by prompt.

    Args:
      record: with tokens and their log-probabilities.
      source: P * N values of any of the columns that say where the candidates come from
        (`IDENTITY_COLUMNS`); they take the place of the record's own.

    Raises:
      ValueError: the record knows texts alone.
    """
    if record.tokens is None or record.log_probs is None:
        raise ValueError("record must have tokens and log_probs to become rows, got texts alone")
    count, num = record.drawn.shape
    total = count * num
    visits = np.zeros(count, int) if record.visits is None else record.visits
    rows: dict[str, list[Any]] = {
        "round": [record.round] * total,
        "arm": [record.arm] * total,
        "prompt_id": [name for name in record.prompt_ids for _ in range(num)],
        "candidate": (visits[:, None] * num + np.arange(num)).ravel().tolist(),
        "prompt": [text for text in record.prompts for _ in range(num)],
        "completion": [text for row in record.texts for text in row],
        "tokens": [ids for row in record.tokens for ids in row],
        "log_probs": [values for row in record.log_probs for values in row],
        "finished": record.finished.ravel().tolist(),
        "reward": record.reward.ravel().tolist(),
        "judge": record.judge.ravel().tolist(),
    }
    for name, values in record.terms.items():
        rows[f"{TERM_PREFIX}{name}"] = values.ravel().tolist()
    if record.verdict is not None:
        rows["accepted"] = record.verdict.accepted.ravel().tolist()
        rows["accept_prob"] = record.verdict.accept_prob.ravel().tolist()
        rows["log_weight"] = record.verdict.log_weight.ravel().tolist()
        rows["reason"] = list(record.verdict.reasons)
        rows["rule"] = [record.verdict.rule] * total
    rows["failed"] = record.failed.ravel().tolist()
    of_tokens = _totals(rows["log_probs"])
    if (np.isnan(of_tokens) & np.isfinite(record.log_prob.ravel())).any():
        rows["log_prob"] = record.log_prob.ravel().tolist()
    rows |= {name: list(values) for name, values in (source or {}).items()}
    drawn = record.drawn.ravel()
    if drawn.all():
        return rows
    return {name: [v for v, there in zip(values, drawn) if there] for name, values in rows.items()}


def from_rows(rows: Rollouts, *, with_verdict: bool = False) -> list[Record]:
    """The records that rows of a rollout file hold, one for each round and arm.

    A prompt that was drawn twice in a round, in two places or by two draws, is two prompts again.

    Args:
      rows: of a file.
      with_verdict: whether the records have the verdict that is stored, where one is; who asks for
        candidates in order to judge them has no use for it.
    """
    places = rows.columns.get("place", np.zeros(rows.num_rows, int))
    draws = rows.columns.get("draw", [""] * rows.num_rows)
    by_record: dict[tuple[int, str], dict[tuple[str, int, str], list[int]]] = {}
    for row, (round_, arm) in enumerate(zip(rows["round"], rows["arm"])):
        draw = (rows["prompt_id"][row], int(places[row]), draws[row])
        by_record.setdefault((int(round_), arm), {}).setdefault(draw, []).append(row)
    with_verdict = with_verdict and "accepted" in rows.columns
    return [_record(rows, *name, by_draw, with_verdict) for name, by_draw in by_record.items()]


def _record(
    rows: Rollouts,
    round_: int,
    arm: str,
    by_draw: dict[tuple[str, int, str], list[int]],
    with_verdict: bool,
) -> Record:
    names = [name for name, _, _ in by_draw]
    visits = np.array([names[:i].count(name) for i, name in enumerate(names)])
    first = [some[0] for some in by_draw.values()]
    # Candidates of a further visit are numbered on from those of the visits before it.
    start = np.where(visits > 0, np.asarray(rows["candidate"])[first], 0)
    numbers_of = [np.asarray(rows["candidate"])[some] for some in by_draw.values()]
    num = 1 + max(int((own - begin).max()) for own, begin in zip(numbers_of, start))
    shape = (len(names), num)
    index = np.full(shape, -1)
    for i, some in enumerate(by_draw.values()):
        index[i, numbers_of[i] - start[i]] = some
    drawn = index >= 0

    def gathered(values: Any, missing: Any) -> np.ndarray:
        return np.where(drawn, np.asarray(values)[index], missing)

    def numbers(values: Any) -> np.ndarray:
        return gathered(np.asarray(values, np.float64), np.nan)

    def listed(values: Any, missing: Any) -> list[list[Any]]:
        return [[values[r] if r >= 0 else missing for r in row] for row in index]

    verdict = None
    if with_verdict:
        verdict = Verdict(
            accepted=gathered(rows["accepted"], False),
            accept_prob=numbers(rows["accept_prob"]),
            log_weight=numbers(rows["log_weight"]),
            reasons=[reason for row in listed(rows["reason"], "") for reason in row],
            rule=rows["rule"][first[0]] if "rule" in rows.columns else "",
        )
    log_prob = _totals(rows["log_probs"])
    if "log_prob" in rows.columns:
        log_prob = np.where(np.isnan(log_prob), np.asarray(rows["log_prob"]), log_prob)
    places, failed = rows.columns.get("place"), rows.columns.get("failed")
    return Record(
        prompt_ids=names,
        prompts=[rows["prompt"][row] for row in first],
        places=np.arange(shape[0]) if places is None else np.asarray(places)[first],
        texts=listed(rows["completion"], ""),
        tokens=listed(rows["tokens"], np.zeros(0, np.int32)),
        log_probs=listed(rows["log_probs"], np.zeros(0, np.float32)),
        log_prob=numbers(log_prob),
        drawn=drawn,
        failed=np.zeros(shape, bool) if failed is None else gathered(failed, False),
        finished=gathered(rows["finished"], False),
        reward=numbers(rows["reward"]),
        judge=numbers(rows["judge"]),
        terms={name: numbers(rows[f"{TERM_PREFIX}{name}"]) for name in rows.terms},
        verdict=verdict,
        visits=visits if visits.any() else None,
        round=round_,
        arm=arm,
    )


def _totals(log_probs: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
    """The log-probability of whole completions, NaN where there is no token or one is unknown."""
    return np.array([np.sum(v, dtype=np.float64) if len(v) else math.nan for v in log_probs])


def read_jsonl(path: str | Path) -> Record:
    """Reads candidates of another program, one a line, grouped by prompt in the order of the file.

        {"prompt": "Tell me ...", "completion": "Once ...", "reward": 0.7, "log_prob": -41.2}

    A reward may be null. `id` is the prompt's: the rows of a prompt may share one, or have their
    own; the first is taken. A column that says different things of one prompt is the candidates',
    not the prompt's: no reward can read it. May be left out: `log_prob`, of the whole completion in
    nats under the very law that it was drawn from (servers often record it before temperature and
    cuts); and `finished`, false where the completion was cut, for which a `finish_reason` of
    "length" serves.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a line or a column is not as it should be; the message names file and line.
    """
    file = read_prompts(path, unique_ids=False)
    by_prompt: dict[tuple, list[_Row]] = {}
    owners: dict[str, tuple[tuple, int]] = {}
    for asked in file.prompts:
        name = tuple(tuple(sorted(message.items())) for message in asked.messages)
        owner, line = owners.setdefault(asked.id, (name, asked.line))
        if owner != name:
            reason = f"the id {asked.id!r} is that of another prompt, line {line}"
            raise ValueError(f"{path}:{asked.line}: {reason}")
        by_prompt.setdefault(name, []).append(_row(asked, f"{path}:{asked.line}"))
    num = max(len(rows) for rows in by_prompt.values())
    shape = (len(by_prompt), num)
    rewards, log_prob = np.full(shape, np.nan), np.full(shape, np.nan)
    drawn, finished = np.zeros((2, *shape), bool)
    for i, rows in enumerate(by_prompt.values()):
        for j, row in enumerate(rows):
            rewards[i, j], log_prob[i, j], finished[i, j] = row.reward, row.log_prob, row.finished
            drawn[i, j] = True
    prompts = [_prompt_of(rows) for rows in by_prompt.values()]
    return Record(
        prompt_ids=[prompt.id for prompt in prompts],
        prompts=[prompt.text for prompt in prompts],
        places=np.arange(shape[0]),
        texts=[[row.text for row in r] + [""] * (num - len(r)) for r in by_prompt.values()],
        tokens=None,
        log_probs=None,
        log_prob=log_prob,
        drawn=drawn,
        failed=np.zeros(shape, bool),
        finished=finished,
        reward=rewards,
        judge=np.full(shape, np.nan),
        asked=prompts,
        lines=[[row.place for row in r] + [""] * (num - len(r)) for r in by_prompt.values()],
        left_out=tuple(f"{path}:{row.line}: {row.reason}" for row in file.skipped),
    )


class _Row(NamedTuple):
    """One candidate of a JSON Lines file, and its place there."""

    asked: Prompt
    place: str
    text: str
    reward: float
    log_prob: float
    finished: bool


def _prompt_of(rows: Sequence[_Row]) -> Prompt:
    """The prompt that rows share, with the columns that all who have them agree on."""
    asked = rows[0].asked
    fields = {
        name: value
        for name, value in asked.fields.items()
        if all(row.asked.fields.get(name, value) == value for row in rows)
    }
    return dataclasses.replace(asked, fields=fields)


def _row(asked: Prompt, place: str) -> _Row:
    fields = asked.fields
    text = fields.get("completion")
    if not isinstance(text, str):
        raise ValueError(f"{place}: column 'completion' must be a string, got {text!r:.80}")
    finished = fields.get("finished")
    if not isinstance(finished, bool | None):
        raise ValueError(
            f"{place}: column 'finished' must be true, false or null, got {finished!r:.80}"
        )
    if finished is None:
        finished = fields.get("finish_reason") != "length"
    if "reward" not in fields:
        raise ValueError(f"{place}: column 'reward' is missing; a null is allowed")
    reward, log_prob = (_number(fields, name, place) for name in ("reward", "log_prob"))
    return _Row(asked, place, text, reward, log_prob, finished)


def _number(fields: Mapping[str, Any], name: str, place: str) -> float:
    value = fields.get(name)
    if value is None:
        return math.nan
    if not isinstance(value, bool | int | float):
        raise ValueError(f"{place}: column {name!r} must be a number or null, got {value!r:.80}")
    return float(value)
