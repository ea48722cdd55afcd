"""Preference pairs: by hand, the law of RSO's by enumeration, and the rows that are written."""

import itertools

import jax
import numpy as np
import pytest

from rsft_jax.rollouts import PreferencePair, best_worst_pairs, random_pairs
from tests.gates import assert_law, assert_rejects, count_cells

NAN = float("nan")
ALL = np.ones((1, 6), bool)


def ends(pairs):
    return [(p.chosen, p.rejected) for p in pairs]


def test_best_meets_worst_and_second_best_second_worst():
    rewards = [[0.3, 0.9, NAN, 0.1, 0.5, 0.8]]
    assert ends(best_worst_pairs(rewards, ALL, max_pairs=9)) == [(1, 3), (5, 0)]
    assert ends(best_worst_pairs(rewards, ALL)) == [(1, 3)]
    assert best_worst_pairs(rewards, ALL)[0].margin == pytest.approx(0.8)
    assert ends(best_worst_pairs(rewards, ALL, margin=0.6, max_pairs=9)) == [(1, 3)]
    usable = np.array([[True, False, True, True, True, True]])
    assert ends(best_worst_pairs(rewards, usable)) == [(5, 3)]


def test_equal_rewards_are_no_pair_and_no_candidate_is_in_two():
    assert best_worst_pairs([[1.0] * 6], ALL, max_pairs=9) == []
    rewards = np.random.default_rng(0).integers(0, 3, (20, 7)).astype(float)
    usable = np.random.default_rng(1).random((20, 7)) < 0.8
    for pairs in (
        best_worst_pairs(rewards, usable, max_pairs=9),
        random_pairs(rewards, usable, max_pairs=9, seed=3),
    ):
        assert len(pairs) > 10
        seen = [(p.prompt, j) for p in pairs for j in (p.chosen, p.rejected)]
        assert len(seen) == len(set(seen))
        assert all(usable[place] for place in seen)
        for p in pairs:
            row = rewards[p.prompt]
            assert p.margin == row[p.chosen] - row[p.rejected] > 0
        assert [p.prompt for p in pairs] == sorted(p.prompt for p in pairs)


def test_random_pairs_of_a_prompt_depend_on_seed_and_place_alone():
    rewards = np.random.default_rng(0).random((5, 8))
    usable = np.ones((5, 8), bool)
    whole = random_pairs(rewards, usable, max_pairs=4, seed=7)
    alone = random_pairs(rewards[:2], usable[:2], max_pairs=4, seed=7)
    assert [p for p in whole if p.prompt < 2] == alone
    assert whole != random_pairs(rewards, usable, max_pairs=4, seed=8)


def test_every_pairing_of_the_accepted_is_equally_likely():
    # Four accepted: three ways to make two pairs of them. Best against worst is one of these only.
    rewards, usable = np.array([[0.1, 0.9, 0.4, 0.7, 0.2]]), np.array([[1, 1, 0, 1, 1]], bool)
    ways = [{(1, 0), (3, 4)}, {(1, 4), (3, 0)}, {(1, 3), (4, 0)}]

    def cells(make):
        return count_cells(np.array([ways.index(set(ends(make(s)))) for s in range(3000)]), 3)

    law = np.full(3, 1 / 3)
    assert_law(cells(lambda s: random_pairs(rewards, usable, max_pairs=2, seed=s)), law)
    assert_rejects(cells(lambda s: best_worst_pairs(rewards, usable, max_pairs=2)), law)


def test_pairs_of_what_statistical_rejection_accepts_are_two_draws_from_the_target():
    from rsft_jax.selection import Candidates, statistical_rejection

    # Four answers; a pair is (chosen, rejected) answer, its law that of two unlike target draws.
    q, reward, beta = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.4, 0.7, 1.0]), 0.6
    drawn = np.random.default_rng(5).choice(4, p=q, size=(20_000, 4))
    rewards = reward[drawn]
    rule = statistical_rejection(beta, max_reward=1.0)
    candidates = Candidates(rewards=rewards.astype(np.float32), valid=np.ones(drawn.shape, bool))
    accepted = np.asarray(rule.select(jax.random.key(1), candidates).accepted)
    kinds = [(b, a) for a, b in itertools.combinations(range(4), 2)]

    def cells(usable):
        pairs = random_pairs(rewards, usable)
        found = [
            kinds.index((drawn[p.prompt, p.chosen], drawn[p.prompt, p.rejected])) for p in pairs
        ]
        return count_cells(np.array(found), len(kinds))

    target = q * np.exp(reward / beta)
    law = np.array([target[a] * target[b] for a, b in kinds])
    assert_law(cells(accepted), law / law.sum())
    assert_rejects(cells(np.ones_like(accepted)), law / law.sum())  # pairs of q: not RSO's


@pytest.mark.parametrize("make", [best_worst_pairs, random_pairs])
def test_bad_arguments_are_refused(make):
    with pytest.raises(ValueError, match=r"one shape \[P, N\], got \(1, 2\) and \(2,\)"):
        make([[1.0, 2.0]], [True, True])
    with pytest.raises(ValueError, match="margin must be >= 0, got -1"):
        make([[1.0]], [[True]], margin=-1)
    with pytest.raises(ValueError, match="margin must be >= 0, got nan"):
        make([[1.0]], [[True]], margin=NAN)
    with pytest.raises(ValueError, match="max_pairs must be at least 1"):
        make([[1.0]], [[True]], max_pairs=0)
    assert make(np.zeros((0, 3)), np.zeros((0, 3), bool)) == []
    assert make([[1.0, 0.0]], [[True, True]]) == [PreferencePair(0, 0, 1, 1.0)]
