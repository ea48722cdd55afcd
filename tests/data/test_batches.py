import jax
import numpy as np
import pytest

from rsft_jax.data.batches import make_batches, padding_fraction


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
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"multiple_of": 0}, "multiple_of must be at least 1, got 0"),
        ({"max_weight": 0.0}, "max_weight must be positive, got 0.0"),
        ({"max_length": 2}, "row 1 has 3 tokens .* max_length = 2"),
        ({"weights": [1.0, float("nan")]}, "finite and at least 0, got nan in row 1"),
        ({"weights": [-1.0, 1.0]}, "finite and at least 0, got -1.0 in row 0"),
        ({"weights": [1.0]}, r"weights must have the shape \(2,\), got \(1,\)"),
        ({"prompt_tokens": [[1], []]}, "prompt_tokens must not be empty, but row 1 is"),
        ({"prompt_tokens": [[1]]}, "completion_tokens has 2 rows, prompt_tokens has 1"),
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
