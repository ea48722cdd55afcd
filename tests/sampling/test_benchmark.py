"""The benchmark runs, small."""

import pytest

from rsft_jax.experiments.benchmarks import sampling


@pytest.mark.slow
def test_benchmark_of_sampling_runs(capsys):
    sampling.main(["--quick"])
    printed = capsys.readouterr().out
    for name in ("rejection_sample, exact envelope", "speculative_sample, block", "M draws/s"):
        assert name in printed
