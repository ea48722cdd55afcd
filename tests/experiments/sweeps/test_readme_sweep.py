"""Every command of the section on sweeps of experiments/README.md runs, in its order there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "experiments" / "README.md"


def commands():
    section = re.search(r"^## Sweep in five minutes\n(.*?)^## ", README.read_text(), re.M | re.S)
    blocks = re.findall(r"^```\w*\n(.*?)^```", section[1], re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("rsft ")]


def test_section_has_a_grid_a_search_a_population_and_a_reselection():
    names = [words[1] for words in commands()]
    assert {"run", "reselect", "tune", "population", "ls"} <= set(names)
    assert ["rsft", "run", "-m"] in [words[:3] for words in commands()]


@pytest.mark.slow
def test_every_command_of_the_section_runs(tmp_path):
    pytest.importorskip("optuna")
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "COLUMNS": "120"}
    for words in commands():
        line = [sys.executable, "-m", "rsft_jax.experiments.cli", *words[1:]]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip()
