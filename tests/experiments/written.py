"""Whether a search finds each figure that it can be asked for in the events of a run."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from rsft_jax.experiments.settings.schema import RunConfig
from rsft_jax.experiments.sweeps.study import load_study
from rsft_jax.experiments.sweeps.tune import figures

_SEARCHES = {
    "language": ["sweep=beta_lr", "experiment=smoke"],
    "gaussian": ["sweep=gaussian", "experiment=gaussian"],
}


def not_found(events: list[dict[str, Any]], kind: str, folder: Path, last_round: int) -> set[str]:
    """Names the metrics of `rsft tune` that it does not read from these events of a whole run.

    Args:
      events: of the run.
      kind: of the experiment.
      folder: for the events; it exists.
      last_round: for which each metric must have a finite value, in each arm.
    """
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "metrics.jsonl").write_text(text)
    study = dataclasses.replace(load_study(_SEARCHES[kind]), last_round=last_round)
    missing = set()
    settings = RunConfig.variants()[kind]
    for metric, event in settings.METRICS.items():
        search = dataclasses.replace(study.search, metric=metric)
        for arm in settings.ARMS:
            asked = dataclasses.replace(study, search=search, event=event, arm=arm)
            value = dict(figures(folder, asked)).get(last_round, math.nan)
            if not math.isfinite(value):
                missing.add(metric)
    return missing


def renamed(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The same events had their writer another word for a field."""
    return [{f"{key}_" if key == name else key: v for key, v in e.items()} for e in events]
