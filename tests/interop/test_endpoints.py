"""Requests to a server that fails in every way that real ones do: nothing wrong gets through."""

import json
import logging
import math
import threading
import time

import numpy as np
import pytest

from rsft_jax.interop.endpoints import (
    SEED_BLOCK,
    Answer,
    Answers,
    BadReply,
    Budget,
    BudgetSpent,
    Client,
    Completer,
    Endpoint,
    EndpointError,
    Question,
    RequestRefused,
    SamplingLaw,
    first_seed,
    read_reply,
)
from rsft_jax.rollouts import RolloutStore
from tests import endpoint_server as fake

CHAT = ({"role": "user", "content": "Tell me."},)
LAW = SamplingLaw(max_tokens=16)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", fake.KEY)


@pytest.fixture
def server():
    with fake.serving() as server:
        yield server


class Sleeps(list):
    """Waits that are not waited for."""

    def __call__(self, seconds):
        self.append(seconds)


def client(server, sleep=None, budget=None, **fields):
    fields = {"timeout": 5.0, "attempts": 3, "first_wait": 1.0, **fields}
    endpoint = Endpoint(base_url=server.url, model="m", **fields)
    return Client(endpoint, budget, sleep=Sleeps() if sleep is None else sleep)


def ask(client, **options):
    return client.ask(CHAT, {"n": 1, "seed": 4, **options}, most_tokens=16)


def completer(server, store=None, law=LAW, server_kind="vllm", log_probs=True, **fields):
    answers = Answers(client(server, **fields), store, kind="endpoint")
    return Completer(answers, law, server_kind, log_probs)


def texts(answered):
    return [[answer.text for answer in row.answers] for row in answered]


# What is sent.


def test_a_request_has_model_chat_options_and_the_key_of_the_environment(server):
    reply = ask(client(server), temperature=0.5)
    assert reply.answers == (Answer("word 4", "stop"),)
    assert reply.tokens == 12
    (body,) = server.asked
    assert body == {
        "model": "m", "messages": list(CHAT), "n": 1, "seed": 4, "temperature": 0.5,
    }  # fmt: skip
    assert server.headers[0]["authorization"] == f"Bearer {fake.KEY}"


def test_without_a_key_nothing_is_sent(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is not set"):
        client(server).check()
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    ["ftp://h/v1", "h/v1", "http://u:p@h/v1", "http://h/v1?key=1", "http://h/v1#a", "http://h:x/"],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ValueError, match="base_url must be") as caught:
        Endpoint(base_url=url, model="m")
    assert url not in str(caught.value)


# What is sent again.

TRANSIENT = {
    "429": fake.status(429),
    "500": fake.status(500),
    "503 in words": fake.says(b"down", "text/plain"),
    "408": fake.status(408),
    "cut body": fake.cut,
    "closed": fake.drop,
    "HTML": fake.says(b"<html>hello</html>", "text/html"),
    "no JSON": fake.says(b"{nope"),
    "a list": fake.says([]),
    "an empty object": fake.says({}),
    "no choices": fake.says({"choices": []}),
    "choices of another type": fake.says({"choices": {"0": 1}}),
    "no message": fake.says({"choices": [{"finish_reason": "stop"}]}),
    "content of another type": fake.choice(message={"content": 7}),
    "content in parts": fake.choice(message={"content": [{"type": "text", "text": "a"}]}),
    "no reason": fake.choice(finish_reason=None),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_try_that_fails_is_repeated_and_the_answer_is_whole(server, name):
    server.faults = [TRANSIENT[name], TRANSIENT[name]]
    sleep = Sleeps()
    assert ask(client(server, sleep)).answers[0].text == "word 4"
    assert len(server.asked) == 3
    assert 0.5 <= sleep[0] <= 1 <= sleep[1] <= 2


@pytest.mark.parametrize("name", TRANSIENT)
def test_tries_are_bounded_and_counted(server, name):
    server.always = TRANSIENT[name]
    asking = client(server)
    with pytest.raises(EndpointError, match=r"^m at http://127\.0.*; after 3 tries$"):
        ask(asking)
    assert len(server.asked) == asking.budget.requests == 3


@pytest.mark.parametrize("fault", [fake.hang, fake.drip])
def test_a_server_that_hangs_or_drips_is_timed_out(server, fault):
    server.faults = [fault]
    start = time.monotonic()
    assert ask(client(server, timeout=0.4)).answers[0].text == "word 4"
    assert time.monotonic() - start < 3
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry_after": "7"}, 7.0), ({"retry_after_ms": "250", "retry_after": "9"}, 0.25)],
)
def test_retry_after_is_honoured(server, headers, seconds):
    server.faults = [fake.status(429, **headers), fake.status(503, **headers)]
    sleep = Sleeps()
    ask(client(server, sleep))
    assert sleep == [seconds] * 2


