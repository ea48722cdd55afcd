"""The sampling examples run and say what is true."""

import builtins

import pytest

from rsft_jax.experiments.examples import (
    bayesian_posterior,
    constrained_draw,
    distrax_density,
    reuse_in_decoding_loop,
)


def test_decoding_loop_keeps_more_than_one_token_a_call():
    assert 1.5 < reuse_in_decoding_loop.main() <= 5


def test_constrained_draw_estimates_the_allowed_mass():
    estimate, mass = constrained_draw.main()
    assert abs(estimate - mass) < 0.2 * mass


def test_posterior_mean_is_that_of_quadrature():
    mean, exact = bayesian_posterior.main()
    assert abs(mean - exact) < 0.005


@pytest.mark.parametrize("library", ["distrax", "numpyro"])
def test_density_of_another_library_is_sampled(library, monkeypatch, capsys):
    pytest.importorskip(library)
    if library == "numpyro":
        original = builtins.__import__

        def without_distrax(name, *args, **kwargs):
            if name == "distrax":
                raise ImportError(name)
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without_distrax)
    mean, exact = distrax_density.main()
    assert abs(mean - exact) < 0.01
    assert library in capsys.readouterr().out
