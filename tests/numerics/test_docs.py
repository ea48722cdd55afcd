"""The examples in the docstrings run, and the package says what it exports."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import pytest

from rsft_jax import numerics

MODULES = [module.name for module in pkgutil.iter_modules(numerics.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = importlib.import_module(f"rsft_jax.numerics.{name}")
    result = doctest.testmod(module, extraglobs={"jax": jax, "jnp": jnp})
    assert result.attempted > 0
    assert result.failed == 0


def test_all_is_sorted_and_documented():
    assert list(numerics.__all__) == sorted(numerics.__all__)
    for name in numerics.__all__:
        assert getattr(numerics, name).__doc__, name
