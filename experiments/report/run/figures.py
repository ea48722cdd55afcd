"""All figures of a language run, in the order of the page; each is left out without its data."""

from collections.abc import Sequence

from ..comparisons import Comparison
from ..load import Run
from ..plot import Plot
from .cost_figures import seconds_by_stage, tokens_by_round
from .drift_figures import diversity, kl_by_round
from .reward_figures import effects, reward_against_kl, score_by_round
from .selection_figures import acceptance, accepted_by_reward, reward_histograms


def language_figures(run: Run, comparisons: Sequence[Comparison]) -> list[Plot]:
    """Draws every figure for which the run has data."""
    plots = (
        effects(run, comparisons),
        score_by_round(run, "reward"),
        score_by_round(run, "judge"),
        acceptance(run),
        reward_histograms(run),
        accepted_by_reward(run),
        diversity(run),
        kl_by_round(run),
        reward_against_kl(run),
        seconds_by_stage(run),
        tokens_by_round(run),
    )
    return [plot for plot in plots if plot is not None]
