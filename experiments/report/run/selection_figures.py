"""What selection accepted: rates by round, rewards of the accepted, the share of each reward."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import text
from ..load import Part, Run
from ..palette import LIGHT, arm_colour
from ..plot import Plot, legend_above, make_axes, round_axis
from .lines import Lines, described, draw_lines, line_rows, marker, round_lines, rounds_of

_MAX_HISTOGRAMS = 6  # rounds shown; more would not fit a page
_NUM_BINS = 24
_NUM_GROUPS = 12

Place = tuple[int, str]
"""A round and an arm: a row and a column of the histograms."""


class Shares(NamedTuple):
    """What became of an arm's candidates, in groups of equal size by reward.

    Attributes:
      reward: mean of each group.
      accepted: share of it.
      accept_prob: mean probability that the rule gave.
    """

    reward: list[float]
    accepted: list[float]
    accept_prob: list[float]


def acceptance(run: Run) -> Plot | None:
    """The acceptance rate by round with its interval."""
    lines = round_lines(run, "acceptance_rate")
    if not lines:
        return None
    return Plot(
        name="acceptance",
        title="Acceptance rate by round",
        caption="Share of the candidates (with early stop, of those that it spares too) that "
        "selection kept for training, with the interval of the rate. The control keeps as many as "
        "the rule would of its own candidates, whatever their rewards.",
        alt=f"Acceptance rate by round. {described(lines, 'acceptance_rate')}",
        figure=_draw_acceptance(lines),
        rows=line_rows(lines, "acceptance_rate", "acceptance_low", "acceptance_high"),
    )


def reward_histograms(run: Run) -> Plot | None:
    """What was proposed and what was accepted, by round (rows) and arm (columns)."""
    parts = [p for p in run.rollouts if np.isfinite(p.data["reward"]).any()]
    if not parts or any("accepted" not in p.data.columns for p in parts):
        return None
    arms = list(dict.fromkeys(p.arm for p in parts))
    rounds = _spread(sorted({p.round for p in parts}), _MAX_HISTOGRAMS)
    rewards = np.concatenate([p.data["reward"] for p in parts])
    bins = np.histogram_bin_edges(rewards[np.isfinite(rewards)], _NUM_BINS)
    by_place = {(p.round, p.arm): p for p in parts}
    places = [(round_, arm) for round_ in rounds for arm in arms]
    shown = [by_place[place] for place in places if place in by_place]
    return Plot(
        name="reward-histograms",
        title="Rewards of what was proposed and accepted",
        caption="Counts of candidates by reward; dashed lines are the means of proposed (grey) "
        "and accepted. A rule that steers moves the accepted to the right, a coin does not.",
        alt="Histograms of reward, proposed and accepted. " + "; ".join(map(_means_said, shown)),
        figure=_draw_histograms(places, by_place, bins),
        rows=tuple(row for part in shown for row in _counts(part, bins)),
    )


def accepted_by_reward(run: Run) -> Plot | None:
    """The share accepted against the reward, beside the probability the rule gave."""
    parts = [
        p
        for p in run.rollouts
        if {"accepted", "accept_prob"} <= set(p.data.columns) and p.data.num_rows
    ]
    by_arm = {
        arm: _shares([p for p in parts if p.arm == arm])
        for arm in dict.fromkeys(p.arm for p in parts)
    }
    by_arm = {arm: shares for arm, shares in by_arm.items() if shares.reward}
    if not by_arm:
        return None
    return Plot(
        name="accepted-by-reward",
        title="Share accepted against reward",
        caption=f"Candidates of all rounds in up to {_NUM_GROUPS} equal groups by reward: the "
        "share that was accepted, and the mean probability that one draw of the rule accepts "
        "(dotted). They part where a budget or a later rule of the chain had its say.",
        alt="Share of candidates accepted by reward. "
        + "; ".join(
            f"{arm}: {text.percent(shares.accepted[0])} of the lowest and "
            f"{text.percent(shares.accepted[-1])} of the highest rewards"
            for arm, shares in by_arm.items()
        ),
        figure=_draw_shares(by_arm),
        rows=tuple(
            {"arm": arm, "reward": x, "accepted": y, "accept_prob": z}
            for arm, shares in by_arm.items()
            for x, y, z in zip(*shares)
        ),
    )


def _draw_acceptance(lines: Lines) -> Figure:
    figure, (panel,) = make_axes()
    draw_lines(panel, lines, "acceptance_rate", "acceptance")
    panel.set_title("accepted / scored candidates")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(lambda value, _: text.percent(value, 0))
    round_axis(panel, rounds_of(lines))
    legend_above(figure, panel)
    return figure


def _draw_histograms(
    places: Sequence[Place], parts: Mapping[Place, Part], bins: np.ndarray
) -> Figure:
    rounds, arms = (list(dict.fromkeys(names)) for names in zip(*places))
    figure, axes = make_axes(len(rounds), len(arms), height=0.75 + 1.15 * len(rounds), share_y=True)
    for panel, place in zip(axes, places):
        panel.set_title(f"{place[1]}, round {place[0]}")
        panel.grid(False, axis="x")
        panel.locator_params(axis="y", nbins=3, integer=True)
        panel.locator_params(axis="x", nbins=4)
        if place in parts:
            _draw_histogram(panel, parts[place], bins)
    for panel in axes[-len(arms) :]:
        panel.set_xlabel("reward")
    handles = [
        axes[0].fill_between([], [], color=LIGHT["proposed"], label="proposed"),
        *(axes[0].fill_between([], [], color=arm_colour(a), label=f"accepted, {a}") for a in arms),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _draw_histogram(panel: Axes, part: Part, bins: np.ndarray) -> None:
    """Both histograms of one round and arm, with their means."""
    colour = arm_colour(part.arm)
    both = _proposed_and_accepted(part)
    for rewards, fill in zip(both, (LIGHT["proposed"], colour)):
        panel.hist(rewards, bins=bins.tolist(), color=fill)
    for rewards, line in zip(both, (LIGHT["muted"], colour)):
        if rewards.size:
            panel.axvline(float(rewards.mean()), color=line, linewidth=1.4, linestyle=(0, (3, 2)))


def _draw_shares(by_arm: Mapping[str, Shares]) -> Figure:
    figure, (panel,) = make_axes()
    for arm, (reward, accepted, accept_prob) in by_arm.items():
        colour = arm_colour(arm)
        panel.plot(reward, accepted, color=colour, marker=marker(arm), label=f"{arm}, accepted")
        panel.plot(reward, accept_prob, color=colour, linestyle=(0, (1, 1.5)), label=f"{arm}, rule")
    panel.set_title("share of candidates")
    panel.set_xlabel("reward")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(lambda value, _: text.percent(value, 0))
    legend_above(figure, panel, columns=2)
    return figure


def _proposed_and_accepted(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of the scored candidates, and of those of them that were accepted."""
    reward = part.data["reward"]
    scored = np.isfinite(reward)
    return reward[scored], reward[scored & part.data["accepted"]]