def test_the_wait_is_really_waited(server):
    server.faults = [fake.status(429, retry_after="0.3")]
    ask(client(server, time.sleep))
    assert server.times[1] - server.times[0] >= 0.3


def test_a_longer_wait_than_allowed_ends_it_at_once(server):
    server.faults = [fake.status(429, retry_after="3600")]
    with pytest.raises(EndpointError, match="asks to wait 3600 s, more than longest_wait = 60"):
        ask(client(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (fake.status(400), RequestRefused),
        (fake.status(401), EndpointError),
        (fake.status(404), EndpointError),
        (fake.status(400, x_should_retry="true"), RequestRefused),
        (fake.status(429, code_word="insufficient_quota"), EndpointError),
    ],
)
def test_what_no_repetition_can_help_is_asked_once(server, fault, error):
    server.faults = [fault]
    with pytest.raises(error, match="status 4"):
        ask(client(server))
    assert len(server.asked) == 1


# What is read.


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "content_filter"}, "other"),
        ({"finish_reason": "tool_calls", "message": {"content": None}}, "other"),
        ({"message": {"content": None}}, "other"),
        ({"message": {"content": "\ud800"}}, "other"),
        ({"message": {"content": ""}}, "stop"),
    ],
)
def test_how_an_answer_ended(server, fields, ending):
    server.faults = [fake.choice(**fields)]
    assert ask(client(server)).answers[0].ending == ending


def body(log_probs):
    content = [{"token": "a", "logprob": value} for value in log_probs]
    choice = {"message": {"content": "aa"}, "finish_reason": "stop"}
    return json.dumps({"choices": [{**choice, "logprobs": {"content": content}}]})


def test_log_probabilities_add_up():
    assert read_reply(body([-0.25, -1.5])).answers[0].log_prob == -1.75


@pytest.mark.parametrize("wrong", [None, "-1", True, math.nan, -math.inf, 0.5, -9999.0])
def test_a_log_probability_that_is_none_makes_the_sum_unknown(wrong):
    assert math.isnan(read_reply(body([-0.25, wrong])).answers[0].log_prob)


@pytest.mark.parametrize("log_probs", [None, {}, {"content": None}, {"content": []}, [], "x"])
def test_missing_log_probabilities_are_unknown(log_probs):
    choice = {"message": {"content": "a"}, "finish_reason": "stop", "logprobs": log_probs}
    assert math.isnan(read_reply(json.dumps({"choices": [choice]})).answers[0].log_prob)


def test_a_body_of_brackets_is_refused_and_not_a_crash():
    with pytest.raises(BadReply):
        read_reply("[" * 100_000)


# The cap.


def test_the_cap_on_requests_counts_every_try(server):
    server.always = fake.status(500)
    with pytest.raises(BudgetSpent, match="max_requests: all 2 are spent"):
        ask(client(server, budget=Budget(max_requests=2)))
    assert len(server.asked) == 2


def test_the_cap_on_tokens_counts_what_the_server_says_and_what_it_does_not(server):
    budget = Budget()
    asking = client(server, budget=budget)
    ask(asking)
    assert budget.tokens == 12
    server.faults = [fake.status(500)]  # refused by its status: nothing was drawn
    ask(asking)
    assert budget.tokens == 24
    server.faults = [fake.cut]  # drawn, perhaps, and lost: all that was reserved
    ask(asking)
    assert budget.tokens == 24 + 12 + (16 + 8 + 16)
    assert budget.requests == 5


def test_the_cap_on_tokens_is_not_exceeded_by_many_at_once(server):
    server.say = lambda text, seed: "w " * 15 + "w"  # 10 + 16 tokens, of 16 + 8 + 16 reserved
    server.delay = 0.02
    budget = Budget(max_total_tokens=26 * 4 + 39)
    asking = client(server, budget=budget)
    spent = []

    def work():
        try:
            ask(asking)
        except BudgetSpent as error:
            spent.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (budget.requests, budget.tokens, len(spent)) == (4, 26 * 4, 4)


# Candidates.


