"""A real server: `transformers serve`, with a tiny folder of ours, asked as a proposal."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("uvicorn")

import jax

from rsft_jax.interop import load_pretrained, save_pretrained
from rsft_jax.interop.endpoints import Answers, Client, Completer, Endpoint, SamplingLaw
from rsft_jax.rollouts import RolloutStore
from tests.tiny import write_tiny_gguf

pytestmark = pytest.mark.interop

CHAT = ({"role": "user", "content": "Name an animal."},)
DRAWS = 200


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_pretrained(write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


@pytest.fixture(scope="module")
def server(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    save_pretrained(folder, policy.model, policy.params, policy.tokenizer)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", folder, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--device", "cpu"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(480):
            assert process.poll() is None, "the server has ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        process.wait()


def completer(server, *, store=None, **law):
    os.environ.setdefault("OPENAI_API_KEY", "none")
    url, name = server
    client = Client(Endpoint(base_url=url, model=name, concurrency=1))
    law = SamplingLaw(**{"max_tokens": 1, **law})
    return Completer(Answers(client, store, kind="endpoint"), law, "transformers")


def texts(found):
    return [answer.text for row in found for answer in row.answers]


def probabilities(policy):
    """`[V]` of the first token, as ours computes them."""
    ids = np.asarray(policy.tokenizer.encode_chat(CHAT))[None]
    places = np.arange(ids.shape[1])[None]
    logits = policy.model.apply({"params": policy.params}, ids, places)[0]
    return np.asarray(jax.nn.softmax(logits[0, -1]), float)


def test_it_gives_one_choice_at_a_time_and_all_that_are_wanted(server, tmp_path):
    drawing = completer(server, store=RolloutStore(tmp_path), max_tokens=12)
    found = drawing.draw([CHAT], [0], 4)
    assert len(set(texts(found))) == 4
    assert drawing.answers.client.budget.requests == 4  # n=4 has one choice
    assert texts(drawing.draw([CHAT], [0], 4)) == texts(found)
    assert drawing.answers.client.budget.requests == 4  # by what is kept
    assert texts(completer(server, max_tokens=12).draw([CHAT], [0], 4)) == texts(found)  # by seeds


def test_it_draws_from_the_models_law_and_not_from_the_fifty_likeliest(server, policy):
    """Unlikely letters come as often as ours says; by the server's own settings none does."""
    p = probabilities(policy)
    rank = np.argsort(np.argsort(-p))
    spelled = [policy.tokenizer.decode_completions([[i]])[0] for i in range(len(p))]
    likely = {text for text, place in zip(spelled, rank) if place < 50}
    share = sum(mass for text, mass in zip(spelled, p) if text not in likely)
    assert share > 0.1
    found = texts(completer(server).draw([CHAT], [0], DRAWS))
    seen = np.mean([text not in likely for text in found])
    assert abs(seen - share) < 4 * np.sqrt(share * (1 - share) / DRAWS)

    client = completer(server).answers.client
    for temperature in (0.2, 1.0):  # what users of other servers send
        options = {"max_tokens": 1, "temperature": temperature}
        replies = [client.ask(CHAT, {**options, "seed": s}, most_tokens=1) for s in range(8)]
        assert len({reply.answers[0].text for reply in replies}) == 1


def test_at_temperature_zero_it_gives_the_likeliest(server, policy):
    (text,) = texts(completer(server, temperature=0.0).draw([CHAT], [0], 1))
    best = int(probabilities(policy).argmax())
    assert text == policy.tokenizer.decode_completions([[best]])[0]
