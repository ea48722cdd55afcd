"""Figures by group: who gets how much reward, and of whom is how much accepted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.data import Prompt, group_labels
from rsft_jax.data.groups import Label
from rsft_jax.metrics import Interval, Pair, Slices, slice_by
from rsft_jax.rollouts import Record

from ..settings.schema import LanguageConfig
from ..settings.schema.language import EvaluationConfig
from ..terminal.errors import ConfigError, shown
from . import make
from .given import read_given


class Figure(NamedTuple):
    """A figure of the candidates of P prompts.

    Attributes:
      ids: P names of prompts; a prompt may come several times.
      labels: P groups.
      values: `[P, N]`, NaN where a candidate does not have it.
    """

    ids: Sequence[str]
    labels: Sequence[Label]
    values: np.ndarray


def asked_prompts(
    record: Record,
    run: LanguageConfig | None,
    folder: Path,
    field: str,
    *,
    heldout: bool = False,
) -> list[Prompt]:
    """The prompts of a record with their columns.

    Args:
      record: of the candidates.
      run: the settings of their run; None where they are of a file or a store.
      folder: where they were read from.
      field: what asks for the columns, for errors.
      heldout: whether they are the held-out prompts of the run.

    Raises:
      ConfigError: a store has no columns, or a prompt is no longer in the data.
    """
    if record.asked is not None:
        return record.asked
    if run is None:
        raise ConfigError(
            f"{field}: needs the columns of the prompts, which {shown(str(folder))} does not hold; "
            "give the folder of the run, or a JSON Lines file with the columns"
        )
    known = {prompt.id: prompt for prompt in prompts_of(run, heldout=heldout)}
    for name in record.prompt_ids:
        if name not in known:
            raise ConfigError(f"{field}: prompt {shown(name)} is no longer in the data of the run")
    return [known[name] for name in record.prompt_ids]


def prompts_of(run: LanguageConfig, *, heldout: bool) -> list[Prompt]:
    """The prompts of a run with their columns, those of a split.

    Raises:
      ConfigError: they cannot be read any more.
    """
    if run.candidates is not None and not heldout:
        return read_given(run).prompts
    return make.load_prompt_split(run.data, heldout=heldout)


def labels_of(prompts: Sequence[Prompt], column: str, field: str) -> list[Label]:
    """The group of each prompt.

    Raises:
      ConfigError: a prompt lacks the column; one line with prompt and column.
    """
    try:
        return group_labels(prompts, column)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}") from None


def labels_by(
    records: Sequence[Record],
    columns: Sequence[str],
    run: LanguageConfig | None,
    folder: Path,
    field: str = "slices",
) -> dict[str, list[list[Label]]]:
    """Column -> for each record the groups of its prompts.

    Args:
      records: the candidates.
      columns: of their prompts.
      run: the settings of their run; None where they are of a file or a store.
      folder: where they were read from.
      field: what asks for the columns, for errors.

    Raises:
      ConfigError: the prompts, or one of the columns, are not there.
    """
    if not columns:
        return {}
    prompts = [asked_prompts(record, run, folder, field) for record in records]
    return {name: [labels_of(some, name, field) for some in prompts] for name in columns}


def intervals_of(run: LanguageConfig | None) -> tuple[float, int]:
    """Confidence and resamples of intervals: those of the run, or 95 % and 2000."""
    return (
        (0.95, 2000)
        if run is None
        else (
            run.evaluation.confidence,
            run.evaluation.bootstrap_samples,
        )
    )


def selection_values(record: Record, accepted: np.ndarray) -> dict[str, np.ndarray]:
    """What a rule does: `[P, N]` reward, acceptance (1 or 0), and reward of what is accepted."""
    reward = np.where(record.valid & np.isfinite(record.reward), record.reward, np.nan)
    return {
        "reward": reward,
        "acceptance": np.where(np.isnan(reward), np.nan, accepted),
        "accepted reward": np.where(accepted, reward, np.nan),
    }


def selection_slices(
    records: Sequence[Record],
    accepted: Sequence[np.ndarray],
    labels: Sequence[Sequence[Label]],
    intervals: tuple[float, int],
) -> dict[str, Slices]:
    """What a rule does to the groups: reward, acceptance rate, and reward of what is accepted.

    Args:
      records: of one round each.
      accepted: what is accepted of each.
      labels: the groups of their prompts.
      intervals: confidence and resamples.
    """
    values = [selection_values(record, mask) for record, mask in zip(records, accepted)]
    return {
        name: sliced(
            [Figure(r.prompt_ids, own, v[name]) for r, own, v in zip(records, labels, values)],
            *intervals,
        )
        for name in values[0]
    }


def event_slices(
    record: Record,
    prompts: Sequence[Prompt],
    values: Mapping[str, np.ndarray],
    settings: EvaluationConfig,
) -> dict[str, Any]:
    """Figures by group as a part of a metrics event; nothing where no column is asked for.

    Args:
      record: names the prompts.
      prompts: with columns, those of the record among them.
      values: figure -> `[P, N]`.
      settings: the columns, and how intervals are made.
    """
    if not settings.slices:
        return {}
    by_id = {prompt.id: prompt for prompt in prompts}
    asked = [by_id[name] for name in record.prompt_ids]
    intervals = settings.confidence, settings.bootstrap_samples
    return {
        "slices": {
            column: {
                name: _as_event(sliced([Figure(record.prompt_ids, labels, v)], *intervals))
                for name, v in values.items()
            }
            for column in settings.slices
            for labels in [labels_of(asked, column, "evaluation.slices")]
        }
    }


def joined(figures: Sequence[Figure]) -> Figure:
    """One figure of several rounds, a row for each prompt: its candidates are no independent ones.

    >>> joined([Figure(["p", "q"], ["a", "b"], np.array([[1.0], [2.0]])),
    ...         Figure(["p"], ["a"], np.array([[3.0]]))])
    Figure(ids=['p', 'q'], labels=['a', 'b'], values=array([[ 1.,  3.],
           [ 2., nan]]))
    """
    rows: dict[str, list[np.ndarray]] = {}
    labels: dict[str, Label] = {}
    for figure in figures:
        for name, label, values in zip(figure.ids, figure.labels, figure.values):
            rows.setdefault(name, []).append(values)
            labels.setdefault(name, label)
    own = [np.concatenate(some) for some in rows.values()]
    table = np.full((len(own), max(map(len, own), default=0)), np.nan)
    for i, values in enumerate(own):
        table[i, : len(values)] = values
    return Figure(list(rows), [labels[name] for name in rows], table)


def sliced(figures: Sequence[Figure], confidence: float, samples: int) -> Slices:
    """One figure of several rounds by group, with intervals over prompts."""
    figure = joined(figures)
    return slice_by(figure.values, figure.labels, confidence, samples)


def slice_rows(slices: Mapping[str, Slices]) -> list[tuple[str, ...]]:
    """The rows of a table: a group each, and the gap of each figure below them."""
    first = next(iter(slices.values()))
    rows = [
        (str(one.group), *(interval_text(each.groups[i].interval) for each in slices.values()))
        for i, one in enumerate(first.groups)
    ]
    if any(each.gap is not None for each in slices.values()):
        rows.append(("gap", *(_gap_text(each.gap) for each in slices.values())))
    return rows


def slices_note(slices: Mapping[str, Slices]) -> str:
    """How the table is to be read, and which groups are too small for an interval."""
    first = next(iter(slices.values()))
    small = [str(one.group) for one in first.groups if one.num_prompts < 2]
    text = (
        "intervals over prompts; that of a gap holds for all pairs of groups at once, of each "
        "figure and column by itself"
    )
    gaps = [
        f"{name} {each.gap.first} over {each.gap.second}"
        for name, each in slices.items()
        if each.gap is not None
    ]
    if gaps:
        text = f"gap: {', '.join(gaps)}; {text}"
    if small:
        text += f"; one prompt, so no interval and no part in the gap: {', '.join(small)}"
    return text


def _as_event(slices: Slices) -> dict[str, Any]:
    groups = {
        str(one.group): {**_ends(one.interval), "num_prompts": one.num_prompts}
        for one in slices.groups
    }
    return {"groups": groups, "gap": None if slices.gap is None else _gap(slices.gap)}


def _ends(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _gap(pair: Pair) -> dict[str, Any]:
    return {"best": str(pair.first), "worst": str(pair.second), **_ends(pair.difference)}


def interval_text(interval: Interval) -> str:
    """A mean with its interval; without one where there is too little, a dash where nothing."""
    mean, low, high = interval
    if np.isnan(mean):
        return "-"
    return f"{mean:.3f}" if np.isnan(low) else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _gap_text(gap: Pair | None) -> str:
    return "-" if gap is None else interval_text(gap.difference)
