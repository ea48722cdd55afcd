"""The examples in the docstrings run."""

import doctest
import importlib
import math
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import rsft_jax.sampling

MODULES = sorted(m.name for m in pkgutil.iter_modules(rsft_jax.sampling.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = importlib.import_module(f"rsft_jax.sampling.{name}")
    result = doctest.testmod(module, extraglobs={"jax": jax, "jnp": jnp, "math": math})
    assert result.attempted > 0
    assert result.failed == 0


def test_all_is_sorted_complete_and_documented():
    names = rsft_jax.sampling.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(rsft_jax.sampling, name).__doc__, name
