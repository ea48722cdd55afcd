"""What a run cost: time by stage, and tokens generated and trained on."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .. import text
from ..load import Event, Run, number
from ..palette import LIGHT, STAGES, in_order
from ..plot import Plot, legend_above, make_axes
from .lines import has

Times = Mapping[tuple[int, str], Mapping[str, float]]
"""Seconds of each stage, by round and arm."""


def seconds_by_stage(run: Run) -> Plot | None:
    """The time of every round and arm, stage after stage."""
    times = _times(run)
    if not times:
        return None
    total = math.fsum(np.nan_to_num(v) for row in times.values() for v in row.values())
    return Plot(
        name="seconds-by-stage",
        title="Time by stage",
        caption=f"Wall-clock time of each round and arm; {text.duration(total)} in all.",
        alt="Seconds by stage. "
        + "; ".join(
            f"round {round_} {arm}: "
            + ", ".join(f"{stage} {text.compact(v)}" for stage, v in row.items())
            for (round_, arm), row in times.items()
        ),
        figure=_draw_seconds(times),
        rows=tuple({"round": round_, "arm": arm, **row} for (round_, arm), row in times.items()),
    )


def tokens_by_round(run: Run) -> Plot | None:
    """The tokens generated and the tokens trained on."""
    events = [
        e
        for arm in run.arms("round")
        for e in run.series("round", arm)
        if has(e, ["generated_tokens"]) or has(e, ["trained_tokens"])
    ]
    if not events:
        return None
    events.sort(key=lambda e: _round_order(e["round"], str(e["arm"])))
    return Plot(
        name="tokens-by-round",
        title="Tokens generated and trained on",
        caption="Trained tokens count every pass over an accepted sample. "
        + _shared_note(run, events),
        alt="Tokens. "
        + "; ".join(
            f"round {e['round']} {e['arm']}: generated "
            f"{text.number(number(e, 'generated_tokens'), 0)}, trained "
            f"{text.number(number(e, 'trained_tokens'), 0)}"
            for e in events
        ),
        figure=_draw_tokens(events),
        rows=tuple(
            {n: e.get(n) for n in ("round", "arm", "generated_tokens", "trained_tokens")}
            for e in events
        ),
    )


def _times(run: Run) -> Times:
    """Seconds of the rounds and arms that took any, in the order of time."""
    times: dict[tuple[int, str], dict[str, float]] = {}
    for event in run.events:
        if event["event"] not in ("round", "evaluation") or not isinstance(event.get("round"), int):
            continue
        key = (event["round"], str(event.get("arm", "")))
        if isinstance(event.get("seconds"), dict):
            stages = {stage: number(event["seconds"], stage) for stage in event["seconds"]}
            times.setdefault(key, {}).update(stages)
        elif event["event"] == "evaluation" and has(event, ["seconds"]):
            times.setdefault(key, {})["evaluate"] = number(event, "seconds")
    keys = [key for key, row in times.items() if sum(filter(math.isfinite, row.values())) > 0]
    return {key: times[key] for key in sorted(keys, key=lambda key: _round_order(*key))}


def _round_order(round_: int, arm: str) -> tuple[int, bool, str]:
    return round_, arm != "policy", arm


def _shared_note(run: Run, events: Sequence[Event]) -> str:
    shared = [str(e["round"]) for e in events if run.shares_candidates(e["round"], str(e["arm"]))]
    if not shared:
        return ""
    return (
        f"Candidates of round {', '.join(shared)} were drawn once, and both arms chose from them."
    )


def _draw_seconds(times: Times) -> Figure:
    stages = in_order({stage for row in times.values() for stage in row}, STAGES)
    figure, (panel,) = make_axes(height=1.25 + 0.3 * len(times))
    left = np.zeros(len(times))
    for stage in stages:
        widths = np.nan_to_num([row.get(stage, 0.0) for row in times.values()])
        colour = LIGHT.get(stage, LIGHT["other"])
        panel.barh(range(len(times)), widths, left=left, height=0.62, color=colour, label=stage)
        left += widths
    names = [f"{round_} {arm}" if round_ else "0 base" for round_, arm in times]
    panel.set_yticks(range(len(times)), names)
    panel.invert_yaxis()
    panel.set_title("round")
    panel.set_xlabel("seconds")
    panel.grid(False, axis="y")
    legend_above(figure, panel, columns=3)
    return figure


def _draw_tokens(events: Sequence[Event]) -> Figure:
    figure, (panel,) = make_axes(height=1.1 + 0.42 * len(events))
    for key, shift, colour in (
        ("generated_tokens", -0.19, LIGHT["generate"]),
        ("trained_tokens", 0.19, LIGHT["train"]),
    ):
        panel.barh(
            np.arange(len(events)) + shift,
            np.nan_to_num([number(e, key) for e in events]),
            height=0.36,
            color=colour,
            label=key.removesuffix("_tokens"),
        )
    panel.set_yticks(range(len(events)), [f"{e['round']} {e['arm']}" for e in events])
    panel.invert_yaxis()
    panel.set_title("round")
    panel.set_xlabel("tokens")
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panel.locator_params(axis="x", nbins=5)
    panel.grid(False, axis="y")
    legend_above(figure, panel)
    return figure
