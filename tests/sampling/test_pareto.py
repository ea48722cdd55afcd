"""The Pareto k of weights: ArviZ's values where those are right, and weights it has none for."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.sampling import pareto_k
from tests.goldens.make_pareto import pareto_inputs

GOLDENS = json.loads(
    (pathlib.Path(__file__).parents[1] / "goldens" / "pareto.json").read_text(encoding="utf-8")
)
INPUTS = pareto_inputs()


def test_k_is_that_of_arviz():
    assert GOLDENS.keys() == INPUTS.keys()
    names = [name for name in INPUTS if not name.endswith(" 20000")]  # three shapes to compile
    found = {name: float(pareto_k(jnp.asarray(INPUTS[name], jnp.float32))) for name in names}
    np.testing.assert_allclose(
        list(found.values()), [GOLDENS[name] for name in names], rtol=2e-3, atol=2e-3
    )
    # What it is mistaken for after a port: the k of the weights turned upside down.
    assert (
        abs(float(pareto_k(-jnp.asarray(INPUTS["tail 1.5 of 1000"]))) - found["tail 1.5 of 1000"])
        > 1
    )


def test_k_in_float64_is_that_of_arviz_to_rounding():
    with jax.enable_x64(True):
        for name in ("lognormal 0.7 of 20000", "tail 1.5 of 20000", "bounded 0.3 of 20000"):
            assert float(pareto_k(jnp.asarray(INPUTS[name]))) == pytest.approx(
                GOLDENS[name], abs=1e-9
            )


def test_weights_without_a_tail_and_weights_that_are_none():
    count = np.arange(1000)
    random = np.random.default_rng(0).normal(size=1000)
    rows = {
        "equal": (np.zeros(1000), -np.inf),
        "0 and 1": (np.where(count % 3, 0, -np.inf), -np.inf),
        "0 and three times 1": (np.where(count < 3, 0, -np.inf), -np.inf),
        "clipped": (np.minimum(random, 0.8), -np.inf),
        "one that stands out": (np.where(count < 1, 3.0, 0), np.nan),
        "two that stand out": (np.where(count < 2, count * 3.0 + 3, 0), np.nan),
        "none": (np.full(1000, -np.inf), np.nan),
        "NaN": (np.where(count == 7, np.nan, random), np.nan),
        "+inf": (np.where(count == 7, np.inf, random), np.nan),
    }
    weights, wanted = (jnp.array(part, jnp.float32) for part in zip(*rows.values(), strict=True))
    np.testing.assert_array_equal(jax.jit(pareto_k)(weights), wanted, err_msg=str(list(rows)))
    np.testing.assert_array_equal(pareto_k(weights.T, axis=0), wanted)
    for few in (1, 4, 20):
        assert np.isnan(pareto_k(jnp.arange(float(few))))
    assert float(pareto_k(jnp.zeros(4))) == -np.inf
