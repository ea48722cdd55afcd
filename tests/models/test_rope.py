"""Rotary positions: the frequencies of each scaling, and the turning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.models.rope import Linear, Llama3, LongRope, Rope, Yarn, _Turn, _turned, rotate

LLAMA3 = Llama3(factor=8.0, low=1.0, high=4.0, trained_length=64)
YARN = Yarn(factor=8.0, trained_length=64, beta_fast=8.0)
LONG = LongRope(short=(1.0,) * 8, long=tuple(range(1, 9)), trained_length=64, attention_factor=1.1)


def frequencies(scaling, max_length=64):
    return np.asarray(Rope(100.0, scaling=scaling).frequencies(16, max_length))


PLAIN = frequencies(None)


def test_llama3_leaves_fast_pairs_slows_slow_ones_and_goes_between_by_turns():
    scaled, turns = frequencies(LLAMA3), 64 * PLAIN / (2 * np.pi)
    assert (turns > 4).any()
    assert (turns < 1).any()
    assert ((turns > 1) & (turns < 4)).any()
    for new, old, t in zip(scaled, PLAIN, turns):
        mixed = (t - 1) / 3 * old + (4 - t) / 3 * old / 8
        assert new == pytest.approx(old if t > 4 else old / 8 if t < 1 else mixed, rel=1e-6)


def test_yarn_ramps_over_the_numbers_of_the_pairs():
    # The pair i turns b times in 64 tokens: 16 ln(64 / (2 pi b)) / (2 ln 100), 0.42 and 4.03 here.
    low, high = 0, 5
    for pair, (new, old) in enumerate(zip(frequencies(YARN), PLAIN)):
        slow = min(max((pair - low) / (high - low), 0), 1)
        assert new == pytest.approx(slow * old / 8 + (1 - slow) * old, rel=1e-6)
    exact = frequencies(dataclasses.replace(YARN, truncate=False))
    low, high = (16 * np.log(64 / (2 * np.pi * b)) / (2 * np.log(100)) for b in (8, 1))
    slow = np.clip((np.arange(8) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(exact, slow * PLAIN / 8 + (1 - slow) * PLAIN, rtol=1e-6)
    assert YARN.magnitude == pytest.approx(0.1 * np.log(8) + 1)
    assert dataclasses.replace(YARN, attention_factor=1.5).magnitude == 1.5


def test_long_rope_is_chosen_by_the_longest_sequence():
    np.testing.assert_array_equal(frequencies(LONG, 64), PLAIN)
    np.testing.assert_allclose(frequencies(LONG, 65), PLAIN / np.arange(1, 9), rtol=1e-6)


def test_a_pair_turns_by_its_angle_and_what_is_beyond_the_width_stays():
    rope = Rope(100.0, width=4, scaling=Linear(2.0))
    x = np.random.default_rng(0).normal(size=(1, 3, 1, 6)).astype(np.float32)
    turned = rotate(x, jnp.array([[0, 1, 5]]), rope.frequencies(6, 64), 1.5)
    for t, place in enumerate((0, 1, 5)):
        for pair, frequency in enumerate((0.5, 0.05)):
            one = complex(x[0, t, 0, pair], x[0, t, 0, pair + 2]) * np.exp(1j * place * frequency)
            ours = complex(turned[0, t, 0, pair], turned[0, t, 0, pair + 2])
            assert ours == pytest.approx(1.5 * one, rel=1e-5)
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])


@pytest.mark.parametrize("magnitude", [None, 1.5])
def test_gradient_of_a_turn_is_that_of_its_formula(magnitude):
    with jax.enable_x64(True):
        x, dy = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 5, 6, 4)))
        positions = jnp.array([[0, 1, 2, 3, 4], [7, 8, 9, 0, 1]])
        turn = _Turn(positions, Rope(100.0).frequencies(4, 64, jnp.float64), magnitude)
        _, pull = jax.vjp(lambda x: rotate(x, *turn), x)
        _, expected = jax.vjp(lambda x: _turned(x, turn, 1), x)
        np.testing.assert_allclose(pull(dy)[0], expected(dy)[0], atol=1e-14)
        back = pull(rotate(x, *turn))[0]
        np.testing.assert_allclose(back, x * (magnitude or 1) ** 2, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Rope(0.0), "rope base"),
        (lambda: Rope(float("nan")), "rope base"),
        (lambda: Rope(width=3), "rope width"),
        (lambda: Linear(0.0), "rope factor"),
        (lambda: dataclasses.replace(LLAMA3, low=4.0), "low_freq_factor"),
        (lambda: dataclasses.replace(LONG, long=(0.0,) * 8), "rope factor"),
    ],
)
def test_what_cannot_be_is_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()
