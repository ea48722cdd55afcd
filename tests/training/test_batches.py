import jax
import numpy as np
import pytest

from rsft_jax.training.batches import (
    draw_old,
    first_fit,
    make_batches,
    pack_batches,
    padding_fraction,
)


def _sequences(count, seed=0):
    generator = np.random.default_rng(seed)
    prompts = [generator.integers(0, 99, n).tolist() for n in generator.integers(1, 40, count)]
    texts = [generator.integers(0, 99, n).tolist() for n in generator.integers(1, 80, count)]
    return prompts, texts


def _rows(batches):
    """What the batches hold: (prompt, completion, weight) of every row that counts."""
    found = []
    for b in batches:
        for tokens, start, size, weight in zip(
            b.tokens, b.completion_start, b.completion_length, b.weights
        ):
            if weight:
                prompt, text = tokens[:start], tokens[start : start + size]
                found.append((tuple(prompt), tuple(text), round(float(weight), 4)))
    return sorted(found)


@pytest.mark.parametrize("key", [None, 7])
def test_batches_hold_every_sequence_once(key):
    prompts, texts = _sequences(37)
    weights = np.linspace(0.5, 1.5, 37)
    key = None if key is None else jax.random.key(key)
    batches = make_batches(prompts, texts, weights, batch_size=8, key=key)
    want = sorted(
        (tuple(p), tuple(t), round(float(np.float32(w)), 4))
        for p, t, w in zip(prompts, texts, weights)
    )
    assert _rows(batches) == want
    assert len(batches) == 5
    assert all(b.tokens.shape[0] == 8 and b.tokens.shape[1] % 32 == 0 for b in batches)


def test_batches_number_the_places_and_mark_padding():
    (batch,) = make_batches([[5, 6]], [[7]], batch_size=2, multiple_of=4)
    assert batch.positions.tolist() == [[0, 1, 2, -1], [-1, -1, -1, -1]]
    assert batch.tokens.tolist() == [[5, 6, 7, 0], [0, 0, 0, 0]]
    assert batch.weights.tolist() == [1.0, 0.0]
    assert batch.completion_length.tolist() == [1, 0]


def test_sorting_by_length_saves_padding():
    prompts, texts = _sequences(128)
    batches = make_batches(prompts, texts, batch_size=8, multiple_of=16)
    unsorted = [
        make_batches(prompts[i : i + 8], texts[i : i + 8], batch_size=8, multiple_of=16)[0]
        for i in range(0, 128, 8)
    ]
    assert padding_fraction(batches) < 0.2
    assert padding_fraction(unsorted) > 0.35
    real = sum(len(p) + len(t) for p, t in zip(prompts, texts))
    places = sum(b.tokens.size for b in batches)
    assert padding_fraction(batches) == pytest.approx(1 - real / places)
    assert len({b.tokens.shape for b in batches}) <= 8


def test_batch_order_follows_the_key():
    prompts, texts = _sequences(64)

    def tokens(key):
        return [b.tokens.tolist() for b in make_batches(prompts, texts, batch_size=8, key=key)]

    assert tokens(jax.random.key(1)) == tokens(jax.random.key(1))
    assert tokens(jax.random.key(1)) != tokens(jax.random.key(2))
    assert tokens(None) != tokens(jax.random.key(1))


def test_weights_lose_their_common_factor():
    prompts, texts = _sequences(6)
    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 0.0])
    small = make_batches(prompts, texts, weights, batch_size=8)
    large = make_batches(prompts, texts, weights * 1000, batch_size=8)
    assert _rows(small) == _rows(large)
    assert np.sum(small[0].weights) == pytest.approx(5)


def test_max_weight_cuts_after_the_division_by_the_mean():
    (batch,) = make_batches([[1]] * 4, [[2]] * 4, [1, 1, 1, 5], batch_size=4, max_weight=2.0)
    assert sorted(batch.weights.tolist()) == [0.5, 0.5, 0.5, 2.0]


def test_weight_zero_and_empty_completions_are_left_out():
    batches = make_batches([[1], [2], [3]], [[4], [5], []], [1.0, 0.0, 1.0], batch_size=2)
    assert _rows(batches) == [((1,), (4,), 1.0)]
    assert make_batches([[1]], [[2]], [0.0], batch_size=2) == []
    assert make_batches([], [], batch_size=2) == []
    assert padding_fraction([]) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"multiple_of": 0}, "multiple_of must be an integer >= 1, got 0"),
        ({"max_weight": 0.0}, r"max_weight must be in \(0, inf\], got 0.0"),
        ({"max_length": 2}, "row 1 has 3 tokens .* max_length = 2"),
        ({"weights": [1.0, float("nan")]}, r"in \[0, inf\), got nan in row 1"),
        ({"weights": [-1.0, 1.0]}, r"in \[0, inf\), got -1.0 in row 0"),
        ({"weights": [1.0]}, r"weights must have the shape \(2,\), got \(1,\)"),
        ({"prompt_tokens": [[1], []]}, "prompt_tokens must not be empty, but row 1 is"),
        ({"prompt_tokens": [[1]]}, "completion_tokens has 2 rows, prompt_tokens has 1"),
        ({"vocab_size": 5}, r"completion_tokens must be ids in \[0, 5\), got 4 to 5 in row 1"),
        (
            {"completion_tokens": [[1], [-1]]},
            "completion_tokens must be ids .* got -1 to -1 in row 1",
        ),
    ],
)
def test_batches_refuse_bad_arguments(arguments, message):
    good = {"prompt_tokens": [[1], [2]], "completion_tokens": [[3], [4, 5]], "batch_size": 2}
    with pytest.raises(ValueError, match=message):
        make_batches(**{**good, **arguments})


