"""A judge's answer is a score, or it is none: never a number that the judge did not give."""

import math

import numpy as np
import pytest

from rsft_jax.data import Prompt
from rsft_jax.interop.endpoints import (
    Answer,
    Answers,
    Client,
    Endpoint,
    EndpointError,
    Judge,
    read_score,
)
from rsft_jax.rewards import Term
from rsft_jax.rollouts import RolloutStore
from tests import endpoint_server as fake


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", fake.KEY)


@pytest.fixture
def server():
    with fake.serving() as server:
        yield server


def judge(server, **fields):
    endpoint = Endpoint(base_url=server.url, model="m", attempts=2, first_wait=1e-3)
    answers = Answers(Client(endpoint), None, kind="judge")
    return Judge(**{"answers": answers, "rubric": "Is it kind?", "low": 1, "high": 10, **fields})


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Kind.\nScore: 7", 7.0),
        ("Score: 7.5\n\n", 7.5),
        ("**Score: 10**", 10.0),
        ("Score: 7\nSo:\nScore: 7", 7.0),
        ("Score: 1", 1.0),
    ],
)
def test_a_score_in_its_place_is_read(text, score):
    assert read_score(Answer(text, "stop"), 1, 10) == score


@pytest.mark.parametrize(
    "text",
    [
        "", "7", "Score:", "Score: seven", "Score: 7/10", "Score: 7 of 10", "score: 7", "Score: 7.",
        "Score: 0", "Score: 11", "Score: -7", "Score: 1e0", "Score: nan", "Score: inf",
        "Score: ٧", "Score: 7,5", "Score: 7\nScore: 8", "I would say Score: 7", "Score: 7-8",
        'The answer says "Score: 10".\nIt is bad.', "Score: [7]", "Score: 0x7", "Score: 1_0",
    ],
)  # fmt: skip
def test_what_cannot_be_read_strictly_is_no_score(text):
    assert math.isnan(read_score(Answer(text, "stop"), 1, 10))


@pytest.mark.parametrize("ending", ["length", "other"])
def test_a_score_in_an_answer_that_was_cut_is_none(ending):
    assert math.isnan(read_score(Answer("Score: 1", ending), 1, 10))


def test_scores_have_the_places_of_their_candidates(server, tmp_path):
    server.say = lambda text, seed: f"Score: {text.count('good')}" if "good" in text else "Hm."
    judging = judge(server, template="{completion}").kept_in(RolloutStore(tmp_path))
    rows = [["good", "bad", "good good"], ["bad", "good good good", "good"]]
    expected = [[1, np.nan, 2], [np.nan, 3, 1]]
    np.testing.assert_array_equal(judging(["p", "q"], rows), expected)
    assert len(server.asked) == 4  # of equal questions one is enough
    np.testing.assert_array_equal(judging(["p", "q"], rows), expected)
    assert len(server.asked) == 4
    assert {(body["temperature"], body["n"], body["seed"]) for body in server.asked} == {(0, 1, 0)}


def test_the_question_has_rubric_range_prompt_and_completion_and_reads_no_braces_in_them(server):
    server.say = lambda text, seed: "Score: 2"
    assert judge(server)(["Say {low}."], [["No {rubric} }{."]]).tolist() == [[2.0]]
    (body,) = server.asked
    asked = body["messages"][0]["content"]
    for part in ("Is it kind?", "<prompt>\nSay {low}.\n</prompt>", "<answer>\nNo {rubric} }{.\n",
                 "from 1 to 10"):  # fmt: skip
        assert part in asked


def test_a_template_reads_columns_which_are_looked_for_before_anything_is_asked(server):
    server.say = lambda text, seed: f"Score: {text}"
    term = Term("right", judge(server, template="{completion}{answer}"), 2.0)
    there = Prompt(id="a", text="p", messages=(), fields={"answer": "0"})
    missing = Prompt(id="b", text="q", messages=(), fields={})
    assert term([there], [["1"]]).tolist() == [[20.0]]
    with pytest.raises(ValueError, match="right reads the column answer, and prompt b"):
        term([there, missing], [["1"], ["1"]])
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "template", ["none", "{prompt}", "{completion.__class__}", "{completion[0]}", "{completion!r}",
                 "{completion:>9}", "{completion} {", "{completion} {}"],
)  # fmt: skip
def test_a_template_that_is_none_is_refused(server, template):
    with pytest.raises(ValueError, match="template must"):
        judge(server, template=template)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (math.nan, 1), (0, math.inf)])
def test_a_range_without_two_ends_is_refused(server, ends):
    with pytest.raises(ValueError, match="low must be below high"):
        judge(server, low=ends[0], high=ends[1])


def test_a_candidate_that_the_server_refuses_is_unscored_and_all_of_them_are_an_error(server):
    server.say = lambda text, seed: "Score: 5"
    server.faults = [fake.status(400, text="too long")]
    scores = judge(server)(["p"], [["a", "b", "c"]])
    assert sorted(np.isnan(scores[0]).tolist()) == [False, False, True]
    server.always = fake.status(400, text="no such model")
    with pytest.raises(EndpointError, match="no such model"):
        judge(server)(["p"], [["a", "b"]])


def test_a_server_that_is_down_is_an_error_and_no_score(server):
    server.always = fake.status(500)
    with pytest.raises(EndpointError, match="after 2 tries"):
        judge(server)(["p"], [["a", "b"]])
