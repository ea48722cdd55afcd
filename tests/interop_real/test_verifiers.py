"""The verifiers themselves: math-verify and reasoning-gym, each in a process of its own."""

import json

import numpy as np
import pytest

from rsft_jax.experiments.applications.maths import gym
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.rewards import Term, gym_answer, math_answer
from rsft_jax.rollouts import read_rollouts
from tests.experiments.smoke import run

pytestmark = pytest.mark.interop
pytest.importorskip("math_verify")
pytest.importorskip("reasoning_gym")


@pytest.mark.parametrize(
    ("right", "text", "score"),
    [
        ("1/2", r"so \boxed{0.5}", 1),
        (r"\frac{1}{2}", r"\boxed{1/2}", 1),
        ("1/2", r"\boxed{\frac{1}{3}} or \boxed{\frac{2}{4}}.", 1),
        ("1/2", r"\boxed{0.5} or \boxed{0.6}", 0),  # the last one
        ("0.333", r"\boxed{1/3}", 0),
        ("x+1", r"\boxed{1+x}", 1),
        (12, r"\boxed{12.0}", 1),
        (12, "12", 0),  # no box
        (12, r"\boxed{12", 0),
        (12, r"\boxed{}", 0),
        ("1,200", r"\boxed{1200}", 1),
    ],
)
def test_an_answer_in_a_box_is_right_where_it_is_equal(right, text, score):
    found = math_answer()(["q"], [[text, "nothing"]], answer=[right])
    np.testing.assert_array_equal(found, [[score, 0]])


def test_anywhere_is_the_last_number_that_is_found():
    found = math_answer(form="anywhere")(["q"], [["12 is what we had; then 3", "3"]], answer=["3"])
    np.testing.assert_array_equal(found, [[1, 1]])


@pytest.mark.parametrize("value", ["", None, True, [1]])
def test_an_answer_that_is_none_is_refused_before_anything_is_drawn(value):
    term = Term("right", math_answer())
    prompt = type("Row", (), {"id": "p3", "text": "q", "messages": (), "fields": {"answer": value}})
    with pytest.raises(ValueError, match="reward term right: prompt p3: column answer"):
        term.columns([prompt])


@pytest.mark.parametrize("task", ["chain_sum", "gcd", "products", "simple_equations", "countdown"])
def test_full_score_alone_counts(task):
    rows = gym.gym_rows(task, train=4, heldout=2, seed=3)
    assert [row["split"] for row in rows] == ["train"] * 4 + ["heldout"] * 2
    assert len({row["entry"]["question"] for row in rows}) == 6
    reward = gym_answer()
    for row in rows:
        right = f"I say <answer>12345</answer>, no: <answer> {row['answer']} </answer>"
        texts = [right, row["answer"], "<answer>12345</answer>", f"{right} <answer>no</answer>"]
        found = reward([""], [texts], task=[row["task"]], entry=[row["entry"]])
        np.testing.assert_array_equal(found, [[1, 0, 0, 0]])
    whole = gym_answer(form="whole")
    found = whole([""], [[rows[0]["answer"]]], task=[task], entry=[rows[0]["entry"]])
    assert found == 1


def test_partial_credit_is_there_and_is_not_passed_on():
    """What the reward is for: the verifier itself gives part of a point to a wrong answer."""
    import reasoning_gym

    (row, *_) = gym.gym_rows("products", train=1, heldout=1, seed=0)
    answer = f"{row['answer']} or so"
    score = reasoning_gym.get_score_answer_fn("products")(answer, row["entry"])
    assert 0 < score < 1
    text = [[f"<answer>{answer}</answer>"]]
    assert gym_answer()([""], text, task=["products"], entry=[row["entry"]]) == 0


def test_a_run_on_a_task(tmp_path, capsys):
    path = tmp_path / "sums.jsonl"
    arguments = ["chain_sum", "-o", str(path), "--train", "6", "--heldout", "3"]
    assert gym.main([*arguments, "--set", "max_digits=1"]) == ExitCode.OK
    assert "6 prompts to train on, 3 held out" in capsys.readouterr().out
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(
        len(word) == 1 for row in rows for word in row["entry"]["metadata"]["expression"].split()
    )
    settings = [
        "experiment=smoke", "data=jsonl", f"data.path={path}", "reward=gym_answer",
        "reward.gym_answer.form=whole", "rounds.num_rounds=1", "rounds.prompts_per_round=6",
    ]  # fmt: skip
    code, made = run(tmp_path / "run", settings=settings)
    assert code == ExitCode.OK
    drawn = read_rollouts(made.rollout_path(1, "policy"))
    assert set(np.asarray(drawn["reward"])) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_task"], "TASK: 'no_such_task'; "),
        (["chain_sum", "--train", "0"], "--train: 0; must be at least 1"),
        (["chain_sum", "--set", "max_digits"], "--set: 'max_digits'; must be NAME=VALUE"),
        (["chain_sum", "--set", "colour=1"], "TASK: 'chain_sum'; "),
        (["chain_sum", "--train", "200", "--set", "max_digits=1", "--set", "max_terms=2"],
         r"TASK: 'chain_sum'; \d+ different questions in 6,000, 300 are wanted"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_file_of_prompts_is_one_line(tmp_path, arguments, message, capsys):
    assert gym.main([*arguments, "-o", str(tmp_path / "f.jsonl")]) == ExitCode.USAGE
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(error.removeprefix("rsft: "))
    assert not (tmp_path / "f.jsonl").exists()
