"""Judges the policies of safety runs by the held-out completions that the runs have stored.

    python -m rsft_jax.experiments.applications.safety.evaluate RUN ...

For each run (of another seed, say) the tuned policy, the one it began with and the random control:
how much is offensive, refused, accepted and to the point, the judge's sentiment, and how far groups
of people lie apart, with intervals paired by template; what the classifier says of the group words
by themselves; acceptance by group in training; diversity and cost. Nothing is drawn. Written to
safety.json in the run.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.metrics import Interval, Slices, bootstrap_interval, slice_by_paired

from ...language.candidates import read_candidates
from ...language.sliced import asked_prompts, labels_of
from ...runs.folder import RunFolder
from ...settings.schema import LanguageConfig
from ...terminal.console import Console
from ...terminal.errors import ConfigError, ExitCode, shown
from ..evaluation import (
    NAMES,
    cell,
    config_of,
    cost_of,
    evaluate_runs,
    held_out,
    mean_cell,
    show_cost,
    write_result,
)
from .judging import (
    Judged,
    by_group,
    differences,
    has_group,
    intervals,
    judge,
    pair_differences,
    spread,
    swapped_scores,
)
from .prompts import GROUPS

KINDS = {"heated": ("heated",), "everyday": ("everyday",), "controls": ("control",)}
"""Kinds of prompts, a part of each table each."""

BETWEEN_GROUPS = ("reward", "accepted", "score", "sentiment")
"""Figures whose differences between groups are shown."""

_OTHERS = ("base", "control")


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Judges each run, and says the means over all."""
    return evaluate_runs("safety.evaluate", __doc__ or "", arguments, evaluate_run, _show_means)


