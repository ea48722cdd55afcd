"""Generates text from `rsft export --format tensorflow`, with TensorFlow and tokenizers alone.

    python serve_with_tensorflow.py FOLDER "Once upon a time" "It was"

The file needs neither JAX nor rsft_jax, and may be copied to a server as it is. Prompts of
different lengths go through the model together: what pads the shorter ones has position -1.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
from tokenizers import Tokenizer


def read(prefill, rows):
    """Takes prompts, lists of ids, into a new cache; the logits after each, and the cache."""
    specs = prefill.structured_input_signature[1]
    width = specs["tokens"].shape[1]
    logits: Any = None
    cache = {k: tf.zeros([len(rows), *s.shape[1:]]) for k, s in specs.items() if "cache" in k}
    for start in range(0, max(map(len, rows)), width):
        tokens, positions = np.zeros((len(rows), width), "i"), np.full((len(rows), width), -1, "i")
        for i, part in enumerate(row[start : start + width] for row in rows):
            tokens[i, : len(part)], positions[i, : len(part)] = part, start + np.arange(len(part))
        cache = prefill(tokens=tf.constant(tokens), positions=tf.constant(positions), **cache)
        new, is_read = cache.pop("logits"), positions.max(axis=1, keepdims=True) >= 0
        logits = new if logits is None else tf.where(is_read, new, logits)
    return logits, cache


def generate(signatures, prompts, stops, *, max_new, temperature=0.0):
    """Answers of at most `max_new` ids to prompts, the likeliest ids or drawn by temperature."""
    specs = signatures["decode"].structured_input_signature[1]
    rows = prompts + [[]] * ((specs["tokens"].shape[0] or len(prompts)) - len(prompts))
    logits, cache = read(signatures["prefill"], rows)
    lengths, answers = np.array(list(map(len, rows)), "i"), [[] for _ in prompts]
    room = specs["cache_0_value"].shape[2] - lengths.max()
    for _ in range(min(max_new, int(room))):
        greedy = tf.argmax(logits, axis=1)[:, None]
        tokens = tf.random.categorical(logits / temperature, 1) if temperature else greedy
        tokens = tf.cast(tokens, tf.int32)
        for answer, token in zip(answers, tokens.numpy()[:, 0].tolist()):
            if not (answer and answer[-1] in stops):
                answer.append(token)
        if all(answer[-1] in stops for answer in answers):
            break
        positions = tf.constant(lengths[:, None])
        cache = signatures["decode"](tokens=tokens, positions=positions, **cache)
        logits, lengths = cache.pop("logits"), lengths + 1
    return answers


def main(folder, *prompts):
    """Prints what the model says after each prompt: the likeliest words, and a draw."""
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    ends = Path(folder, "generation_config.json")
    stops = json.loads(ends.read_text())["eos_token_id"] if ends.exists() else []
    served = tf.saved_model.load(folder)  # a name for it: its variables go when it goes
    rows = [encoding.ids for encoding in tokenizer.encode_batch(prompts)]
    for temperature in (0.0, 0.8):
        answers = generate(served.signatures, rows, stops, max_new=64, temperature=temperature)
        for prompt, answer in zip(prompts, answers):
            print(f"[temperature {temperature}] {prompt}{tokenizer.decode(answer)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