def test_candidate_k_has_seed_s_plus_k_however_few_come_at_once(server):
    chats, seeds = [CHAT] * 2, [0, SEED_BLOCK]
    whole = completer(server).draw(chats, seeds, 4)
    assert texts(whole) == [[f"word {s + k}" for k in range(4)] for s in seeds]
    assert [body["n"] for body in server.asked] == [4, 4]
    for most in (1, 3):
        server.most, server.asked = most, []
        assert completer(server).draw(chats, seeds, 4) == whole
        assert {body["seed"] + body["n"] for body in server.asked} == {4, SEED_BLOCK + 4}


def test_more_choices_than_asked_are_left(server, tmp_path):
    data = {"choices": [{"message": {"content": str(i)}, "finish_reason": "stop"} for i in "abc"]}
    server.faults = [fake.says(data)]
    store = RolloutStore(tmp_path)
    assert texts(completer(server, store).draw([CHAT], [0], 2)) == [["a", "b"]]
    assert store.read()["completion"] == ["a", "b"]  # the third is of no seed that is known


def test_blocks_of_seeds_do_not_overlap():
    seeds = np.array([first_seed(key, place) for key in "ab" for place in range(50)])
    assert len(set(seeds)) == 100
    assert (seeds % SEED_BLOCK == 0).all()
    assert (seeds + SEED_BLOCK <= 2**31).all()
    assert seeds.min() >= 0


def test_every_cut_is_off_by_its_name():
    assert LAW.options("vllm") == {
        "max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
        "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0,
    }  # fmt: skip
    assert LAW.options("openai") == {
        "max_completion_tokens": 16, "temperature": 1.0, "top_p": 1.0, "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
    }  # fmt: skip
    llama = LAW.options("llama_cpp")
    assert (llama["top_k"], llama["min_p"], llama["repeat_penalty"]) == (0, 0.0, 1.0)


def test_transformers_is_told_to_draw_in_one_field(server):
    options = SamplingLaw(max_tokens=16, top_k=5, stop=("\n",)).options("transformers")
    assert options.keys() == {"generation_config", "stop"}
    packed = {
        "do_sample": True, "temperature": 1.0, "top_k": 5, "top_p": 1.0, "min_p": 0.0,
        "typical_p": 1.0, "repetition_penalty": 1.0, "max_new_tokens": 16,
    }  # fmt: skip
    assert json.loads(options["generation_config"]) == packed
    greedy = SamplingLaw(max_tokens=16, temperature=0.0).options("transformers")
    greedy = json.loads(greedy["generation_config"])
    assert (greedy["do_sample"], greedy["temperature"]) == (False, 1.0)
    with pytest.raises(ValueError, match=r"^log_probs must be false .* transformers .*, got true$"):
        completer(server, server_kind="transformers")


@pytest.mark.parametrize(
    "cut",
    [{"temperature": 0.8}, {"top_k": 40}, {"top_p": 0.95}, {"min_p": 0.05},
     {"repetition_penalty": 1.1}],
)  # fmt: skip
def test_log_q_is_known_of_the_plain_law_alone(server, cut):
    known = completer(server, law=SamplingLaw(max_tokens=16, stop=("\n",)))
    assert known.log_prob_known
    (row,) = known.draw([CHAT], [0], 1)
    assert row.answers[0].log_prob == -0.5 * 4 - 0.5 * 1  # "word", "0"
    completer(server, server_kind="llama_cpp").draw([CHAT], [0], 1)
    assert [body.get("top_logprobs") for body in server.asked] == [None, 1]
    cutting = completer(server, law=SamplingLaw(max_tokens=16, **cut))
    assert not cutting.log_prob_known
    (row,) = cutting.draw([CHAT], [0], 1)
    assert math.isnan(row.answers[0].log_prob)


def test_a_prompt_that_is_refused_has_no_answers_and_the_others_have(server):
    def say(text, seed):
        return {"text": text}

    server.say = say
    chats = [({"role": "user", "content": str(i)},) for i in range(3)]
    server.faults = [fake.status(400, text="too long")]
    found = completer(server, concurrency=1).draw(chats, [0, 1024, 2048], 2)
    assert texts(found) == [[], ["1", "1"], ["2", "2"]]
    assert "too long" in found[0].refused


def test_requests_run_at_the_same_time_and_no_more_than_allowed(server):
    server.delay = 0.05
    completer(server, concurrency=3).draw([CHAT] * 9, [SEED_BLOCK * i for i in range(9)], 1)
    assert server.most_at_once == 3


# What is kept.