def evaluate_run(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Judges a run, prints what it finds and writes it to safety.json.

    Raises:
      ConfigError: the run has no evaluation after a round, or is of another experiment.
    """
    config = config_of(folder, "safety")
    minimum = _minimum(config)
    if minimum is None:
        raise ConfigError(
            f"{shown(str(folder.path))}: is no run of safety: its rule has no minimum"
        )
    records = held_out(folder)
    try:
        judged = {
            name: judge(
                record,
                asked_prompts(record, config, folder.path, "safety", heldout=True),
                minimum,
            )
            for name, record in records.items()
        }
    except ValueError as error:
        raise ConfigError(f"{shown(str(folder.path))}: {error}") from None
    policy = judged["policy"]
    kinds = {name: policy.of_kind(*some) for name, some in KINDS.items()}
    with_group = has_group(policy)
    result = {
        "seed": config.seed,
        "rounds": records["policy"].round,
        "templates": {k: len(set(policy.column("template", on))) for k, on in kinds.items()},
        "figures": {
            k: {name: intervals(one, on) for name, one in judged.items()} for k, on in kinds.items()
        },
        "policy_less": {
            k: {other: differences(policy, judged[other], on) for other in _OTHERS}
            for k, on in kinds.items()
        },
        "groups": {
            figure: _between_groups(judged, figure, with_group) for figure in BETWEEN_GROUPS
        },
        "classifier_by_word": _of_words(judged["base"], with_group),
        "training": _training(folder, config),
        "distinct_2": {name: one.distinct(with_group) for name, one in judged.items()},
        "cost": cost_of(folder.events()),
    }
    _show(console, folder.path, result)
    write_result(folder.path / "safety.json", result)
    return result


def _minimum(config: LanguageConfig) -> float | None:
    """The least reward that the rule accepts, or the rule inside a balanced one."""
    rule = getattr(config.selection, "inner", config.selection)
    return getattr(rule, "minimum", None)


def _between_groups(
    judged: Mapping[str, Judged], figure: str, chosen: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Of each policy: the figure by group, the pairs of words, and the variance between words."""
    spreads = {name: spread(one, figure, chosen) for name, one in judged.items()}
    found = {
        name: {
            "slices": by_group(one, figure, chosen),
            "pairs": pair_differences(one, figure, chosen),
            "spread": bootstrap_interval(spreads[name]),
        }
        for name, one in judged.items()
    }
    for other in _OTHERS:
        found[other]["policy_less"] = {
            "pairs": pair_differences(judged["policy"], figure, chosen, judged[other]),
            "spread": bootstrap_interval(spreads["policy"] - spreads[other]),
        }
    return found


def _of_words(base: Judged, chosen: np.ndarray) -> Slices:
    """What the classifier gives to the same texts of the base with each group word in them."""
    scores = swapped_scores(base, chosen)
    texts = [name for name in range(len(scores)) for _ in GROUPS]
    return slice_by_paired(scores.ravel(), list(GROUPS) * len(scores), texts)


def _training(folder: RunFolder, config: LanguageConfig) -> dict[str, Slices]:
    """Acceptance of each arm in the last round, by group."""
    records, _ = read_candidates(folder.path, field="safety", with_verdict=True)
    found = {}
    for arm in ("policy", "control"):
        record = max((r for r in records if r.arm == arm), key=lambda r: r.round)
        assert record.verdict is not None  # asked for
        prompts = asked_prompts(record, config, folder.path, "safety")
        groups, templates = (labels_of(prompts, by, "safety") for by in ("group", "template"))
        accepted = np.where(record.valid, record.verdict.accepted, np.nan)
        found[arm] = slice_by_paired(accepted, groups, templates)
    return found


def _show(console: Console, path: Path, result: Mapping[str, Any]) -> None:
    names = list(result["figures"]["controls"]["policy"])
    rows = [
        (kind, NAMES[arm], *(_cell_of(figures[arm], name) for name in names))
        for kind, figures in result["figures"].items()
        for arm in NAMES
    ]
    title = f"{path}: held out, after {result['rounds']} rounds, 95 % intervals over templates"
    console.table(title, ("", "", *names), rows)
    rows = [
        (kind, NAMES[other], *(_cell_of(less[other], name) for name in names))
        for kind, less in result["policy_less"].items()
        for other in less
    ]
    console.table("tuned policy less the others, paired by template", ("", "less", *names), rows)
    _show_groups(console, result["groups"])
    words = result["classifier_by_word"]
    each = ", ".join(f"{one.group} {one.interval.mean:.3f}" for one in words.groups)
    gap = "" if words.gap is None else f"; gap {cell(words.gap.difference)}"
    console.say(f"the classifier on the same texts with another word in them: {each}{gap}")
    for arm, slices in result["training"].items():
        console.say(f"accepted in the last round, {NAMES[arm]}: {_by_group(slices)}")
    shares = ", ".join(f"{NAMES[k]} {v:.3f}" for k, v in result["distinct_2"].items())
    console.say(f"different word pairs: {shares}")
    show_cost(console, result["cost"])


def _show_groups(console: Console, groups: Mapping[str, Any]) -> None:
    rows = []
    for figure, found in groups.items():
        for arm in NAMES:
            one = found[arm]
            cells = (_gap(one["slices"]), cell(one["spread"], 4), *map(cell, one["pairs"].values()))
            rows.append((figure, NAMES[arm], *cells))
        for other in _OTHERS:
            less = found[other]["policy_less"]
            cells = ("", cell(less["spread"], 4), *map(cell, less["pairs"].values()))
            rows.append((figure, f"tuned less {NAMES[other]}", *cells))
    pairs = list(groups["reward"]["policy"]["pairs"])
    title = (
        "between groups: intervals of the gap hold for all pairs of groups at once, those of the"
    )
    title += f" {len(pairs)} pairs of words together; variance: between words, chance taken away"
    console.table(title, ("", "", "gap", "variance", *pairs), rows)


def _by_group(slices: Slices) -> str:
    each = ", ".join(f"{one.group} {one.interval.mean:.3f}" for one in slices.groups)
    return f"{each}; gap {_gap(slices)}"


def _gap(slices: Slices) -> str:
    if slices.gap is None:
        return "-"
    return f"{slices.gap.first} over {slices.gap.second} {cell(slices.gap.difference)}"


def _cell_of(figures: Mapping[str, Interval], name: str) -> str:
    return cell(figures[name]) if name in figures else "-"


def _show_means(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """The means over runs, and each."""
    seeds = ", ".join(str(one["seed"]) for one in found)
    names = list(found[0]["figures"]["controls"]["policy"])
    rows = []
    for kind in KINDS:
        for arm in NAMES:
            figures = [one["figures"][kind][arm] for one in found]
            cells = [
                mean_cell([f[name].mean for f in figures]) if name in figures[0] else "-"
                for name in names
            ]
            rows.append((kind, NAMES[arm], *cells))
    console.table(f"mean over seeds {seeds}, and each", ("", "", *names), rows)
    rows = []
    for figure in BETWEEN_GROUPS:
        for arm in NAMES:
            own = [one["groups"][figure][arm] for one in found]
            gaps = [one["slices"].gap.difference.mean for one in own if one["slices"].gap]
            spreads = mean_cell([one["spread"].mean for one in own], 4)
            rows.append((figure, NAMES[arm], mean_cell(gaps) if gaps else "-", spreads))
    console.table(f"between groups, seeds {seeds}", ("", "", "gap", "variance"), rows)


if __name__ == "__main__":
    sys.exit(main())
