"""Keys and uniforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.sampling import unrolled_key
from rsft_jax.sampling.draws import counter_bits, row_keys, unit_uniform

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


def test_row_keys_do_not_depend_on_their_number():
    few, many = (jax.random.key_data(row_keys(jax.random.key(1), n)) for n in (3, 100))
    np.testing.assert_array_equal(few, many[:3])
    assert len(np.unique(many, axis=0)) == 100


def test_unit_uniform_stays_below_one():
    ends = jnp.array([0, 255, 256, 2**32 - 1], jnp.uint32)
    assert unit_uniform(ends).tolist() == [0, 0, 2.0**-24, 1 - 2.0**-24]
