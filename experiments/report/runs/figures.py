"""All figures of several runs, in the order of the page; each is left out without its data."""

from ..plot import Plot
from .acceptance_figures import acceptance_by_run, acceptance_curve
from .curve_figures import diversity, score_against_cost, score_against_kl
from .ranking_figures import leaderboard, parallel_coordinates
from .summary import RunSet


def runs_figures(runs: RunSet) -> list[Plot]:
    """Draws every figure for which the runs have data."""
    plots = (
        leaderboard(runs),
        parallel_coordinates(runs),
        score_against_kl(runs),
        score_against_cost(runs),
        acceptance_by_run(runs),
        acceptance_curve(runs),
        diversity(runs),
    )
    return [plot for plot in plots if plot is not None]
