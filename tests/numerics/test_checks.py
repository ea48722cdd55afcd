"""Checks of arguments: one dialect, and traced values pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.numerics.checks import (
    check_between,
    check_choice,
    check_integer,
    check_number,
    check_same_vocabulary,
    check_vocabulary,
    per_prompt,
)

A, B = jnp.zeros((2, 3)), jnp.zeros((2, 4))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_integer("k", 0), "k must be an integer >= 1, got 0"),
        (lambda: check_integer("k", True), "k must be an integer >= 1, got True"),
        (lambda: check_integer("k", 1.0, note="or None"), "k .* >= 1 or None, got 1.0"),
        (lambda: check_number("x", np.nan), "x must be a finite number, got nan"),
        (lambda: check_number("x", 0, above=0), "x must be a finite number > 0, got 0"),
        (lambda: check_between("x", 1, 0, 1, bounds="[)"), r"x must be in \[0, 1\), got 1"),
        (lambda: check_between("x", "1", 0, 1), r"x must be in \[0, 1\], got '1'"),
        (lambda: check_choice("how", "c", ("a", "b")), r"how must be one of \('a', 'b'\), got 'c'"),
        (lambda: check_vocabulary("z", A[:, :0]), r"z must be .*, got shape \(2, 0\)"),
        (lambda: check_same_vocabulary("p", A, "q", B), r"p and q must .*, got shapes \(2, 3\)"),
    ],
)
def test_errors_speak_one_dialect(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_traced_values_pass():
    @jax.jit
    def checked(x):
        check_number("x", x)
        check_between("x", x, 0, 1)
        return x

    assert checked(jnp.float32(5)) == 5


def test_a_value_a_prompt_needs_their_number():
    assert per_prompt("beta", jnp.ones(2), A).shape == (2, 1)
    with pytest.raises(AssertionError, match="beta"):
        per_prompt("beta", jnp.ones(3), A)
