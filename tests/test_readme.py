"""What the READMEs show is true: Python runs, commands are accepted, files are where they say."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from rsft_jax.experiments import commands
from rsft_jax.experiments.commands._stored_candidates import split_off
from rsft_jax.experiments.settings.axes import expand_sweep
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.overrides import parse_overrides
from rsft_jax.experiments.sweeps.population import load_population

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
READMES = [
    README,
    ROOT / "experiments" / "README.md",
    *sorted((ROOT / "experiments" / "applications").rglob("README.md")),
    ROOT / "rsft_jax" / "interop" / "README.md",
]
VALUED = {"-cd", "--config-dir", "--from", "-o", "--topology", "--weights"}  # a word follows


def lines_of(start):
    """The commands in all blocks, as words."""
    for path in READMES:
        for block in re.findall(r"^```\w*\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S):
            for line in block.replace("\\\n", "").splitlines():
                if line.startswith(start):
                    yield shlex.split(line, comments=True)


def settings_in(words):
    """What sets something: the words that are no option and no option's value."""
    kept = []
    for before, word in zip(["", *words], words):
        if "=" in word and not word.startswith("-") and before not in VALUED:
            kept.append(word)
    return kept


COMMANDS = [words[1:] for words in lines_of("rsft ")]


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert (names["enough"].selection.accepted.sum(axis=1) == 2).all()
    assert names["chosen"].accepted.shape == (2, 8)


def test_readme_stays_short():
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_every_verb_is_shown_and_is_there():
    shown = {words[0] for words in COMMANDS}
    assert shown <= set(commands.names())
    assert set(commands.names()) - shown <= {"completion"}


@pytest.mark.parametrize("words", COMMANDS, ids=shlex.join)
def test_settings_of_a_command_are_accepted(words, tmp_path, monkeypatch):
    """As far as can be told without running: `FOLDER` and its like are not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_configs").mkdir()
    verb, *rest = words
    settings = settings_in(rest)
    config_dir = tmp_path / "my_configs" if "-cd" in rest else None
    if verb == "population":
        load_population(settings, config_dir)
    elif verb == "tune":
        pytest.importorskip("optuna")
        from rsft_jax.experiments.sweeps.study import load_study

        load_study(settings, config_dir)
    elif verb in ("run", "reselect", "rescore"):
        if verb == "reselect":  # which is the command's own, and no setting of a run
            settings, _ = split_off(settings, "slices")
        is_sweep = any(override.is_sweep_override() for override in parse_overrides(settings))
        assert verb != "run" or is_sweep == ("-m" in rest)
        for job in expand_sweep(settings, config_dir) if is_sweep else [settings]:
            load_config(job, config_dir)
    else:
        assert not settings


def test_modules_of_commands_are_there():
    modules = [words[words.index("-m") + 1] for words in lines_of("python -m ")]
    assert modules
    for module in modules:
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_files_are_where_the_text_says(path):
    text = path.read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert link.startswith("https://") or (path.parent / link).exists(), link
    # Behind the first of a row, `policies/early_stop.py` is short for that of rsft_jax.
    for name in re.findall(r"`([a-z_]+/[\w./]+)`", text):
        places = [base / name for base in (ROOT, ROOT / "rsft_jax", path.parent)]
        assert "mine" in name or any(place.exists() for place in places), name
