"""The table of benchmarks is whole, and its README names each command."""

import importlib
from pathlib import Path

from rsft_jax.experiments.benchmarks import __main__ as table

FOLDER = Path(str(table.__file__)).parent


def test_table_lists_every_module_with_a_main():
    runnable = [p.stem for p in FOLDER.glob("[!_]*.py") if "\ndef main(" in p.read_text()]
    assert sorted(runnable) == list(table.BENCHMARKS)


def test_readme_names_a_command_for_every_benchmark():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in table.BENCHMARKS:
        assert f"make bench ARGS={name}" in readme, name


def test_unknown_benchmark_is_named_and_nothing_runs(monkeypatch, capsys):
    monkeypatch.setattr(table.sys, "argv", ["benchmarks", "samplng"])
    monkeypatch.setattr(importlib, "import_module", lambda name: 1 / 0)
    assert table.main() == 2
    assert "unknown benchmark 'samplng'; there are: generation" in capsys.readouterr().err