def test_a_rerun_asks_nothing(server, tmp_path):
    store = RolloutStore(tmp_path)
    first = completer(server, store).draw([CHAT] * 2, [0, SEED_BLOCK], 3)
    count = len(server.asked)
    again = completer(server, RolloutStore(tmp_path)).draw([CHAT] * 2, [0, SEED_BLOCK], 3)
    assert again == first
    fewer = completer(server, RolloutStore(tmp_path)).draw([CHAT] * 2, [0, SEED_BLOCK], 2)
    assert texts(fewer) == [row[:2] for row in texts(first)]
    assert len(server.asked) == count
    more = completer(server, RolloutStore(tmp_path)).draw([CHAT], [0], 5)
    assert texts(more) == [[f"word {k}" for k in range(5)]]
    assert server.asked[count:][0]["n"] == 2  # what is missing, no more


@pytest.mark.parametrize(
    "other",
    [{"law": SamplingLaw(max_tokens=17)}, {"law": SamplingLaw(max_tokens=16, top_k=3)},
     {"log_probs": False}],
)  # fmt: skip
def test_another_law_is_asked_anew(server, tmp_path, other):
    completer(server, RolloutStore(tmp_path)).draw([CHAT], [0], 1)
    completer(server, RolloutStore(tmp_path), **other).draw([CHAT], [0], 1)
    completer(server, RolloutStore(tmp_path)).draw([CHAT], [SEED_BLOCK], 1)
    said = ({"role": "system", "content": "Tell me."},)
    completer(server, RolloutStore(tmp_path)).draw([said], [0], 1)
    assert len(server.asked) == 4


def test_endings_and_log_probabilities_are_kept(server, tmp_path):
    server.say = lambda text, seed: [
        {"text": "a b"}, {"text": "a", "finish_reason": "length"},
        {"text": "a", "finish_reason": "content_filter"},
        {"text": "a", "logprobs": {"content": []}},
    ][seed]  # fmt: skip
    first = completer(server, RolloutStore(tmp_path)).draw([CHAT], [0], 4)
    again = completer(server, RolloutStore(tmp_path)).draw([CHAT], [0], 4)
    np.testing.assert_equal(again, first)
    assert [a.ending for a in again[0].answers] == ["stop", "length", "other", "stop"]
    assert [a.log_prob for a in again[0].answers[:2]] == [-1.0, -0.5]
    assert math.isnan(again[0].answers[3].log_prob)


def test_what_was_answered_before_a_failure_is_kept_and_the_rest_goes_on(server, tmp_path):
    chats = [({"role": "user", "content": str(i)},) for i in range(6)]
    seeds = [SEED_BLOCK * i for i in range(6)]
    server.most = 2
    with pytest.raises(BudgetSpent):
        completer(
            server, RolloutStore(tmp_path), concurrency=2, budget=Budget(max_requests=7)
        ).draw(chats, seeds, 4)
    assert len(server.asked) == 7
    found = completer(server, RolloutStore(tmp_path)).draw(chats, seeds, 4)
    assert texts(found) == [[f"word {s + k}" for k in range(4)] for s in seeds]
    assert len(server.asked) == 12  # 24 answers, two at a time: none was asked for twice


def test_equal_questions_are_asked_once(server):
    answers = Answers(client(server), None, kind="judge")
    questions = [Question(CHAT, {}, 0, num, 9) for num in (1, 3, 2)]
    assert [len(found.answers) for found in answers.of(questions)] == [1, 3, 2]
    assert len(server.asked) == 1


# The key.


def test_the_key_is_nowhere(server, tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    said = f"Incorrect key {fake.KEY} given"
    for fault in (fake.status(401, text=said), fake.status(400, text=said),
                  fake.says(said.encode(), "text/html")):  # fmt: skip
        server.always = fault
        with pytest.raises(EndpointError) as caught:
            ask(client(server, attempts=1))
        assert "***" in str(caught.value)
        assert fake.KEY not in str(caught.value) + repr(caught.getrepr(chain=True))
    server.always, server.say = None, lambda text, seed: f"my key is {fake.KEY}"
    found = completer(server, RolloutStore(tmp_path)).draw([CHAT], [0], 1)
    assert texts(found) == [["my key is ***"]]
    captured = capsys.readouterr()
    stored = repr(RolloutStore(tmp_path).read().columns)
    assert "my key is" in stored
    assert fake.KEY not in caplog.text + captured.out + captured.err + stored


def test_a_key_that_is_a_placeholder_takes_no_word_from_a_text(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    assert ask(client(server)).answers[0].text == "word 4"
