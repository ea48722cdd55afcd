"""SmolLM2 against Hugging Face transformers; tests/goldens/make_goldens.py made the numbers."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.experiments.language.assets import fetch
from rsft_jax.interop import load_pretrained
from rsft_jax.models import init_cache, logits_fn

GOLDENS = json.loads((Path(__file__).parent.parent / "goldens" / "smollm2.json").read_text())
LIMIT = 1e-3


@pytest.fixture(scope="module")
def pretrained():
    try:
        path = fetch("smollm2-135m-instruct")
    except ConnectionError as error:
        pytest.skip(str(error))
    return load_pretrained(path, max_length=128)


def padded_prompts():
    rows = [prompt["ids"] for prompt in GOLDENS["prompts"]]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in zip(tokens, rows):
        row[: len(ids)] = ids
    return tokens, np.array([len(ids) for ids in rows])


def worst_difference(logits, golden):
    values = np.asarray(logits, np.float64)
    order = np.argsort(-values, kind="stable")
    assert order[:5].tolist() == golden["top_ids"][:5]
    log_sum_exp = np.log(np.sum(np.exp(values - values.max()))) + values.max()
    return max(
        np.max(np.abs(values[golden["top_ids"]] - golden["top"])),
        np.max(np.abs(values[GOLDENS["columns"]] - golden["columns"])),
        abs(log_sum_exp - golden["log_sum_exp"]),
    )


def test_smollm2_logits_agree_with_transformers(pretrained):
    tokens, _ = padded_prompts()
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    apply = jax.jit(logits_fn(pretrained.model))
    logits, _ = apply(pretrained.params, tokens, positions, None)
    worst = max(
        worst_difference(row[golden["position"]], golden)
        for row, prompt in zip(np.asarray(logits), GOLDENS["prompts"])
        for golden in prompt["positions"]
    )
    print(f"largest difference {worst:.1e}")
    assert worst < LIMIT


def test_smollm2_cached_decoding_agrees_with_transformers(pretrained):
    # All but the last three tokens of each row at once, then one at a time.
    tokens, lengths = padded_prompts()
    rows, width = tokens.shape
    prefix = lengths - 3
    columns = np.arange(width, dtype=np.int32)[None]
    cache = init_cache(pretrained.model.config, rows, width)
    apply = jax.jit(logits_fn(pretrained.model))
    positions = np.where(columns < prefix[:, None], columns, -1).astype(np.int32)
    logits, cache = apply(pretrained.params, tokens, positions, cache)
    got = [
        {g["position"]: row[g["position"]] for g in prompt["positions"] if g["position"] < cut}
        for row, prompt, cut in zip(np.asarray(logits), GOLDENS["prompts"], prefix)
    ]
    for step in range(3):
        position = (prefix + step).astype(np.int32)[:, None]
        token = np.take_along_axis(tokens, position, axis=1)
        logits, cache = apply(pretrained.params, token, jnp.asarray(position), cache)
        for found, row, place in zip(got, np.asarray(logits), position[:, 0]):
            found[int(place)] = row[0]
    worst = max(
        worst_difference(found[golden["position"]], golden)
        for found, prompt in zip(got, GOLDENS["prompts"])
        for golden in prompt["positions"]
    )
    print(f"largest difference {worst:.1e}")
    assert worst < LIMIT


def test_smollm2_tokens_agree_with_transformers(pretrained):
    tokenizer = pretrained.tokenizer
    for text in GOLDENS["texts"]:
        assert tokenizer.encode(text["text"]) == text["split_ids"]
    same = [text for text in GOLDENS["texts"] if text["ids"] == text["split_ids"]]
    assert len(same) > 8
    texts = [text["text"] for text in GOLDENS["texts"]]
    assert tokenizer.encode_batch(texts) == [t["split_ids"] for t in GOLDENS["texts"]]
    assert tokenizer.decode_batch([t["split_ids"] for t in GOLDENS["texts"]]) == texts


def test_smollm2_chats_agree_with_transformers(pretrained):
    for chat in GOLDENS["chats"]:
        options = {"add_generation_prompt": chat["add_generation_prompt"]}
        assert pretrained.tokenizer.render_chat(chat["messages"], **options) == chat["text"]
        assert pretrained.tokenizer.encode_chat(chat["messages"], **options) == chat["ids"]
    # The first chat brings no system message; the template adds its own.
    assert "You are a helpful AI assistant named SmolLM" in GOLDENS["chats"][0]["text"]


def test_smollm2_stops_at_the_end_of_a_turn_or_text(pretrained):
    tokenizer = pretrained.tokenizer
    assert [tokenizer.id_to_token(i) for i in tokenizer.stop_token_ids] == [
        "<|im_end|>",
        "<|endoftext|>",
    ]
    assert tokenizer.vocab_size == pretrained.model.config.vocab_size == 49_152
    count = sum(leaf.size for leaf in jax.tree.leaves(pretrained.params))
    assert count == 134_515_008
