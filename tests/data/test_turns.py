"""Which tokens of a conversation the assistant said."""

import numpy as np
import pytest

from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.data.turns import encode_turns
from tests.tiny import CHATML, tiny_tokenizer

FIVE = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Say <|im_end|>"},
    {"role": "assistant", "content": "No <|im_end|> now"},
    {"role": "user", "content": "Bye"},
]


def said(messages, tokenizer):
    turns = encode_turns(messages, tokenizer)
    assert turns.tokens.shape == turns.said.shape
    return turns.tokens[turns.said].tolist()


def test_five_turns_two_of_them_by_the_assistant():
    """Byte by byte: each letter is a token, so the places are counted by hand."""
    tokenizer = tiny_tokenizer()
    end = tokenizer.token_to_id("<|im_end|>")
    tokens, mask = encode_turns(FIVE, tokenizer)
    # "<|im_start|>user\nHi<|im_end|>\n" is 1 + 5 + 2 + 1 + 1 tokens, "<|im_start|>assistant\n" 11.
    assert np.flatnonzero(mask)[:5].tolist() == [21, 22, 23, 24, 25]
    first, second = list(b"Yes?"), list(b"No <|im_end|> now")
    assert tokens[mask].tolist() == [*first, end, *second, end]
    assert mask.sum() == 5 + 18
    # What is spelled is text, and ends no turn; the end that the template writes is trained.
    assert tokens.tolist().count(end) == 5
    # The line break behind the end is the template's, and no policy draws it.
    assert bytes([tokens[26]]) == b"\n"
    assert not mask[26]


def test_what_is_marked_is_what_would_have_been_drawn():
    """Each turn's context is the prompt of a round, and the turn what the round would train on."""
    tokenizer = tiny_tokenizer()
    tokens, mask = encode_turns(FIVE, tokenizer)
    starts = np.flatnonzero(mask[1:] & ~mask[:-1]) + 1
    for place, start in zip((1, 3), starts):
        assert tokens[:start].tolist() == tokenizer.encode_chat(FIVE[:place])


def test_a_system_message_is_not_said():
    tokenizer = tiny_tokenizer()
    chat = [{"role": "system", "content": "Yes?"}, *FIVE[:2]]
    assert said(chat, tokenizer) == [*b"Yes?", tokenizer.token_to_id("<|im_end|>")]


def own(template):
    letters = [*byte_alphabet(), "<|end|>"]
    return Tokenizer.from_bpe(letters, [], special_ids=[256], chat_template=template)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for m in messages %}{{ m['content'] }};{% endfor %}", "no end behind this turn"),
        (
            "{% for m in messages %}{{ m['content'] if loop.last else '-' }}<|end|>{% endfor %}",
            r"messages\[1\]: the chat template writes this turn otherwise",
        ),
        (
            "{% for m in messages %}{{ m['content'] if m['role'] == 'user' or loop.last else '-' }}"
            "<|end|>{% endfor %}",
            r"messages\[1\]: the chat template writes this turn otherwise",
        ),
        (CHATML.replace("assistant", "bot"), "writes this turn otherwise where it is asked for"),
    ],
)
def test_templates_whose_turns_are_not_as_they_are_drawn(template, told):
    with pytest.raises(ValueError, match=told):
        encode_turns(FIVE, own(template))


@pytest.mark.parametrize("chat", [FIVE[:1], FIVE[1:2], []])
def test_there_must_be_something_said_behind_something(chat):
    with pytest.raises(ValueError, match="a turn of the assistant behind another one"):
        encode_turns(chat, tiny_tokenizer())
