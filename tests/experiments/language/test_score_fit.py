"""The fit of a head on features: what does not depend on their scale, and which pass is kept."""

import jax
import numpy as np
import pytest

from rsft_jax.experiments.language.score_fit import Fitting, Rows, fit_head
from rsft_jax.experiments.language.tiny import random_policy
from rsft_jax.interop import new_classifier
from rsft_jax.models.score_head import SCORE

WIDTH, TEXTS = 32, 40


@pytest.fixture(scope="module")
def made():
    return new_classifier(jax.random.key(0), random_policy(np.dtype("float32")))


def kernel_of(fit):
    return np.asarray(fit.classifier.params[SCORE]["kernel"], np.float64)[:, 0]


@pytest.mark.parametrize("loss", ["bradley_terry", "regression"])
def test_the_scale_and_the_place_of_features_change_no_order(made, loss):
    rng = np.random.default_rng(0)
    sides = [rng.normal(size=(TEXTS, WIDTH)) for _ in range(2 if loss == "bradley_terry" else 1)]
    ratings, scale = rng.normal(size=TEXTS), np.exp(rng.normal(size=WIDTH))
    fitting = Fitting(loss=loss, head_passes=3, head_rate=0.03, batch_size=2)
    key = jax.random.key(1)
    plain = fit_head(made, Rows(sides, ratings), fitting, key, None)
    moved = fit_head(
        made, Rows([5.0 + scale * side for side in sides], ratings), fitting, key, None
    )
    np.testing.assert_allclose(scale * kernel_of(moved), kernel_of(plain), rtol=1e-3, atol=1e-6)
    assert np.abs(kernel_of(plain)).max() > 0.01
    assert plain.passes == 3


def test_the_first_of_the_best_passes_is_kept(made):
    rng = np.random.default_rng(0)
    rows = Rows([rng.normal(size=(TEXTS, WIDTH)) for _ in range(2)], np.zeros(TEXTS))
    figures, seen = iter([0.5, 0.7, 0.6, 0.7]), []

    def judge(kernel):
        seen.append(kernel)
        return next(figures)

    fit = fit_head(made, rows, Fitting(head_passes=4), jax.random.key(1), judge)
    assert (fit.passes, fit.figure) == (2, 0.7)
    np.testing.assert_allclose(kernel_of(fit), seen[1], rtol=1e-6)
    assert not np.allclose(seen[1], seen[3], rtol=1e-3)
