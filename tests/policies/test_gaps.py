"""What of the differences between sampler and trainer is the gap, and how much of it is allowed."""

import numpy as np
import pytest

from rsft_jax.generation import SamplingParams
from rsft_jax.policies.gaps import FLOOR, TokenGaps, allowed, differences, quantile, statistic

WHOLE = SamplingParams(max_new_tokens=1)
CUT = [{"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"temperature": 0}]


@pytest.mark.parametrize("cut", CUT)
def test_one_token_in_twenty_at_the_edge_of_a_cut_is_no_gap_and_of_a_whole_law_it_is(cut):
    values = np.r_[np.full(95, 1e-5), np.full(5, np.inf)]
    law = SamplingParams(max_new_tokens=1, **cut)
    assert statistic(values, law) == 1e-5
    assert statistic(np.r_[values, np.inf], law) == np.inf
    assert statistic(values, WHOLE) == np.inf


def test_differences_are_those_of_the_tokens_inside():
    inf = np.inf
    ours = np.array([[-1.0, -inf, 0.0], [-2.0, 9.0, 9.0]])
    theirs = np.array([[-1.25, -inf, -inf], [-2.0, 0.0, 0.0]])
    inside = np.array([[True, True, True], [True, False, False]])
    assert differences(ours, theirs, inside).tolist() == [0.25, 0.0, inf, 0.0]


def test_allowed_is_four_times_the_rounding_but_never_less_than_the_floor():
    assert allowed(0.0) == allowed(FLOOR / 5) == FLOOR
    assert allowed(0.5) == 2.0
    assert allowed(np.inf) == np.inf


def test_not_a_number_is_never_within_what_is_allowed():
    for at in (0.1, 0.95, 1.0):  # not only where sorting puts it
        assert np.isnan(quantile(np.array([0.0, np.nan, np.inf]), at))


def test_figures_are_quantiles_of_the_differences():
    found = TokenGaps(np.r_[np.arange(99) / 100, np.inf], 0.25).figures()
    assert found == {
        "gap_median": 0.49, "gap_p90": 0.89, "gap_p99": 0.98, "gap_largest": np.inf,
        "gap_outside": 0.01, "gap_rounding": 0.25,
    }  # fmt: skip
    assert TokenGaps(np.zeros(0)).figures()["gap_largest"] == 0  # nothing was drawn
