"""The benchmark of reading: what is held at most beside the parameters."""

import pytest

from rsft_jax.experiments.benchmarks.reading import compare, make_folder


@pytest.mark.slow
def test_reading_holds_the_parameters_and_little_else(tmp_path):
    make_folder(tmp_path, "33m")
    found = {line["reader"]: line for line in compare(tmp_path, None, 1)}
    whole, kept = found["rsft_jax float32"], found["rsft_jax checkpoint"]
    for line in (whole, kept):
        assert line["over_parameters"] <= 1.3
        assert line["file"] == pytest.approx(0.067, abs=0.005)
    assert whole["parameters"] == pytest.approx(2 * whole["file"], rel=0.01)
    assert kept["parameters"] == pytest.approx(kept["file"], rel=0.01)
