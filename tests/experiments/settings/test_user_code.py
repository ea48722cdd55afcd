"""Functions of the user's own: used when allowed, and nothing else is ever imported."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language import make
from rsft_jax.experiments.runs import backend
from rsft_jax.experiments.runs.folder import close_run, open_run_folder
from rsft_jax.experiments.runs.repeat import settings_of
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.stored import read_config
from rsft_jax.experiments.settings.user_code import load_function
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.selection import stage_names

ALLOW = "allow_packages=[mylab]"
TERM = "reward.functions=[{name: brevity, function: mylab.rewards.brevity, weight: 0.5}]"


@pytest.fixture(autouse=True)
def _mylab(monkeypatch):
    """The example package, as if it were installed; forgotten after the test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    yield
    for name in [n for n in sys.modules if n.partition(".")[0] == "mylab"]:
        del sys.modules[name]


def refusal(overrides, config_dir=None):
    before = set(sys.modules)
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, config_dir)
    assert not any(name.startswith("mylab") for name in set(sys.modules) - before)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_own_reward_rule_and_model_are_used_when_their_package_is_allowed():
    config = load_config(
        [
            "experiment=smoke", ALLOW, TERM, "selection=own",
            "selection.function=mylab.rules.at_least", "selection.options={minimum: 0.5}",
            "policy=own", "policy.function=mylab.models.small",
        ]
    )  # fmt: skip
    assert not any(name.startswith("mylab") for name in sys.modules)  # nothing is imported yet
    reward = make.make_reward(config.reward, config.allow_packages)
    terms = reward.terms(["p"], [["", "x" * 100]])
    assert list(terms)[-1] == "brevity"
    np.testing.assert_allclose(terms["brevity"], [[1.0, 0.5]])
    rule = config.selection.whole(config.allow_packages)
    assert stage_names(rule) == ("threshold(0.5)",)
    assert make.load_policy(config.policy, config.allow_packages).tokenizer.vocab_size == 257


@pytest.mark.parametrize(
    "path",
    ["os.system", "posix.system", "subprocess.run", "builtins.eval", "sys.exit", "shutil.rmtree"],
)
def test_function_of_python_itself_is_refused_even_when_allowed(path):
    package = path.partition(".")[0]
    text = refusal(["selection=own", f"selection.function={path}"])
    assert text.startswith(f"selection.function: '{path}'; {package} belongs to Python itself")
    text = refusal(["selection=own", f"selection.function={path}", f"allow_packages=[{package}]"])
    assert "belongs to Python itself" in text


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ([TERM], "reward.brevity.function: 'mylab.rewards.brevity'"),
        (["policy=own", "policy.function=mylab.models.small"], "policy.function: 'mylab."),
        (["selection=own", "selection.function=mylab.rules.at_least"], "selection.function: 'my"),
    ],
)
def test_package_that_is_not_allowed_is_refused_with_the_way_to_allow_it(overrides, field):
    text = refusal(overrides)
    assert text.startswith(field)
    assert text.endswith("to run its code, add allow_packages=[mylab] to the command")
    assert "add allow_packages=[numpy,mylab]" in refusal([*overrides, "allow_packages=[numpy]"])


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("mylab.os.system", "module mylab.os cannot be imported"),
        ("mylab.rewards.os.system", "module mylab.rewards.os cannot be imported"),
        (
            "mylab.rewards.system",
            "is no function of mylab.rewards; functions there: as_long_as",
        ),
        ("mylab.rewards.not_a_function", "is no function of mylab.rewards"),
        ("mylab.rewards.brevit", "functions there: as_long_as, brevity"),
        ("mylab.models.random_policy", "was not written in mylab but in rsft_jax"),
        ("mylab.none.f", "module mylab.none cannot be imported (ModuleNotFoundError"),
        ("mylab", "must be PACKAGE.MODULE.FUNCTION"),
        ("mylab.rewards.__builtins__.eval", "must be PACKAGE.MODULE.FUNCTION"),
        ("mylab..rewards.brevity", "must be PACKAGE.MODULE.FUNCTION"),
        ("mylab.rewards.brevity()", "must be PACKAGE.MODULE.FUNCTION"),
        ("../mylab.rewards.brevity", "must be PACKAGE.MODULE.FUNCTION"),
        ("mylab_evil.rewards.brevity", "its package is not allowed"),
    ],
)
def test_path_that_leaves_the_package_or_names_no_function_is_refused(path, part):
    with pytest.raises(ConfigError) as caught:
        load_function(path, ["mylab"], "reward.brevity.function")
    assert part in str(caught.value)
    assert str(caught.value).startswith("reward.brevity.function: ")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("_target_: os.system\n", "_target_: not allowed"),
        ("a: {b: {_target_: os.system}}\n", "_target_: not allowed"),
        ("functions: [{_target_: os.system}]\n", "_target_: not allowed"),
        ("functions: [[{_partial_: true}]]\n", "_partial_: not allowed"),
        ("judge: ${oc.env:HOME}\n", "is not allowed"),
        ("functions: [{name: '${oc.env:HOME}'}]\n", "is not allowed"),
        ("functions: [{'${oc.env:HOME}': 1}]\n", "is not allowed"),
        ("judge: ${oc.create:{_target_:os.system}}\n", "is not allowed"),
        ("judge: !!python/object/apply:os.system [id]\n", "YAML tag"),
        ("judge: !!python/name:os.system\n", "YAML tag"),
    ],
)
def test_config_that_names_code_in_other_ways_is_refused(tmp_path, content, part):
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "mine.yaml").write_text(f"defaults: [sentiment, _self_]\n{content}")
    assert part in refusal(["reward=mine"], tmp_path)


