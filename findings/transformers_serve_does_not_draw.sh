#!/usr/bin/env bash
# `transformers serve`: a temperature does not make it draw, and n and logprobs are left out.
#
# Believed: an endpoint in the style of OpenAI draws at `temperature=1`, with another answer for
#   another `seed`; it gives `n` choices, and refuses a field that it does not know ("Receiving these
#   raises an error to avoid silent misbehaviour", says its source of n and logprobs).
# Seen: of a model whose generation_config.json says nothing of `do_sample` (so of every folder that
#   `save_pretrained` writes of a new model) each answer is the greedy one, whatever temperature, top_p
#   and seed are asked for; temperature 0 alone is looked at, to switch drawing off. With do_sample in
#   the folder it draws, from the 50 likeliest tokens, and a request with top_k is refused (422). n=3
#   gives one choice, logprobs=true none, each with status 200.
#   What helps: the field `generation_config`, a string of JSON, with do_sample, top_k and the rest.
# Version: transformers 5.24.0, torch 2.13.0, 2026-11-29.
# Why it matters: who draws N candidates for a prompt to choose among them (best of N, rejection
#   sampling, pass@k, self-consistency) gets one text N times, at the cost of N; or, with do_sample,
#   candidates of another law than was asked for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 "transformers[serving]==5.24.0"
cat > "$work/make.py" <<'PY'
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
bpe = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = decoders.ByteLevel()
bpe.add_special_tokens(["</s>"])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")
tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
config = LlamaConfig(
    vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, eos_token_id=256,
)
torch.manual_seed(0)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
PY
"$work/venv/bin/python" "$work/make.py" "$work/model"
cat > "$work/ask.py" <<'PY'
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

program, folder = sys.argv[1:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
command = [program, "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ask(**options):
    body = {"model": folder, "messages": [{"role": "user", "content": "Hi"}], **options}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps({"max_tokens": 8, **body}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)["choices"]
    except urllib.error.HTTPError as error:
        return error.code


def texts(**options):
    return {ask(seed=seed, **options)[0]["message"]["content"] for seed in range(6)}


try:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    hot = len(texts(temperature=2.0, top_p=1.0))
    print("texts of six seeds at temperature 2:", hot)
    named = json.dumps({"do_sample": True, "temperature": 1.0, "top_k": 0, "max_new_tokens": 8})
    drawn = len(texts(generation_config=named))
    print("texts of six seeds, do_sample in the field generation_config:", drawn)
    several = ask(n=3, logprobs=True)
    print("choices for n=3:", len(several), "; log-probabilities:", several[0].get("logprobs"))
    refused = ask(top_k=0)
    print("status for top_k:", refused)
finally:
    server.terminate()
    server.wait()
assert (hot, drawn) == (1, 6), "it has changed"
assert len(several) == 1 and several[0].get("logprobs") is None, "it has changed"
assert refused == 422, "it has changed"
PY
"$work/venv/bin/python" "$work/ask.py" "$work/venv/bin/transformers" "$work/model"
echo "as described"
