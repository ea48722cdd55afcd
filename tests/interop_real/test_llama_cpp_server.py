"""A real server: llama-cpp-python's, with SmolLM2, asked as a proposal."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import jax
import numpy as np
import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("llama_cpp.server.app", exc_type=ImportError)

from rsft_jax.experiments.language import assets
from rsft_jax.generation import pad_prompts
from rsft_jax.interop import load_pretrained
from rsft_jax.interop.endpoints import (
    SEED_BLOCK,
    Answers,
    Client,
    Completer,
    Endpoint,
    SamplingLaw,
)
from rsft_jax.rollouts import RolloutStore

pytestmark = pytest.mark.interop

CHAT = ({"role": "user", "content": "Name an animal."},)
DRAWS = 150


@pytest.fixture(scope="module")
def server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = assets.fetch("smollm2-135m-instruct")
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port)]
    command += ["--n_ctx", "512", "--n_threads", "2", "--verbose", "false"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            assert process.poll() is None, "the server has ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def completer(url, *, max_tokens, store=None, **law):
    os.environ.setdefault("OPENAI_API_KEY", "none")
    client = Client(Endpoint(base_url=url, model="m", concurrency=1))
    answers = Answers(client, store, kind="endpoint")
    return Completer(answers, SamplingLaw(max_tokens=max_tokens, **law), "llama_cpp", True)


def texts(found):
    return [answer.text for row in found for answer in row.answers]


def test_it_gives_one_choice_at_a_time_and_all_that_are_wanted(server, tmp_path):
    drawing = completer(server, max_tokens=12, store=RolloutStore(tmp_path))
    found = drawing.draw([CHAT], [0], 4)
    assert len(texts(found)) == 4
    assert len(set(texts(found))) > 1
    assert drawing.answers.client.budget.requests == 4  # n=4 has one choice
    assert drawing.answers.client.budget.tokens > 0
    again = completer(server, max_tokens=12)
    assert texts(again.draw([CHAT], [0], 4)) == texts(found)  # by their seeds, without the store
    assert texts(drawing.draw([CHAT], [0], 4)) == texts(found)
    assert drawing.answers.client.budget.requests == 4


def test_an_answer_that_is_cut_is_marked(server):
    (row,) = completer(server, max_tokens=2).draw([CHAT], [0], 1)
    assert row.answers[0].ending == "length"


def test_with_every_cut_off_by_name_it_draws_from_the_models_law_and_else_it_does_not(server):
    """The mean log q of one token is minus the entropy of the model, as ours computes it.

    With the server's own cuts (temperature 0.8, top-k 40, top-p 0.95, min-p 0.05) likelier tokens
    are drawn, and their raw log-probabilities are higher on average.
    """
    model, params, tokenizer = load_pretrained(assets.fetch("smollm2-135m-instruct"))[:3]
    ids = tokenizer.encode_chat(CHAT)
    prompts = pad_prompts([ids])
    variables = {"params": params}
    logits = model.apply(variables, np.asarray(prompts.tokens), np.arange(len(ids))[None])[0]
    log_p = np.asarray(jax.nn.log_softmax(logits[0, len(ids) - 1].astype(float)))
    p = np.exp(log_p)
    mean = (p * log_p).sum()
    deviation = np.sqrt((p * (log_p - mean) ** 2).sum() / DRAWS)

    found = completer(server, max_tokens=1).draw([CHAT], [SEED_BLOCK], DRAWS)
    plain = np.mean([answer.log_prob for answer in found[0].answers])
    assert abs(plain - mean) < 4 * deviation

    default = completer(server, max_tokens=1)
    options = {"max_tokens": 1, "logprobs": True, "top_logprobs": 1}  # cuts are not named
    values = []
    for seed in range(DRAWS):
        reply = default.answers.client.ask(CHAT, {**options, "seed": seed}, most_tokens=1)
        values.append(reply.answers[0].log_prob)
    assert np.mean(values) - mean > 4 * deviation
