"""The figures of a language run, one function each; each returns None when its data is missing."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from .. import text
from ..comparisons import Comparison
from ..load import Event, Part, Run, number
from ..palette import LIGHT, STAGES, arm_colour, in_order
from ..plot import Plot, legend_above, make_axes, round_axis

_MARKERS = {"policy": "o", "control": "s"}
_MAX_HISTOGRAMS = 6  # rounds shown; more would not fit a page
_NUM_BINS = 24
_NUM_GROUPS = 12


def language_figures(run: Run, comparisons: Sequence[Comparison]) -> list[Plot]:
    """Draws every figure for which the run has data, in the order of the page."""
    makers: list[Callable[[], Plot | None]] = [
        lambda: effects(run, comparisons),
        lambda: score_by_round(run, "reward"),
        lambda: score_by_round(run, "judge"),
        lambda: acceptance(run),
        lambda: reward_histograms(run),
        lambda: accepted_by_reward(run),
        lambda: diversity(run),
        lambda: kl_by_round(run),
        lambda: reward_against_kl(run),
        lambda: seconds_by_stage(run),
        lambda: tokens_by_round(run),
    ]
    return [plot for make in makers if (plot := make()) is not None]


def effects(run: Run, comparisons: Sequence[Comparison]) -> Plot | None:
    """Draws the paired differences with their intervals, both scores."""
    if not comparisons:
        return None
    scores = list(dict.fromkeys(c.score for c in comparisons))
    rows = {score: [c for c in comparisons if c.score == score] for score in scores}
    height = 1.0 + 0.32 * len(comparisons) + 0.35 * len(scores)
    figure, axes = make_axes(len(scores), height=height)
    for panel, score in zip(axes, scores):
        for place, c in enumerate(reversed(rows[score])):
            colour = arm_colour(c.first)
            if not math.isnan(c.low):
                panel.plot([c.low, c.high], [place, place], color=colour, linewidth=2.4)
            panel.plot([c.mean], [place], marker=_MARKERS.get(c.first, "o"), color=colour)
        panel.axvline(0, color=LIGHT["muted"], linewidth=1)
        names = [f"{c.first} {text.MINUS} {c.second}" for c in reversed(rows[score])]
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(-0.6, len(names) - 0.4)
        panel.set_title(_score_name(score))
        panel.grid(False, axis="y")
    axes[-1].set_xlabel("difference, held-out prompts")
    return Plot(
        "effects",
        "Differences between policies",
        f"Paired differences over {comparisons[0].num_prompts} held-out prompts with "
        f"{text.percent(run.confidence, 0)} bootstrap intervals; right of zero is better.",
        "Differences: "
        + "; ".join(
            f"{c.score}, {c.first} minus {c.second}: {text.signed(c.mean)} "
            f"{text.interval(c.low, c.high)}".rstrip()
            for c in comparisons
        ),
        figure,
        tuple(dataclasses.asdict(c) for c in comparisons),
    )


def score_by_round(run: Run, score: str) -> Plot | None:
    """Draws the held-out mean of a score by round and arm, with its interval as a band."""
    lines = _evaluation_lines(run, f"{score}_mean")
    if not lines:
        return None
    figure, (panel,) = make_axes()
    for arm, events in lines.items():
        _line(panel, events, f"{score}_mean", score, arm)
    start = lines[next(iter(lines))][0]
    if start["round"] == 0:
        panel.axhline(
            number(start, f"{score}_mean"), color=LIGHT["base"], linewidth=1.2,
            linestyle=(0, (4, 3)), label="base model",
        )  # fmt: skip
    panel.set_title(f"mean {score}, held-out prompts")
    round_axis(panel, [e["round"] for events in lines.values() for e in events])
    legend_above(figure, panel)
    seen = "that selection looks at" if score == "reward" else "that training never sees"
    return Plot(
        f"{score}-by-round",
        f"{_score_name(score)} by round",
        f"Mean of the score {seen}, on held-out prompts; bands are "
        f"{text.percent(run.confidence, 0)} bootstrap intervals over prompts.",
        f"Mean held-out {score} by round. {_described(lines, f'{score}_mean')}",
        figure,
        _rows(lines, f"{score}_mean", f"{score}_low", f"{score}_high"),
    )


def acceptance(run: Run) -> Plot | None:
    """Draws the acceptance rate by round with its interval."""
    lines = _round_lines(run, "acceptance_rate")
    if not lines:
        return None
    figure, (panel,) = make_axes()
    for arm, events in lines.items():
        _line(panel, events, "acceptance_rate", "acceptance", arm)
    panel.set_title("accepted / scored candidates")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(lambda value, _: text.percent(value, 0))
    round_axis(panel, [e["round"] for events in lines.values() for e in events])
    legend_above(figure, panel)
    return Plot(
        "acceptance",
        "Acceptance rate by round",
        "Share of the candidates (with early stop, of those that it spares too) that selection "
        "kept for training, with the interval of the rate. The control keeps as many as the rule "
        "would of its own candidates, whatever their rewards.",
        f"Acceptance rate by round. {_described(lines, 'acceptance_rate')}",
        figure,
        _rows(lines, "acceptance_rate", "acceptance_low", "acceptance_high"),
    )


def reward_histograms(run: Run) -> Plot | None:
    """Draws what was proposed and what was accepted, by round (rows) and arm (columns)."""
    parts = [p for p in run.rollouts if np.isfinite(p.data["reward"]).any()]
    if not parts or any("accepted" not in p.data.columns for p in parts):
        return None
    arms = list(dict.fromkeys(p.arm for p in parts))
    rounds = _spread(sorted({p.round for p in parts}), _MAX_HISTOGRAMS)
    found = {(p.round, p.arm): p for p in parts}
    rewards = np.concatenate([p.data["reward"] for p in parts])
    bins = np.histogram_bin_edges(rewards[np.isfinite(rewards)], _NUM_BINS)
    figure, axes = make_axes(len(rounds), len(arms), height=0.75 + 1.15 * len(rounds), share_y=True)
    places = [(round_, arm) for round_ in rounds for arm in arms]
    described = []
    for panel, (round_, arm) in zip(axes, places):
        panel.set_title(f"{arm}, round {round_}")
        panel.grid(False, axis="x")
        panel.locator_params(axis="y", nbins=3, integer=True)
        panel.locator_params(axis="x", nbins=4)
        if (part := found.get((round_, arm))) is None:
            continue
        described.append(_histogram(panel, part, bins))
    for panel in axes[-len(arms) :]:
        panel.set_xlabel("reward")
    handles = [
        axes[0].fill_between([], [], color=LIGHT["proposed"], label="proposed"),
        *(axes[0].fill_between([], [], color=arm_colour(a), label=f"accepted, {a}") for a in arms),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return Plot(
        "reward-histograms",
        "Rewards of what was proposed and accepted",
        "Counts of candidates by reward; dashed lines are the means of proposed (grey) and "
        "accepted. A rule that steers moves the accepted to the right, a coin does not.",
        "Histograms of reward, proposed and accepted. " + "; ".join(described),
        figure,
        tuple(row for place in places if place in found for row in _counts(found[place], bins)),
    )


def accepted_by_reward(run: Run) -> Plot | None:
    """Draws the share accepted against the reward, beside the probability the rule gave."""
    parts = [
        p
        for p in run.rollouts
        if {"accepted", "accept_prob"} <= set(p.data.columns) and p.data.num_rows
    ]
    if not parts:
        return None
    figure, (panel,) = make_axes()
    described: list[str] = []
    rows: list[dict[str, object]] = []
    for arm in dict.fromkeys(p.arm for p in parts):
        own = [p for p in parts if p.arm == arm]
        columns = {
            name: np.concatenate([p.data[name] for p in own]).astype(np.float64)
            for name in ("reward", "accepted", "accept_prob")
        }
        groups = _groups_by_reward(columns["reward"])
        if not groups:
            continue
        reward, shares, probabilities = (
            [float(np.nanmean(columns[name][group])) if np.isfinite(columns[name][group]).any()
             else math.nan for group in groups]
            for name in ("reward", "accepted", "accept_prob")
        )  # fmt: skip
        colour, marker = arm_colour(arm), _MARKERS.get(arm, "o")
        panel.plot(reward, shares, color=colour, marker=marker, label=f"{arm}, accepted")
        panel.plot(
            reward, probabilities, color=colour, linestyle=(0, (1, 1.5)), label=f"{arm}, rule"
        )
        rows += [
            {"arm": arm, "reward": x, "accepted": y, "accept_prob": z}
            for x, y, z in zip(reward, shares, probabilities)
        ]
        described.append(
            f"{arm}: {text.percent(shares[0])} of the lowest and {text.percent(shares[-1])} of "
            "the highest rewards"
        )
    if not described:
        return None
    panel.set_title("share of candidates")
    panel.set_xlabel("reward")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(lambda value, _: text.percent(value, 0))
    legend_above(figure, panel, columns=2)
    return Plot(
        "accepted-by-reward",
        "Share accepted against reward",
        f"Candidates of all rounds in up to {_NUM_GROUPS} equal groups by reward: the share that "
        "was accepted, and the mean probability that one draw of the rule accepts (dotted). They "
        "part where a budget or a later rule of the chain had its say.",
        "Share of candidates accepted by reward. " + "; ".join(described),
        figure,
        tuple(rows),
    )


def diversity(run: Run) -> Plot | None:
    """Draws how varied the held-out samples are, and how long."""
    measures = {
        "distinct_1": "distinct-1",
        "distinct_2": "distinct-2",
        "self_bleu": "self-BLEU",
        "length_mean": "length, tokens",
    }
    lines = {key: found for key in measures if (found := _evaluation_lines(run, key))}
    if not lines:
        return None
    figure, axes = make_axes(-(-len(lines) // 2), 2, height=0.6 + 1.65 * -(-len(lines) // 2))
    for panel in axes[len(lines) :]:
        panel.set_visible(False)
    for panel, (key, found) in zip(axes, lines.items()):
        for arm, events in found.items():
            _line(panel, events, key, None, arm)
        panel.set_title(measures[key])
        panel.locator_params(axis="y", nbins=4)
        round_axis(panel, [e["round"] for events in found.values() for e in events])
        panel.set_xlabel("")
    for panel in axes[max(0, len(lines) - 2) : len(lines)]:
        panel.set_xlabel("round")
    legend_above(figure, axes[0])
    return Plot(
        "diversity",
        "Diversity and length by round",
        "Held-out samples. Distinct-1 and distinct-2: share of different words and word pairs, "
        "higher is more varied. Self-BLEU: likeness of the samples to each other, lower is "
        "more varied. A policy that collapses shows it here first.",
        " ".join(f"{measures[key]}: {_described(found, key)}" for key, found in lines.items()),
        figure,
        tuple({"measure": key, **row} for key, found in lines.items() for row in _rows(found, key)),
    )


def kl_by_round(run: Run) -> Plot | None:
    """Draws the divergence from the reference by round."""
    lines = _evaluation_lines(run, "kl_mean")
    if not lines:
        return None
    figure, (panel,) = make_axes()
    for arm, events in lines.items():
        _line(panel, events, "kl_mean", "kl", arm)
    panel.set_title("KL to the reference, nats per completion")
    round_axis(panel, [e["round"] for events in lines.values() for e in events])
    legend_above(figure, panel)
    return Plot(
        "kl-by-round",
        "Distance from the reference",
        "Estimated from held-out samples: mean log-probability under the policy minus that under "
        f"the model before training; bands are {text.percent(run.confidence, 0)} intervals.",
        f"KL to the reference by round. {_described(lines, 'kl_mean')}",
        figure,
        _rows(lines, "kl_mean", "kl_low", "kl_high"),
    )


def reward_against_kl(run: Run) -> Plot | None:
    """Draws both scores against the KL: the over-optimisation curve."""
    scores = [s for s in ("reward", "judge") if _evaluation_lines(run, f"{s}_mean")]
    lines = {
        arm: kept
        for arm, events in _evaluation_lines(run, "kl_mean").items()
        if len(kept := [e for e in events if _has(e, [f"{s}_mean" for s in scores])]) > 1
    }
    if not lines or not scores:
        return None
    figure, axes = make_axes(len(scores), height=0.8 + 1.7 * len(scores))
    for panel, score in zip(axes, scores):
        for arm, events in lines.items():
            _errors_in_both(panel, events, score, arm)
        panel.set_title(f"mean {score}, held-out prompts")
        panel.margins(x=0.08)
    axes[-1].set_xlabel("KL to the reference, nats per completion")
    legend_above(figure, axes[0])
    return Plot(
        "reward-against-kl",
        "Scores against KL",
        "One point per round, numbered, with intervals in both directions. Reward that goes on "
        "rising while the judge turns down is over-optimisation.",
        "Scores against KL. "
        + " ".join(
            f"{arm}: "
            + ", ".join(
                f"round {e['round']} KL {text.number(number(e, 'kl_mean'), 2)} "
                + " ".join(f"{s} {text.number(number(e, f'{s}_mean'))}" for s in scores)
                for e in events
            )
            + "."
            for arm, events in lines.items()
        ),
        figure,
        _rows(lines, *(f"{n}_{end}" for n in ("kl", *scores) for end in ("mean", "low", "high"))),
    )


def seconds_by_stage(run: Run) -> Plot | None:
    """Draws the time of every round and arm, stage after stage."""
    rows: dict[tuple[int, str], dict[str, float]] = {}
    for event in run.events:
        if event["event"] not in ("round", "evaluation") or not isinstance(event.get("round"), int):
            continue
        key = (event["round"], str(event.get("arm", "")))
        if isinstance(event.get("seconds"), dict):
            rows.setdefault(key, {}).update(
                {stage: number(event["seconds"], stage) for stage in event["seconds"]}
            )
        elif event["event"] == "evaluation" and _has(event, ["seconds"]):
            rows.setdefault(key, {})["evaluate"] = number(event, "seconds")
    rows = {key: row for key, row in rows.items() if sum(_finite(row.values())) > 0}
    if not rows:
        return None
    keys = sorted(rows, key=lambda key: (key[0], key[1] != "policy", key[1]))
    stages = in_order({stage for row in rows.values() for stage in row}, STAGES)
    figure, (panel,) = make_axes(height=1.25 + 0.3 * len(keys))
    left = np.zeros(len(keys))
    for stage in stages:
        widths = np.nan_to_num([rows[key].get(stage, 0.0) for key in keys])
        colour = LIGHT.get(stage, LIGHT["other"])
        panel.barh(range(len(keys)), widths, left=left, height=0.62, color=colour, label=stage)
        left += widths
    panel.set_yticks(
        range(len(keys)), [f"{round_} {arm}" if round_ else "0 base" for round_, arm in keys]
    )
    panel.invert_yaxis()
    panel.set_title("round")
    panel.set_xlabel("seconds")
    panel.grid(False, axis="y")
    legend_above(figure, panel, columns=3)
    return Plot(
        "seconds-by-stage",
        "Time by stage",
        f"Wall-clock time of each round and arm; {text.duration(float(left.sum()))} in all.",
        "Seconds by stage. "
        + "; ".join(
            f"round {round_} {arm}: "
            + ", ".join(f"{s} {text.compact(v)}" for s, v in rows[(round_, arm)].items())
            for round_, arm in keys
        ),
        figure,
        tuple({"round": r, "arm": arm, **rows[(r, arm)]} for r, arm in keys),
    )


def tokens_by_round(run: Run) -> Plot | None:
    """Draws the tokens generated and the tokens trained on."""
    events = [
        e
        for arm in run.arms("round")
        for e in run.series("round", arm)
        if _has(e, ["generated_tokens"]) or _has(e, ["trained_tokens"])
    ]
    if not events:
        return None
    events.sort(key=lambda e: (e["round"], e["arm"] != "policy", str(e["arm"])))
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
    return Plot(
        "tokens-by-round",
        "Tokens generated and trained on",
        "Trained tokens count every pass over an accepted sample. " + _shared_note(run, events),
        "Tokens. "
        + "; ".join(
            f"round {e['round']} {e['arm']}: generated "
            f"{text.number(number(e, 'generated_tokens'), 0)}, trained "
            f"{text.number(number(e, 'trained_tokens'), 0)}"
            for e in events
        ),
        figure,
        tuple(
            {n: e.get(n) for n in ("round", "arm", "generated_tokens", "trained_tokens")}
            for e in events
        ),
    )


def _shared_note(run: Run, events: Sequence[Event]) -> str:
    shared = [str(e["round"]) for e in events if run.shares_candidates(e["round"], str(e["arm"]))]
    if not shared:
        return ""
    return (
        f"Candidates of round {', '.join(shared)} were drawn once, and both arms chose from them."
    )


def _score_name(score: str) -> str:
    return {"reward": "Reward", "judge": "Second judge"}.get(score, score)


def _has(event: Event, keys: Sequence[str]) -> bool:
    return all(math.isfinite(number(event, key)) for key in keys)


def _finite(values: Sequence[float] | object) -> list[float]:
    return [v for v in values if math.isfinite(v)]  # type: ignore[union-attr]


def _evaluation_lines(run: Run, key: str) -> dict[str, list[Event]]:
    """The evaluations that have a number under `key`, by arm; an arm needs a round of its own."""
    lines = {
        arm: [e for e in run.evaluation_series(arm) if _has(e, [key])]
        for arm in run.arms("evaluation")
    }
    return {
        arm: events for arm, events in lines.items() if events and (arm == "policy" or events[1:])
    }


def _round_lines(run: Run, key: str) -> dict[str, list[Event]]:
    lines = {
        arm: [e for e in run.series("round", arm) if _has(e, [key])] for arm in run.arms("round")
    }
    return {arm: events for arm, events in lines.items() if events}


def _rows(lines: Mapping[str, Sequence[Event]], *keys: str) -> tuple[dict[str, object], ...]:
    """Numbers of events as rows of a CSV file."""
    return tuple(
        {"arm": arm, "round": e["round"], **{key: number(e, key) for key in keys}}
        for arm, events in lines.items()
        for e in events
    )


def _line(panel: Axes, events: Sequence[Event], key: str, band: str | None, arm: str) -> None:
    """Draws one arm: a line with markers, and its interval as a band where it has one."""
    rounds = [e["round"] for e in events]
    colour = arm_colour(arm)
    panel.plot(
        rounds,
        [number(e, key) for e in events],
        color=colour,
        marker=_MARKERS.get(arm, "o"),
        label=arm,
        zorder=3 if arm == "policy" else 2.5,
    )
    if band is None:
        return
    lows, highs = ([number(e, f"{band}_{end}") for e in events] for end in ("low", "high"))
    panel.fill_between(rounds, lows, highs, color=colour, alpha=0.16, linewidth=0)
    # A band of one round has no width, and a thin one hides behind its line: so whiskers too.
    panel.vlines(rounds, lows, highs, color=colour, linewidth=1.2, alpha=0.75)


def _errors_in_both(panel: Axes, events: Sequence[Event], score: str, arm: str) -> None:
    colour = arm_colour(arm)
    x, y = ([number(e, f"{name}_mean") for e in events] for name in ("kl", score))
    panel.plot(x, y, color=colour, marker=_MARKERS.get(arm, "o"), label=arm)
    for e, kl, value in zip(events, x, y):
        panel.vlines(
            kl, number(e, f"{score}_low"), number(e, f"{score}_high"), color=colour, linewidth=1
        )
        panel.hlines(value, number(e, "kl_low"), number(e, "kl_high"), color=colour, linewidth=1)
        panel.annotate(
            str(e["round"]), (kl, value), (4, 4), textcoords="offset points", color=colour
        )


def _described(lines: dict[str, list[Event]], key: str) -> str:
    return " ".join(
        f"{arm}: " + ", ".join(f"{e['round']}: {text.number(number(e, key))}" for e in events) + "."
        for arm, events in lines.items()
    )


def _histogram(panel: Axes, part: Part, bins: np.ndarray) -> str:
    """Draws both histograms of one round and arm; returns their means in words."""
    reward = part.data["reward"]
    scored = np.isfinite(reward)
    proposed, accepted = reward[scored], reward[scored & part.data["accepted"]]
    colour = arm_colour(part.arm)
    panel.hist(proposed, bins=bins.tolist(), color=LIGHT["proposed"])
    panel.hist(accepted, bins=bins.tolist(), color=colour)
    means = [float(v.mean()) if v.size else math.nan for v in (proposed, accepted)]
    for mean, line in zip(means, (LIGHT["muted"], colour)):
        if not math.isnan(mean):
            panel.axvline(mean, color=line, linewidth=1.4, linestyle=(0, (3, 2)))
    return (
        f"round {part.round} {part.arm}: {proposed.size} proposed, mean {text.number(means[0])}, "
        f"{accepted.size} accepted, mean {text.number(means[1])}"
    )


def _counts(part: Part, bins: np.ndarray) -> list[dict[str, object]]:
    """The counts of `_histogram`, a row for each bin."""
    reward = part.data["reward"]
    scored = np.isfinite(reward)
    proposed, _ = np.histogram(reward[scored], bins)
    accepted, _ = np.histogram(reward[scored & part.data["accepted"]], bins)
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


def _groups_by_reward(reward: np.ndarray) -> list[np.ndarray]:
    """Cuts the scored candidates into groups of equal size by reward; ties stay together."""
    order = np.argsort(reward, kind="stable")
    order = order[np.isfinite(reward[order])]
    if order.size == 0:
        return []
    edges = np.unique(np.quantile(reward[order], np.linspace(0, 1, _NUM_GROUPS + 1))[1:-1])
    label = np.searchsorted(edges, reward[order], side="right")
    return [group for k in range(edges.size + 1) if (group := order[label == k]).size]


def _spread(values: Sequence[int], most: int) -> list[int]:
    """Picks at most so many values, evenly, the first and last among them."""
    if len(values) <= most:
        return list(values)
    places = np.linspace(0, len(values) - 1, most).round().astype(int)
    return [values[place] for place in places]
