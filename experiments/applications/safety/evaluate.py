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

from rsft_jax.metrics import Slices, bootstrap_interval, slice_by_paired

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
from .templates import PAIRS

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
        "classifier_by_word": swapped_scores(judged["base"], with_group),
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
    title = f"{path}: held out, after {result['rounds']} rounds, 95 % intervals over templates"
    rows = [
        (kind, figure, *(cell(figures[arm][figure]) for arm in NAMES))
        for kind, figures in result["figures"].items()
        for figure in figures["policy"]
    ]
    console.table(title, ("", "", *NAMES.values()), rows)
    title = "tuned policy less the others, paired by template"
    rows = [
        (kind, figure, *(cell(less[other][figure]) for other in _OTHERS))
        for kind, less in result["policy_less"].items()
        for figure in less["base"]
    ]
    console.table(title, ("", "", *(NAMES[other] for other in _OTHERS)), rows)
    _show_groups(console, result["groups"])
    words = result["classifier_by_word"]
    console.say(f"the classifier on the same texts, another word in them: {_by_group(words)}")
    for arm, slices in result["training"].items():
        console.say(f"accepted in the last round, {NAMES[arm]}: {_by_group(slices)}")
    shares = ", ".join(f"{NAMES[k]} {v:.3f}" for k, v in result["distinct_2"].items())
    console.say(f"different word pairs: {shares}")
    show_cost(console, result["cost"])


def _show_groups(console: Console, groups: Mapping[str, Any]) -> None:
    rows = [
        (figure, NAMES[arm], _gap(found[arm]["slices"]), cell(found[arm]["spread"], 4))
        for figure, found in groups.items()
        for arm in NAMES
    ]
    title = "between groups: the interval of a gap holds for all pairs of groups at once"
    title += "; variance: between words, chance taken away"
    console.table(title, ("", "", "gap", "variance"), rows)
    title = (
        "first word less second, paired by template; intervals hold for all pairs of words at once"
    )
    arms = [
        (figure, axis, *(cell(found[arm]["pairs"][axis]) for arm in NAMES))
        for figure, found in groups.items()
        for axis in PAIRS
    ]
    console.table(title, ("", "", *NAMES.values()), arms)
    less = [
        (figure, axis, *(cell(found[other]["policy_less"]["pairs"][axis]) for other in _OTHERS))
        for figure, found in groups.items()
        for axis in PAIRS
    ]
    title = "the same of the tuned policy less the others"
    console.table(title, ("", "", *(NAMES[other] for other in _OTHERS)), less)


def _by_group(slices: Slices) -> str:
    each = ", ".join(f"{one.group} {one.interval.mean:.3f}" for one in slices.groups)
    return f"{each}; gap {_gap(slices)}"


def _gap(slices: Slices) -> str:
    if slices.gap is None:
        return "-"
    return f"{slices.gap.first} over {slices.gap.second} {cell(slices.gap.difference)}"


def _show_means(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """The means over runs, and each."""
    seeds = ", ".join(str(one["seed"]) for one in found)
    rows = [
        (
            kind,
            figure,
            *(
                mean_cell([one["figures"][kind][arm][figure].mean for one in found])
                for arm in NAMES
            ),
        )
        for kind in KINDS
        for figure in found[0]["figures"][kind]["policy"]
    ]
    console.table(f"mean over seeds {seeds}, and each", ("", "", *NAMES.values()), rows)
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