def test_packing_keeps_every_sequence_whole_and_apart():
    generator = np.random.default_rng(0)
    prompts = [generator.integers(1, 50, n).tolist() for n in generator.integers(1, 6, 40)]
    texts = [generator.integers(1, 50, n).tolist() for n in generator.integers(0, 20, 40)]
    log_probs = [-generator.exponential(size=len(text)) for text in texts]
    weights = generator.uniform(0, 2, 40) * (np.arange(40) % 5 > 0)
    batches = pack_batches(
        prompts, texts, weights, log_probs=log_probs, batch_size=3, row_length=32,
        key=jax.random.key(4),
    )  # fmt: skip
    kept = [i for i in range(40) if texts[i] and weights[i] > 0]
    scale = weights[weights > 0].mean()
    found = []
    for batch in batches:
        assert batch.tokens.shape == (3, 32)
        for row in range(3):
            numbers = batch.segments[row]
            assert np.all((batch.positions[row] == -1) == (numbers == 0))
            for number in range(1, numbers.max() + 1):
                (where,) = np.nonzero(numbers == number)
                assert np.array_equal(batch.positions[row, where], np.arange(len(where)))
                assert np.array_equal(np.diff(where), np.ones(len(where) - 1))
                trained = where[batch.weights[row, where] > 0]
                assert np.all(batch.completion_lengths[row, trained] == len(trained))
                found.append((
                    batch.tokens[row, where[: -len(trained)]].tolist(),
                    batch.tokens[row, trained].tolist(),
                    round(float(batch.weights[row, trained[0]] * scale), 4),
                    np.round(batch.log_probs[row, trained], 4).tolist(),
                ))  # fmt: skip
    wanted = [
        (prompts[i], texts[i], round(float(weights[i]), 4),
         np.round(log_probs[i].astype(np.float32), 4).tolist())
        for i in kept
    ]  # fmt: skip
    assert sorted(map(str, found)) == sorted(map(str, wanted))


def test_packing_wastes_less_than_rows_of_their_own():
    generator = np.random.default_rng(1)
    prompts = [[1] * 10] * 200
    texts = [[2] * n for n in np.clip(generator.geometric(0.02, 200), 1, 200)]
    single = make_batches(prompts, texts, batch_size=8)
    in_order = [
        batch
        for start in range(0, 200, 8)
        for batch in make_batches(
            prompts[start : start + 8], texts[start : start + 8], batch_size=8
        )
    ]
    packed = pack_batches(prompts, texts, batch_size=8, row_length=256)
    assert padding_fraction(packed[:-1]) < 0.02
    assert padding_fraction(packed) < padding_fraction(single) < padding_fraction(in_order)


def test_first_fit_is_the_rule_written_out():
    generator = np.random.default_rng(2)
    lengths = generator.integers(1, 40, 100)
    room, bins = [], []
    for i, length in enumerate(lengths):
        for b in range(len(room)):
            if room[b] >= length:
                break
        else:
            room.append(40)
            bins.append([])
            b = len(room) - 1
        room[b] -= length
        bins[b].append(i)
    assert first_fit(lengths, 40) == bins
    with pytest.raises(ValueError, match=r"lengths must be in \[0, 8\], got 9 in place 1"):
        first_fit([2, 9], 8)


def test_old_sequences_make_up_the_wanted_part():
    key = jax.random.key(7)
    chosen = draw_old(key, 60, 50, fraction=0.4)
    assert len(chosen) == 40
    assert len(set(chosen.tolist())) == 40
    np.testing.assert_array_equal(chosen, draw_old(key, 60, 50, fraction=0.4))
    assert len(draw_old(key, 60, 10, fraction=0.4)) == 10
    assert len(draw_old(key, 60, 10, fraction=0.0)) == 0
    keys = jax.random.split(key, 400)
    counts = np.zeros(6)
    for k in keys:
        counts[draw_old(k, 6, 6, fraction=0.25)] += 1
    # 400 draws of 2 among 6: 133 each, standard deviation 9.4.
    assert counts.sum() == 800
    assert np.abs(counts - 800 / 6).max() < 4 * 9.4
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\), got 1"):
        draw_old(key, 6, 6, fraction=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_length": 3}, "row 0 has 4 tokens .* more than max_length = 3"),
        ({"row_length": 0}, "row_length must be an integer >= 1, got 0"),
        ({"log_probs": [[-1.0]]}, r"row 0 has the shape \(1,\) and 2 tokens"),
        ({"log_probs": [[-1.0, -np.inf]]}, "log_probs must be finite, but row 0 is not"),
        ({"log_probs": []}, "log_probs has 0 rows, prompt_tokens has 1"),
    ],
)
def test_packing_refuses_bad_arguments(changes, message):
    arguments = {"batch_size": 1, "row_length": 8} | changes
    with pytest.raises(ValueError, match=message):
        pack_batches([[1, 2]], [[3, 4]], **arguments)
