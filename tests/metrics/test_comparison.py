"""Paired comparisons: by hand, against their definition, and what the package may import."""

import doctest
import importlib
import math
import subprocess
import sys

import numpy as np
import pytest

from rsft_jax import metrics
from rsft_jax.metrics import Interval, bootstrap_interval, compare_paired, prompt_means, verdict


def test_prompt_means_leave_out_what_has_no_score_and_keep_the_order():
    ids = ["b", "a", "b", "c", "a"]
    means = prompt_means(ids, [1.0, 4.0, 3.0, math.nan, math.inf])
    assert list(means) == ["b", "a", "c"]
    assert (means["b"], means["a"]) == (2.0, 4.0)
    assert math.isnan(means["c"])


def test_prompt_means_refuse_scores_of_another_length():
    with pytest.raises(ValueError, match=r"scores must have the shape \(2,\).*got \(3,\)"):
        prompt_means(["a", "b"], [1.0, 2.0, 3.0])


def test_comparison_is_over_the_prompts_that_both_have_whatever_their_order():
    first = {"a": 1.0, "b": math.nan, "c": 3.0, "d": 5.0, "e": 0.0}
    second = {"e": 1.0, "d": 2.0, "b": 0.0, "c": 4.0, "f": 9.0}
    result = compare_paired(first, second)
    assert (result.num_prompts, result.first_mean) == (3, pytest.approx(8 / 3))
    assert result.second_mean == pytest.approx(7 / 3)
    assert result.difference == bootstrap_interval([-1.0, 3.0, -1.0])


def test_comparison_finds_a_difference_that_two_intervals_apart_hide():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 5, 40)
    first = {str(i): float(x) for i, x in enumerate(shared + rng.normal(0.3, 0.1, 40))}
    second = {str(i): float(x) for i, x in enumerate(shared)}
    assert compare_paired(first, second).verdict == "above"
    assert compare_paired(second, first).verdict == "below"
    a, b = (bootstrap_interval(list(means.values())) for means in (first, second))
    assert a.low < b.high  # unpaired, the two overlap


def test_comparison_of_nothing_and_of_one_prompt_decides_nothing():
    none = compare_paired({"a": 1.0}, {"b": 1.0})
    assert none.num_prompts == 0
    assert math.isnan(none.difference.mean)
    one = compare_paired({"a": 1.0}, {"a": 0.0})
    assert (one.num_prompts, one.difference.mean) == (1, 1.0)
    assert {none.verdict, one.verdict} == {"undecided"}


def test_verdict_needs_the_whole_interval_on_one_side():
    assert verdict(Interval(1.0, 0.0, 2.0)) == "undecided"  # zero itself is inside
    assert verdict(Interval(1.0, 0.1, 2.0)) == "above"
    assert verdict(Interval(-1.0, -2.0, -0.1)) == "below"


@pytest.mark.parametrize("name", ["comparison", "diversity", "intervals"])
def test_examples_of_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(f"rsft_jax.metrics.{name}"))
    assert result.failed == 0
    assert result.attempted


def test_metrics_need_neither_jax_nor_rewards():
    program = "import sys, rsft_jax.metrics; print({'jax', 'rsft_jax.rewards'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_names_are_exported_in_order_and_told_of_in_the_table():
    assert metrics.__all__ == sorted(metrics.__all__)
    for name in metrics.__all__:
        assert f"`{name}`" in str(metrics.__doc__), name
