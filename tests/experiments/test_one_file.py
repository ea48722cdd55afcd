"""What one file adds: a rule, a kind of experiment, a command, a format; and its YAML for `-cd`."""

import json
import sys
from pathlib import Path

import pytest

from rsft_jax.experiments import commands, kinds
from rsft_jax.experiments.cli import main
from rsft_jax.experiments.commands.completion import complete
from rsft_jax.experiments.language import exports
from rsft_jax.experiments.runs import backend
from rsft_jax.experiments.settings import rules
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.rules import SelectionConfig
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from tests.experiments.smoke import after_a_round

RULE = '''
"""The worst candidates."""

from dataclasses import dataclass
from typing import Literal

import rsft_jax.experiments.settings.checks as checks
from rsft_jax.experiments.settings.rules import SelectionConfig


@dataclass(frozen=True, kw_only=True)
class Worst(SelectionConfig):
    """Accepts what stays below a reward."""

    rule: Literal["worst"]
    below: float

    def check(self, num_candidates):
        checks.inside("selection.below", self.below, -1, 1)

    def build(self, allowed=()):
        from rsft_jax.selection import Decision, Law, make_rule

        return make_rule(
            "worst", lambda key, c, scored: Decision(scored & (c.rewards < self.below)),
            law=Law.EXACT,
        )
'''
KIND = '''
"""Coins."""

from dataclasses import dataclass
from typing import Literal

from rsft_jax.experiments.kinds import Kind
from rsft_jax.experiments.settings import checks
from rsft_jax.experiments.settings.schema import RunConfig
from rsft_jax.experiments.terminal.errors import ExitCode


@dataclass(frozen=True, kw_only=True)
class Coins(RunConfig):
    """Tosses coins."""

    ARMS = ("fair",)
    METRICS = {"heads": "round"}
    MAIN_METRIC = "heads"

    kind: Literal["coins"]
    tosses: int

    def check(self):
        super().check()
        checks.at_least("tosses", self.tosses, 1)

    def last_round(self):
        return 1


def run(config, folder):
    heads = config.tosses // 2
    folder.log({"event": "round", "round": 1, "arm": "fair", "heads": heads})
    return ExitCode.OK


KIND = Kind(settings=Coins, run=run)
'''
COMMAND = '''
"""rsft greet NAME: says hello."""

from rsft_jax.experiments.terminal.errors import ExitCode


def command(arguments):
    print("hello", *arguments)
    return ExitCode.OK
'''
_ADDED = (".worst", ".coins", ".greet", ".sized")
FORMAT = '''
"""The number of parameters, for nobody."""

import jax

from rsft_jax.experiments.language.exports import Format, Option


def write(tuned, folder):
    size = sum(leaf.size for leaf in jax.tree.leaves(tuned.params))
    (folder / "size").write_text(f"{size} {tuned.options['unit']} of {tuned.base_model}")
    return ("counted",)


FORMAT = Format(
    summary="a count", write=write, loading="`cat {folder}/size`",
    options=(Option("unit", "of the count", choices=("floats", "bytes"), default="floats"),),
)
'''


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Puts a file beside those of a package, for one test."""

    def add(package, name, source):
        folder = tmp_path / package.__name__.rpartition(".")[2]
        folder.mkdir()
        (folder / f"{name}.py").write_text(source.lstrip())
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)

    yield add
    for module in [name for name in sys.modules if name.endswith(_ADDED)]:
        del sys.modules[module]


@pytest.fixture
def options(tmp_path):
    """Writes an option of a group, and returns the arguments that find it."""

    def options(group, name, text):
        folder = tmp_path / "my_configs" / group
        folder.mkdir(parents=True)
        (folder / f"{name}.yaml").write_text(text)
        return ["-cd", str(tmp_path / "my_configs"), f"{group}={name}"]

    return options


def test_a_rule_is_one_file_and_its_values(tmp_path, add, options, capsys):
    add(rules, "worst", RULE)
    mine = options("selection", "worst", "rule: worst\nbelow: 0.5\n")
    candidates = tmp_path / "c.jsonl"
    rows = [{"prompt": "p", "completion": str(r), "reward": r} for r in (0.1, 0.4, 0.7)]
    candidates.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["reselect", str(candidates), *mine]) == ExitCode.OK
    assert "2/3" in capsys.readouterr().out
    assert main(["reselect", str(candidates), *mine, "selection.below=0.2"]) == ExitCode.OK
    assert "1/3" in capsys.readouterr().out
    assert main(["run", *mine, "--print-config"]) == ExitCode.OK
    assert "rule: worst\n  below: 0.5" in capsys.readouterr().out
    assert main(["run", *mine, "selection.below=2"]) == ExitCode.USAGE
    assert "selection.below: 2.0; must be between -1 and 1" in capsys.readouterr().err
    assert main(["run", *mine, "sampling.early_stop=true"]) == ExitCode.USAGE
    assert "worst must see all candidates" in capsys.readouterr().err
    assert complete("rsft run selection.bel") == ["selection.below="]


def test_a_kind_of_experiment_is_one_file_and_its_values(
    tmp_path, add, options, capsys, monkeypatch
):
    monkeypatch.setattr(backend, "use_compilation_cache", lambda folder: None)
    add(kinds, "coins", KIND)
    values = "# @package _global_\ndefaults: [_self_]\nkind: coins\nname: coins\ntosses: 10\n"
    mine = options("experiment", "coins", values)
    path = tmp_path / "runs" / "one"
    assert main(["run", *mine, f"output_dir={path}"]) == ExitCode.OK
    assert json.loads((path / "metrics.jsonl").read_text())["heads"] == 5
    capsys.readouterr()
    assert main(["run", "--from", str(path), "tosses=4", f"output_dir={path}2"]) == ExitCode.OK
    assert "tosses: 10 -> 4" in capsys.readouterr().err
    assert main(["run", *mine, "tosses=0"]) == ExitCode.USAGE
    assert "tosses: 0; must be at least 1" in capsys.readouterr().err
    assert main(["ls", str(tmp_path / "runs")]) == ExitCode.OK
    assert "heads 5" in capsys.readouterr().out
    for command in (["evaluate", str(path)], ["export", str(path), "-o", str(tmp_path / "x")]):
        assert main(command) == ExitCode.USAGE
        assert "only runs of kind language have a policy" in capsys.readouterr().err
    assert main(["report", str(path)]) == ExitCode.USAGE
    assert "have no report" in capsys.readouterr().err


def test_a_command_is_one_file(add, capsys):
    add(commands, "greet", COMMAND)
    assert main(["greet", "you"]) == ExitCode.OK
    assert capsys.readouterr().out == "hello you\n"
    assert main(["help"]) == ExitCode.OK
    assert "rsft greet NAME\n" in capsys.readouterr().out
    assert complete("rsft gre") == ["greet"]


def test_a_format_of_export_is_one_file(tmp_path, add, capsys):
    add(exports, "sized", FORMAT)
    path = tmp_path / "run"
    after_a_round(path, load_config(["experiment=smoke", "control=false"]))
    export = ["export", str(path), "-o", str(tmp_path / "out"), "--format", "sized"]
    assert main([*export, "--unit", "bits"]) == ExitCode.USAGE
    assert "--unit: 'bits'; with --format sized one of floats, bytes" in capsys.readouterr().err
    assert main(["export", str(path), "-o", "out", "--unit", "bytes"]) == ExitCode.USAGE
    assert "--unit: 'bytes'; --format huggingface has no such option" in capsys.readouterr().err
    assert main([*export, "--base-model", "my/model"]) == ExitCode.OK
    assert "sized: counted" in capsys.readouterr().out
    layer = 2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    size = 2 * 257 * 32 + 2 * layer + 32
    assert (tmp_path / "out" / "size").read_text() == f"{size} floats of my/model"
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["format"] == "sized"
    assert facts["options"] == {"unit": "floats"}


def test_two_variants_of_one_name_are_refused(add):
    add(rules, "worst", RULE.replace("worst", "top_k"))
    with pytest.raises(TypeError, match="both named 'top_k'"):
        SelectionConfig.variants()


def test_what_was_added_is_gone_with_its_file(options):
    mine = options("selection", "worst", "rule: worst\nbelow: 0.5\n")
    with pytest.raises(
        ConfigError, match=r"selection\.rule: 'worst' is not one of at_most, balanced"
    ):
        load_config(mine[2:], Path(mine[1]))
    assert "coins" not in kinds.kinds()
    assert "greet" not in commands.names()
