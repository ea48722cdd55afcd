"""pass@k and maj@k against enumeration of subsets and draws; the number that a text ends with."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from rsft_jax.metrics import last_number, majority_at_k, pass_at_k

NAN = float("nan")


def subset_pass(row, k):
    subsets = list(itertools.combinations(row, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def subset_majority(answers, verdicts, k):
    """Over subsets, and over the answers that a fair coin may choose of a tie."""
    total, subsets = Fraction(0), list(itertools.combinations(range(len(answers)), k))
    for subset in subsets:
        counts = Counter(answers[j] for j in subset if answers[j] is not None)
        top = [a for a in counts if counts[a] == max(counts.values())]
        right = [verdicts[answers.index(a)] for a in top]
        total += Fraction(int(sum(right)), len(right)) if right else 0
    return float(total / len(subsets))


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(n):
    rows = [[1] * c + [0] * (n - c) for c in range(n + 1)]
    for k in range(1, n + 1):
        wanted = [subset_pass(row, k) for row in rows]
        np.testing.assert_allclose(pass_at_k(rows, k), wanted, atol=1e-12)


def test_pass_at_k_is_unbiased_over_draws():
    # All 2^5 outcomes of 5 candidates with pass rate 0.3; the plug-in estimate is not.
    p, n, k = 0.3, 5, 3
    rows = np.array(list(itertools.product([0, 1], repeat=n)))
    prob = p ** rows.sum(1) * (1 - p) ** (n - rows.sum(1))
    assert prob @ pass_at_k(rows, k) == pytest.approx(1 - (1 - p) ** k)
    assert prob @ (1 - (1 - rows.mean(1)) ** k) < 1 - (1 - p) ** k - 0.01


def test_pass_at_k_is_stable_where_binomials_overflow():
    n, c, k = 3000, 2, 1500
    row = np.zeros((1, n))
    row[0, :c] = 1
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(row, k)[0] == pytest.approx(float(exact), rel=1e-10)


def test_candidates_without_a_verdict_are_not_there():
    rows = [[1, NAN, 0, NAN], [NAN] * 4, [0, 0, 0, 1]]
    np.testing.assert_allclose(pass_at_k(rows, 1), [0.5, NAN, 0.25])
    np.testing.assert_allclose(pass_at_k(rows, 3), [NAN, NAN, 0.75])
    answers = [["4", "9", "5", "9"], ["4"] * 4, ["5", "5", "6", "4"]]
    np.testing.assert_allclose(majority_at_k(answers, rows, 2), [0.5, NAN, (0 * 3 + 3 / 2) / 6])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_majority_is_enumerated_with_ties_by_a_fair_coin(k):
    answers = [["4", "4", "5", "6", None, "5"], [None] * 6, ["1", "1", "1", "2", "2", "3"]]
    right = [{"4": 1}, {}, {"2": 1}]
    verdicts = [[float(own.get(a, 0)) for a in row] for row, own in zip(answers, right)]
    wanted = [subset_majority(row, v, k) for row, v in zip(answers, verdicts)]
    np.testing.assert_allclose(majority_at_k(answers, verdicts, k), wanted, atol=1e-12)


def test_majority_of_one_is_the_pass_rate_and_of_all_is_one_vote():
    rng = np.random.default_rng(0)
    answers = rng.choice(3, (5, 41), p=[0.2, 0.3, 0.5]).tolist()
    answers[0] = [1] * 21 + [0] * 20
    verdicts = np.array(answers) == 1
    np.testing.assert_allclose(majority_at_k(answers, verdicts, 1), pass_at_k(verdicts, 1))
    most = [Counter(row).most_common(1)[0][0] == 1 for row in answers]
    np.testing.assert_array_equal(majority_at_k(answers, verdicts, 41), most)
    assert most == [True, False, False, False, False]


def test_many_subsets_are_sampled_near_the_enumerated_figure_and_repeat():
    answers = [list("aaaabbbccd")]
    verdicts = [[float(a == "b") for a in answers[0]]]
    exact = majority_at_k(answers, verdicts, 5, num_subsets=252)[0]
    some = majority_at_k(answers, verdicts, 5, num_subsets=251)
    assert abs(some[0] - exact) < 6 * 0.5 / math.sqrt(251)
    assert some[0] != exact
    assert some == majority_at_k(answers, verdicts, 5, num_subsets=251)


def test_an_answer_that_is_judged_apart_counts_its_mean_verdict():
    assert majority_at_k([["4", "4", "4", "5"]], [[1, 1, 0, 0]], 4)[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7", "7"),
        ("The answer is 7.", "7"),
        ("+1,200.50 dollars", "1200.5"),
        ("1.2005e3", "1200.5"),
        ("-0.0", "0"),
        ("x = -007", "-7"),
        ("5-3", "3"),
        ("5 - 3", "3"),
        ("(-3)", "-3"),
        ("\u22125 degrees", "-5"),
        (".50", "0.5"),
        ("1,2,3", "3"),
        ("100", "100"),
        ("1e99999", "99999"),
        ("10e60", "1E+61"),
        ("no number", None),
        ("", None),
        ("9" * 50, "9" * 50),
    ],
)
def test_last_number_has_one_spelling(text, number):
    found = last_number(text)
    assert found == number


def test_different_long_numbers_stay_different():
    assert last_number("1" * 60) != last_number("1" * 59 + "2")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k([[1, 0]], 0), "k must be at least 1, got 0"),
        (lambda: pass_at_k([1, 0], 1), r"\[P, N\], got \(2,\)"),
        (lambda: pass_at_k([[0.5]], 1), "1 .correct., 0 .wrong."),
        (lambda: majority_at_k([["a"]], [[1, 0]], 1), r"\(1, 1\), in equal rows, got \(1, 2\)"),
        (lambda: majority_at_k([["a"], ["a", "b"]], [[1], [0]], 1), "in equal rows"),
        (lambda: majority_at_k([["a"]], [[1]], 1, num_subsets=0), "num_subsets"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
