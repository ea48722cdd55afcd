"""Keys and uniforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.numerics.keys import counter_bits, numbered_key, row_keys, unit_uniform
from rsft_jax.sampling import unrolled_key
from tests.gates import assert_law, assert_rejects

RANDOM = {
    "normal": lambda k: jax.random.normal(k, (3, 5)),
    "bits": lambda k: jax.random.bits(k, (7,)),
    "bytes": lambda k: jax.random.bits(k, (7,), "uint8"),
    "folded": lambda k: jax.random.uniform(jax.random.fold_in(k, 9)),
    "split": lambda k: jax.random.uniform(jax.random.split(k, 3)[1], (4,)),
    "permutation": lambda k: jax.random.permutation(k, 10),
    "gamma": lambda k: jax.random.gamma(k, 2.0, (3,)),
    "vmap": lambda k: jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(k, i)))(
        jnp.arange(5)
    ),
}


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_unrolled_key_gives_the_bits_of_threefry(name):
    key = jax.random.key(7)
    np.testing.assert_array_equal(RANDOM[name](unrolled_key(key)), RANDOM[name](key))
    np.testing.assert_array_equal(jax.jit(RANDOM[name])(unrolled_key(key)), RANDOM[name](key))


def test_unrolled_key_in_float64_and_of_other_generators():
    with jax.enable_x64(True):
        key = jax.random.key(7)
        fast = jax.random.normal(unrolled_key(key), (4,), jnp.float64)
        np.testing.assert_array_equal(fast, jax.random.normal(key, (4,), jnp.float64))
    rbg = jax.random.key(0, impl="rbg")
    assert unrolled_key(rbg) is rbg
    with pytest.raises(ValueError, match="typed key"):
        unrolled_key(jax.random.PRNGKey(0))


def test_counter_bits_are_the_key_that_fold_in_makes():
    key = jax.random.key(3)
    words = counter_bits(key, jnp.arange(5, dtype=jnp.uint32))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(5))
    np.testing.assert_array_equal(words, jax.random.key_data(keys))


@pytest.mark.parametrize("impl", ["threefry2x32", "unrolled", "rbg"])
def test_numbered_keys_all_differ_from_each_other_and_across_the_word(impl):
    key = jax.random.key(3, impl=None if impl == "unrolled" else impl)
    key = unrolled_key(key) if impl == "unrolled" else key
    numbers = jnp.array([0, 1, 2, 5000, 2**31, 2**32 - 1], jnp.uint32)
    keys = jax.vmap(numbered_key, in_axes=(None, 0))(key, numbers)
    words = np.asarray(jax.random.key_data(keys))
    assert len({tuple(row) for row in words.tolist()}) == 6
    bits = np.asarray(jax.vmap(lambda k: jax.random.bits(k, (4,)))(keys))
    assert len(np.unique(bits)) == 24


def test_first_draws_of_neighbouring_numbers_are_uncorrelated():
    key = unrolled_key(jax.random.key(0))
    numbers = jnp.arange(200_000, dtype=jnp.uint32)
    u = np.asarray(jax.vmap(lambda i: jax.random.uniform(numbered_key(key, i)))(numbers))
    cells = np.floor(u * 16).astype(int)
    pairs = np.bincount(16 * cells[::2] + cells[1::2], minlength=256)
    assert_law(pairs, np.full(256, 1 / 256))
    assert_rejects(np.bincount(17 * cells[::2], minlength=256), np.full(256, 1 / 256))


def test_row_keys_do_not_depend_on_their_number():
    few, many = (jax.random.key_data(row_keys(jax.random.key(1), n)) for n in (3, 100))
    np.testing.assert_array_equal(few, many[:3])
    assert len(np.unique(many, axis=0)) == 100


def test_unit_uniform_stays_below_one():
    ends = jnp.array([0, 255, 256, 2**32 - 1], jnp.uint32)
    assert unit_uniform(ends).tolist() == [0, 0, 2.0**-24, 1 - 2.0**-24]
