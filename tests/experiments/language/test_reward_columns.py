"""A reward of the user's own that reads a column of the prompts, in a whole run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rsft_jax.experiments import cli
from rsft_jax.rollouts import read_rollouts

ANSWERS = {f"{split}-{i}": "x" * (7 * i + 3) for split in ("train", "heldout") for i in range(4)}


@pytest.fixture(autouse=True)
def _mylab(monkeypatch):
    """The example package, as if it were installed; forgotten after the test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    yield
    for name in [n for n in sys.modules if n.partition(".")[0] == "mylab"]:
        del sys.modules[name]


def run(tmp_path, answers):
    rows = [
        {"id": name, "split": name.partition("-")[0], "prompt": f"Say {name}.", **answer}
        for name, answer in answers.items()
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cli.main(
        [
            "run", "experiment=smoke", f"data.path={path}", f"output_dir={tmp_path / 'run'}",
            "allow_packages=[mylab]", "reward.judge=null", "reward.offensive=null",
            "reward.mine={term: function, weight: 0.5, function: mylab.rewards.as_long_as}",
            "rounds.num_rounds=1", "rounds.prompts_per_round=4", "control=false",
            "evaluation.bootstrap_samples=20",
        ]
    )  # fmt: skip


def test_each_candidate_is_scored_by_the_answer_of_its_own_prompt(tmp_path):
    assert run(tmp_path, {name: {"answer": answer} for name, answer in ANSWERS.items()}) == 0
    parts = [*tmp_path.glob("run/rollouts/*.parquet"), *tmp_path.glob("run/evaluations/*.parquet")]
    assert len(parts) == 3
    for part in parts:
        rows = read_rollouts(part)
        assert set(rows.terms) == {"sentiment", "repetition", "length", "mine"}
        lengths = np.array([len(text) for text in rows["completion"]], float)
        wanted = np.array([len(ANSWERS[name]) for name in rows["prompt_id"]], float)
        np.testing.assert_array_equal(rows["term/mine"], 1 - abs(lengths - wanted) / wanted)
        weights = {"sentiment": 1.0, "repetition": -1.0, "length": -0.5, "mine": 0.5}
        total = sum(weight * np.asarray(rows[f"term/{name}"]) for name, weight in weights.items())
        np.testing.assert_array_equal(rows["reward"], total)
        assert np.isnan(np.asarray(rows["judge"], float)).all()


def test_a_missing_answer_is_found_before_the_policy_is_loaded(tmp_path, capsys, monkeypatch):
    def load(*_):
        raise AssertionError("the policy was loaded")

    monkeypatch.setattr("rsft_jax.experiments.language.make.load_policy", load)
    answers: dict = {name: {"answer": answer} for name, answer in ANSWERS.items()}
    answers["train-2"] = {"solution": "x"}
    assert run(tmp_path, answers) == 2
    assert (
        "data.path: reward term mine reads the column answer, and prompt train-2 does not have it; "
        "its columns: messages, solution, split"
    ) in capsys.readouterr().err.replace("\n", " ")
