"""The cursor: every prompt once an epoch, the same order for ever, resumable anywhere."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsft_jax.data import PromptCursor, epoch_order, take


def taken(batches, *, size, seed, cursor=None):
    cursor = cursor or PromptCursor()
    parts = []
    for num in batches:
        indices, cursor = take(cursor, num, size=size, seed=seed)
        parts.append(indices)
    return np.concatenate(parts), cursor


@settings(deadline=None)
@given(
    size=st.integers(1, 20),
    batches=st.lists(st.integers(1, 45), min_size=1, max_size=6),
    seed=st.integers(0, 2**64 - 1),
)
def test_take_is_the_concatenation_of_epochs_whatever_the_batches(size, batches, seed):
    total = sum(batches)
    orders = [epoch_order(size, seed=seed, epoch=e) for e in range(total // size + 1)]
    indices, cursor = taken(batches, size=size, seed=seed)
    np.testing.assert_array_equal(indices, np.concatenate(orders)[:total])
    assert cursor == PromptCursor(*divmod(total, size))
    assert indices.dtype == np.int32


def test_cursor_resumes_exactly_from_its_json_form():
    whole, _ = taken([7] * 9, size=20, seed=3)
    for stop in range(1, 9):
        first, cursor = taken([7] * stop, size=20, seed=3)
        restored = PromptCursor(**json.loads(json.dumps(cursor._asdict())))
        second, _ = taken([7] * (9 - stop), size=20, seed=3, cursor=restored)
        np.testing.assert_array_equal(np.concatenate([first, second]), whole)


def test_epoch_order_is_a_permutation_that_changes_with_seed_and_epoch():
    orders = {(s, e): epoch_order(50, seed=s, epoch=e) for s in range(5) for e in range(5)}
    for order in orders.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({order.tobytes() for order in orders.values()}) == 25


def test_epoch_order_is_uniform():
    # 120 orders of five, 24,000 epochs: chi-squared of 119 degrees stays under 245 but once in
    # 1e10 times. The mutant that rotates one order by a random amount reaches five orders only.
    def statistic(rows):
        _, counts = np.unique(rows, axis=0, return_counts=True)
        counts = np.concatenate([counts, np.zeros(120 - len(counts))])
        return ((counts - 200) ** 2 / 200).sum()

    orders = np.array([epoch_order(5, seed=11, epoch=e) for e in range(24_000)])
    assert statistic(orders) < 245
    rotated = np.array([np.roll(np.arange(5), order[0]) for order in orders])
    assert statistic(rotated) > 245


def test_epoch_order_never_changes_between_versions():
    # Stored runs resume by these; a new value here breaks them all.
    assert epoch_order(10, seed=1, epoch=2).tolist() == [4, 2, 0, 6, 1, 5, 9, 8, 7, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: take(PromptCursor(), 0, size=3, seed=0), "num must be at least 1, got 0"),
        (lambda: take(PromptCursor(), 1, size=0, seed=0), "size must be in .* got 0"),
        (lambda: take(PromptCursor(), 1, size=3, seed=-1), "seed must be in .* got -1"),
        (lambda: take(PromptCursor(0, 3), 1, size=3, seed=0), "another set of prompts"),
        (lambda: take(PromptCursor(-1, 0), 1, size=3, seed=0), "epoch >= 0"),
        (lambda: epoch_order(3, seed=0, epoch=-1), "epoch must be at least 0, got -1"),
    ],
)
def test_cursor_refuses_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
