"""The command that runs a grid of small runs in one program."""

import csv
import json

import jax
import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.sweeps import population as module
from rsft_jax.experiments.terminal.errors import ExitCode


def test_population_writes_every_run_its_summary_and_a_figure(tmp_path, capsys):
    root = tmp_path / "p"
    axes = ["beta=0.05,1", "learning_rate=1", "k=8", "seed=range(6)"]
    assert main(["population", *axes, f"output_dir={root}"]) == ExitCode.OK
    with (root / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {(row["beta"], row["seed"]) for row in rows} == {
        (beta, str(seed)) for beta in ("0.05", "1.0") for seed in range(6)
    }
    facts = json.loads((root / "results.json").read_text())
    sharp, broad = sorted(facts["combinations"], key=lambda group: group["beta"])
    # The sharper target goes further.
    assert sharp["reward_low"] > broad["reward_high"]
    assert sharp["kl_low"] > broad["kl_high"]
    mean = np.mean([float(row["reward"]) for row in rows if row["beta"] == "0.05"])
    assert sharp["reward"] == pytest.approx(mean)
    assert (root / "reward_kl.png").read_bytes().startswith(b"\x89PNG")
    assert "population: 12 runs of 10 rounds in one program on 8 devices" in capsys.readouterr().out


def test_a_run_of_the_command_is_the_single_run_of_a_notebook(tmp_path):
    config, _ = module.load_population(["beta=0.1,0.3", "learning_rate=0.3", "k=2", "seed=3,4"])
    runs = module.combinations(config)
    keys, settings = module.arrays(runs)
    alone = module.one_run(config)(keys[2], jax.tree.map(lambda leaf: leaf[2], settings))
    root = tmp_path / "p"
    assert module.run_population(config, root) == ExitCode.OK
    with (root / "results.csv").open() as file:
        row = list(csv.DictReader(file))[2]
    assert (row["beta"], row["seed"]) == ("0.3", "3")
    assert float(row["reward"]) == pytest.approx(float(alone.reward[-1]), abs=1e-6)


def test_an_error_that_nobody_expected_is_one_line(tmp_path, capsys, monkeypatch):
    root = tmp_path / "p"
    axes = ["beta=0.1", "learning_rate=1", "k=2", "seed=range(3)", f"output_dir={root}"]

    def fail(config):
        raise RuntimeError("no memory\nfor 7 bytes")

    monkeypatch.setattr(module, "one_run", fail)
    assert main(["population", *axes]) == ExitCode.FAILED
    log = root / "error.log"
    line = f"rsft: error: RuntimeError: no memory for 7 bytes; traceback in {log}\n"
    assert capsys.readouterr().err == line
    assert "Traceback" in log.read_text()
    monkeypatch.undo()
    assert main(["population", *axes]) == ExitCode.OK  # the folder holds nothing else
    assert not log.exists()


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("{a:1}", "output_dir: {'a': 1} is not a text"),
        ("file/p", "file' is a file, not a folder"),
        ("/proc/p", "output_dir: '/proc/p'; cannot be"),
    ],
)
def test_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path, capsys, monkeypatch, path, part
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "run_population", None)
    assert main(["population", f"output_dir={path}"]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["beta=0.1,-1"], "beta: -1.0; must be above 0 and finite"),
        (["beta=[]"], "beta: []; must be at least one value"),
        (["beta=0.1,0.1"], "beta: [0.1, 0.1]; must be values that differ"),
        (["betta=0.1"], "betta: unknown field; did you mean beta?"),
        (["k=0,1"], "k: 0; must be from 1 to num_candidates = 8"),
        (["k=9"], "k: 9; must be from 1 to num_candidates = 8"),
        (["num_rounds=1,2"], "num_rounds: cannot be swept; axes are learning_rate"),
        (["num_answers=1"], "num_answers: 1; must be at least 2"),
        (["seed=range(1000000000)"], "seed: a range of 1000000000 values; at most 100000"),
        (["seed=range(3,3)"], "seed: []; must be at least one value"),
        (["seed=range(0,2,0)"], "seed: the step of a range must not be 0"),
        (["seed=range(0,inf)"], "seed: start, stop and step of a range must be finite"),
        (["beta=range(0,nan)"], "beta: start, stop and step of a range must be finite"),
        (["seed=range(0,1,0.5)"], "seed[0]: 0.0 is not an integer"),
        (["beta=interval(0,1)"], "beta: list the values, or use range()"),
        (["seed=range(50000)"], "population: 2000000 runs; at most 100000 allowed"),
        (["num_answers=1000000"], "make arrays of 8000000000 numbers; at most"),
        (["optimizer=adm"], "optimizer: 'adm' is not one of sgd, adam"),
        (["population=bandt"], "population: 'bandt' is not one of bandit; did you mean bandit?"),
    ],
)
def test_bad_population_is_one_line_and_writes_nothing(tmp_path, capsys, more, part):
    root = tmp_path / "p"
    assert main(["population", f"output_dir={root}", *more]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert not root.exists()
