"""Fingerprints: what they depend on, and that different completions differ."""

import itertools
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.selection import text_fingerprint, token_fingerprint


def of(rows, width):
    tokens = np.zeros((1, len(rows), width), np.int32)
    for i, row in enumerate(rows):
        tokens[0, i, : len(row)] = row
    return np.asarray(token_fingerprint(tokens, np.array([[len(row) for row in rows]])))[0]


def test_token_fingerprint_ignores_padding():
    rows = [[3, 1, 4], [1, 5, 9, 2], []]
    assert np.array_equal(of(rows, 4), of(rows, 9))
    tokens = jnp.array([[[3, 1, 4, 7], [3, 1, 4, -1]]])
    one, other = token_fingerprint(tokens, jnp.array([[3, 3]]))[0]
    assert one == other


def test_token_fingerprint_tells_all_short_strings_apart():
    rows = [list(row) for n in range(5) for row in itertools.product(range(7), repeat=n)]
    assert len(rows) == 2801
    assert len(np.unique(of(rows, 4))) == len(rows)  # a chance of 1e-3 to fail for a good hash


def test_token_fingerprint_collides_no_more_than_chance():
    tokens = np.random.default_rng(0).integers(0, 50_000, (1, 100_000, 6))
    lengths = np.full((1, 100_000), 6)
    distinct = len(np.unique(np.asarray(token_fingerprint(tokens, lengths))))
    assert 100_000 - distinct < 10  # 1.2 expected


def test_text_fingerprint_is_the_same_in_every_process():
    texts = [["3+4=7", "4+3=7"], [" 3+4=7\n", "é\udc80"]]
    here = text_fingerprint(texts)
    assert here.shape == (2, 2)
    assert here.dtype == np.uint32
    assert here[0, 0] == here[1, 0]
    assert len(np.unique(here)) == 3
    code = f"from rsft_jax.selection import text_fingerprint as f; print(f({texts!r}).tolist())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here.tolist())


def test_text_fingerprint_normalizes_by_what_it_is_given():
    words = text_fingerprint([["A  cat", "a cat"]], normalize=lambda s: " ".join(s.lower().split()))
    assert words[0, 0] == words[0, 1]


def test_token_fingerprint_refuses_wrong_shapes():
    with pytest.raises(AssertionError):
        token_fingerprint(np.zeros((2, 3), np.int32), np.zeros((2, 3), np.int32))
    with pytest.raises(AssertionError):
        token_fingerprint(np.zeros((2, 3, 4), np.int32), np.zeros((2, 4), np.int32))
