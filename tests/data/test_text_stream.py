"""Text in pieces: whole characters only, and together the text as it is decoded at once."""

import itertools

import pytest

from rsft_jax.data.text_stream import TextStream
from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet

BYTES = Tokenizer.from_bpe([*byte_alphabet(), "<|end|>"], [], special_ids=[256])


def pieces(ids, decode=BYTES.decode):
    stream = TextStream(decode)
    return [*(stream.add(i) for i in ids), stream.end()]


@pytest.mark.parametrize("text", ["plain", "né", "日本語", "👩‍👩‍👧 ok", "a�b"])
def test_characters_come_whole_and_as_soon_as_they_are(text):
    ids = list(text.encode())
    found = pieces(ids)
    assert "".join(found) == text
    if "�" not in text:  # one that the text itself has waits for the next
        assert [p for p in found if p] == list(text)


def test_bytes_that_are_no_text_are_given_once_it_is_certain():
    for ids in (
        [0x61, 0xE2, 0x82],
        [0xFF, 0x62],
        [0xF0, 0x9F, 0x63],
        [0xE2, 0x82, 0xE2, 0x82, 0xAC],
    ):
        found = pieces(ids)
        assert "".join(found) == bytes(ids).decode(errors="replace")
        for before, piece in itertools.pairwise(found):
            assert not (before.endswith("�") and piece == "")
    assert pieces([0x61, 0xE2, 0x82]) == ["a", "", "", "�"]


def test_blanks_that_decoding_a_piece_drops_stay():
    def sentencepiece(ids):  # as its decoder: the first blank of a text is none
        return "".join({1: "▁Hello", 2: "▁world"}[i] for i in ids).replace("▁", " ").lstrip(" ")

    assert pieces([1, 2], sentencepiece) == ["Hello", " world", ""]


def test_what_was_given_out_stays_where_decoding_takes_it_back():
    def byte_fallback(ids):  # as its decoder: a run of bytes is a text, or all of it is none
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "�" * len(ids)

    smile = "😀".encode()
    assert "".join(pieces([*smile, *smile], byte_fallback)) == "😀😀"
    assert "".join(pieces([*smile, 0xF0], byte_fallback)) == "😀"
