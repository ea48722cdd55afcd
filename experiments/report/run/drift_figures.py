"""How far a policy has moved: how varied its samples are, and its divergence from the start."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from .. import text
from ..load import Run
from ..plot import Plot, legend_above, make_axes, round_axis
from .lines import Lines, described, draw_lines, evaluation_lines, line_rows, rounds_of

KL_INFINITE = (
    "The law of a sample is cut: some samples the reference could not have drawn, so that the KL "
    "as such is infinite; what is shown is that of the other samples."
)
_MEASURES = {
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "self_bleu": "self-BLEU",
    "length_mean": "length, tokens",
}


def diversity(run: Run) -> Plot | None:
    """How varied the held-out samples are, and how long."""
    lines = {key: line for key in _MEASURES if (line := evaluation_lines(run, key))}
    if not lines:
        return None
    return Plot(
        name="diversity",
        title="Diversity and length by round",
        caption="Held-out samples. Distinct-1 and distinct-2: share of different words and word "
        "pairs, higher is more varied. Self-BLEU: likeness of the samples to each other, lower is "
        "more varied. A policy that collapses shows it here first.",
        alt=" ".join(f"{_MEASURES[key]}: {described(line, key)}" for key, line in lines.items()),
        figure=_draw_diversity(lines),
        rows=tuple(
            {"measure": key, **row} for key, line in lines.items() for row in line_rows(line, key)
        ),
    )


def kl_by_round(run: Run) -> Plot | None:
    """The divergence from the reference by round."""
    lines = evaluation_lines(run, "kl_mean")
    if not lines:
        return None
    return Plot(
        name="kl-by-round",
        title="Distance from the reference",
        caption="Estimated from held-out samples: mean log-probability under the policy minus "
        "that under the model before training; bands are "
        f"{text.percent(run.confidence, 0)} intervals."
        + (" " + KL_INFINITE if has_infinite_kl(run) else ""),
        alt=f"KL to the reference by round. {described(lines, 'kl_mean')}",
        figure=_draw_kl(lines),
        rows=line_rows(lines, "kl_mean", "kl_low", "kl_high"),
    )


def has_infinite_kl(run: Run) -> bool:
    """Whether some held-out text of the policy could not be drawn from the reference."""
    events = (e for arm in run.arms("evaluation") for e in run.series("evaluation", arm))
    return any(e.get("kl_outside") for e in events)


def _draw_diversity(measures: Mapping[str, Lines]) -> Figure:
    num_rows = -(-len(measures) // 2)
    figure, axes = make_axes(num_rows, 2, height=0.6 + 1.65 * num_rows)
    for panel in axes[len(measures) :]:
        panel.set_visible(False)
    for panel, (key, lines) in zip(axes, measures.items()):
        draw_lines(panel, lines, key)
        panel.set_title(_MEASURES[key])
        panel.locator_params(axis="y", nbins=4)
        round_axis(panel, rounds_of(lines))
        panel.set_xlabel("")
    for panel in axes[max(0, len(measures) - 2) : len(measures)]:
        panel.set_xlabel("round")
    legend_above(figure, axes[0])
    return figure


def _draw_kl(lines: Lines) -> Figure:
    figure, (panel,) = make_axes()
    draw_lines(panel, lines, "kl_mean", "kl")
    panel.set_title("KL to the reference, nats per completion")
    round_axis(panel, rounds_of(lines))
    legend_above(figure, panel)
    return figure