def _means_said(part: Part) -> str:
    proposed, accepted = _proposed_and_accepted(part)
    means = [float(v.mean()) if v.size else math.nan for v in (proposed, accepted)]
    return (
        f"round {part.round} {part.arm}: {proposed.size} proposed, mean {text.number(means[0])}, "
        f"{accepted.size} accepted, mean {text.number(means[1])}"
    )


def _counts(part: Part, bins: np.ndarray) -> list[dict[str, object]]:
    """The counts of a histogram, a row for each bin."""
    proposed, accepted = (np.histogram(v, bins)[0] for v in _proposed_and_accepted(part))
    return [
        {
            "round": part.round,
            "arm": part.arm,
            "from": low,
            "to": high,
            "proposed": p,
            "accepted": a,
        }
        for low, high, p, a in zip(bins[:-1], bins[1:], proposed, accepted)
    ]


def _shares(parts: Sequence[Part]) -> Shares:
    """The groups of an arm's candidates, over all rounds."""
    columns = {
        name: np.concatenate([p.data[name] for p in parts]).astype(np.float64)
        for name in Shares._fields
    }
    groups = _groups_by_reward(columns["reward"])
    return Shares(
        *([_finite_mean(column[group]) for group in groups] for column in columns.values())
    )


def _finite_mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _groups_by_reward(reward: np.ndarray) -> list[np.ndarray]:
    """Cuts the scored candidates into groups of equal size by reward; ties stay together."""
    order = np.argsort(reward, kind="stable")
    order = order[np.isfinite(reward[order])]
    if order.size == 0:
        return []
    edges = np.unique(np.quantile(reward[order], np.linspace(0, 1, _NUM_GROUPS + 1))[1:-1])
    label = np.searchsorted(edges, reward[order], side="right")
    return [group for k in range(edges.size + 1) if (group := order[label == k]).size]


def _spread(rounds: Sequence[int], most: int) -> list[int]:
    """At most so many rounds, evenly, the first and last among them."""
    if len(rounds) <= most:
        return list(rounds)
    chosen = np.linspace(0, len(rounds) - 1, most).round().astype(int)
    return [rounds[index] for index in chosen]
