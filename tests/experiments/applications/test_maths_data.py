"""Sums: what is drawn for a seed, how it is worked out, and that no question is in two splits."""

import itertools
import json

import numpy as np
import pytest

from rsft_jax.experiments.applications.maths.prompts import (
    DIGITS,
    UNSEEN,
    Question,
    check_no_leak,
    draw_question,
    draw_questions,
    prompt_rows,
    read_levels,
    write_rows,
)
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.metrics import last_number
from rsft_jax.rewards import equations

GOLDEN = ["8-7", "1+2", "35+2", "50-4", "75+97", "89+41", "57-28+35", "52+59+28"]
GOLDEN += ["60-11+69-56", "51+57-53-21"]
SIZES = {"heldout": 10, "train": 30, "examples": 50}


@pytest.fixture(scope="module")
def questions():
    return draw_questions(0, SIZES)


def test_questions_of_a_seed_are_always_the_same():
    drawn = draw_questions(7, {"heldout": 2, "train": 1, "examples": 1})
    assert [one.text for one in drawn["heldout"]] == GOLDEN
    other = draw_questions(8, {"heldout": 2, "train": 1, "examples": 1})
    assert [one.text for one in other["heldout"]] != GOLDEN


def test_a_working_is_true_step_by_step_and_ends_with_the_answer(questions):
    for question in itertools.chain(*questions.values()):
        assert eval(question.text) == question.answer
        assert equations()(["?"], [[question.working]]) == 1
        assert last_number(question.working) == str(question.answer)
        assert question.working.count("=") == len(DIGITS[question.level]) - 1
        # What is added or taken away is what the question says, in its order.
        steps = [step.partition("=")[0] for step in question.working.split()]
        for step, number in zip(steps, question.numbers[1:]):
            assert step.endswith(f"{number:+d}")


def test_a_question_has_the_digits_of_its_level_and_no_step_below_zero(questions):
    for question in itertools.chain(*questions.values()):
        for number, digits in zip(question.numbers, DIGITS[question.level], strict=True):
            assert 10 ** (digits - 1) <= max(abs(number), 1) < 10**digits
        assert np.cumsum(question.numbers).min() >= 0
    signs = [n < 0 for q in questions["examples"] for n in q.numbers[1:]]
    assert 0.3 < np.mean(signs) < 0.55


def test_no_question_is_in_two_splits_whatever_the_order_of_its_numbers(questions):
    check_no_leak(questions)
    keys = [q.same for some in questions.values() for q in some]
    assert len(set(keys)) == len(keys)
    assert Question(1, (3, 4)).same == Question(1, (4, 3)).same != Question(1, (4, -3)).same


def test_a_planted_leak_is_seen(questions):
    stolen = questions["heldout"][-1]
    assert stolen.level == UNSEEN
    with pytest.raises(ValueError, match=f"level {UNSEEN} is in the split train"):
        check_no_leak({**questions, "train": [stolen]})
    first = next(q for q in questions["heldout"] if q.level == 4 and q.numbers[1] > 0)
    turned = Question(4, (first.numbers[1], first.numbers[0], first.numbers[2]))
    assert turned.text != first.text
    with pytest.raises(ValueError, match="is in the splits heldout and examples"):
        check_no_leak({**questions, "examples": [turned]})


def test_levels_give_what_they_have_and_the_unseen_is_held_out_alone(questions):
    counts = {
        name: [sum(q.level == level for q in some) for level in DIGITS]
        for name, some in questions.items()
    }
    assert counts == {
        "heldout": [10, 10, 10, 10, 10],
        "train": [30, 30, 30, 30, 0],
        "examples": [50, 50, 50, 50, 0],
    }
    check_no_leak(draw_questions(0, {"train": 3, "examples": 1, "heldout": 2}))
    many = draw_questions(0, {"heldout": 40, "train": 60, "examples": 100})
    of_first = [sum(q.level == 1 for q in some) for some in many.values()]
    # 55 sums of two digits and 45 differences above zero, or of equals; less 0 is plus 0.
    assert of_first == [25, 33, 42]


def test_rows_have_level_and_answer_and_no_working(questions, tmp_path):
    rows = list(prompt_rows(questions))
    assert {row["split"] for row in rows} == {"train", "heldout"}
    assert set(rows[0]) == {"id", "split", "prompt", "level", "answer"}
    assert len({row["id"] for row in rows}) == len(rows) == 170
    assert all(eval(row["prompt"][:-1]) == row["answer"] for row in rows)
    write_rows(tmp_path / "prompts.jsonl", rows)
    levels = read_levels(tmp_path / "prompts.jsonl")
    assert levels == {row["id"]: row["level"] for row in rows}
    (tmp_path / "bad.jsonl").write_text(json.dumps({"id": "x", "answer": 1}) + "\n")
    with pytest.raises(ConfigError, match="prompt x: column level must be a number"):
        read_levels(tmp_path / "bad.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_levels(tmp_path / "none.jsonl")


def test_all_questions_of_a_level_are_drawn():
    rng = np.random.default_rng(0)
    drawn = {draw_question(rng, 1).numbers for _ in range(4000)}
    sums = {(a, b) for a in range(10) for b in range(10)}
    assert drawn == sums | {(a, -b) for a in range(10) for b in range(1, a + 1)}