@pytest.mark.parametrize("text", ["# @package _global_\nallow_packages: [mylab]\n"])
def test_no_file_can_allow_anything(tmp_path, text):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        text.replace("\n", "\ndefaults: [smoke, _self_]\n", 1)
    )
    assert "allow_packages: ['mylab']; is for the command line alone" in refusal(
        ["experiment=mine"], tmp_path
    )


def test_hydra_node_of_a_users_file_starts_nothing(tmp_path, capfd):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [smoke, _self_]\nhydra:\n  callbacks:\n    x:\n"
        "      _target_: os.system\n      command: echo pwned\n"
    )
    with contextlib.suppress(ConfigError):
        load_config(["experiment=mine"], tmp_path)
    assert "pwned" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["a.b", "", "../x", "my-lab", "_x", "os"])
def test_name_that_is_no_package_cannot_be_allowed(name):
    assert refusal([f"allow_packages=['{name}']"]).startswith("allow_packages: ")


def test_stored_settings_are_a_record_and_no_permission(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(backend, "use_compilation_cache", lambda folder: None)
    config = load_config(["experiment=smoke", ALLOW, TERM])
    with open_run_folder(tmp_path / "run", config, resume=False) as folder:
        close_run(folder, "interrupted")
    assert "mylab" in (tmp_path / "run" / "config.yaml").read_text()
    assert read_config(tmp_path / "run" / "config.yaml").allow_packages == ()
    with pytest.raises(ConfigError, match=r"add allow_packages=\[mylab\]"):
        settings_of(tmp_path / "run", [])
    assert settings_of(tmp_path / "run", [ALLOW])[0].allow_packages == ("mylab",)
    assert main(["run", f"output_dir={tmp_path / 'run'}", "resume=true"]) == ExitCode.USAGE
    assert "add allow_packages=[mylab] to the command" in capsys.readouterr().err


def test_function_that_makes_no_rule_or_fails_is_one_line():
    config = load_config(["selection=own", "selection.function=mylab.rules.broken", ALLOW])
    with pytest.raises(ConfigError, match="must return a SelectionRule, got int"):
        config.selection.whole(["mylab"])
    config = load_config(
        ["selection=own", "selection.function=mylab.rules.at_least", ALLOW,
         "selection.options={minimun: 1}"]
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"at_least failed \(TypeError"):
        config.selection.whole(["mylab"])


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("reward.functions=[{name: length, function: a.b, weight: 1}]", "functions[0].name"),
        ("reward.functions=[{name: a/b, function: a.b, weight: 1}]", "functions[0].name"),
        ("reward.functions=[{name: x, function: a.b, weight: nan}]", "functions[0].weight: nan"),
        ("reward.functions=[{name: x, function: a.b}]", "functions[0].weight: missing"),
        ("reward.functions=[{nam: x}]", "did you mean reward.functions[0].name?"),
        ("reward.functions=3", "is not a list"),
    ],
)
def test_malformed_terms_are_refused(override, part):
    assert part in refusal([override])


def test_options_are_single_values():
    text = refusal(["selection=own", "selection.function=a.b", "selection.options={x: [1]}"])
    assert text.startswith("selection.options.x: [1] is not a single value")


def test_stored_candidates_are_judged_by_own_rules(tmp_path, capsys):
    path = tmp_path / "c.jsonl"
    path.write_text('{"prompt": "p", "completion": "c", "reward": 0.7}\n')
    rule = ["selection=own", "selection.function=mylab.rules.at_least",
            "selection.options={minimum: 0.5}"]  # fmt: skip
    assert main(["reselect", str(path), *rule]) == ExitCode.USAGE
    assert "add allow_packages=[mylab] to the command" in capsys.readouterr().err
    assert main(["reselect", str(path), *rule, ALLOW]) == 0
    assert "1/1" in capsys.readouterr().out
