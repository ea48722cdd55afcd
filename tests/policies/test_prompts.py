"""What the model is asked: conversations, templates, and prompts that end with the assistant."""

import numpy as np
import pytest

from rsft_jax.data import Prompt
from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.policies import encode_prompts
from tests.tiny import CHATML, tiny_tokenizer

U, A, S = "user", "assistant", "system"


def prompt(*talk, name="p7"):
    messages = tuple({"role": role, "content": content} for role, content in talk)
    return Prompt(id=name, text="(text)", messages=messages)


def with_template(template):
    return Tokenizer(tiny_tokenizer().definition, bos_id=257, eos_id=258, chat_template=template)


def encode(one, template, **options):
    """A prompt as text and as ids."""
    batch = encode_prompts([one], with_template(template), room=200, **options)
    ids = np.asarray(batch.tokens.tokens[0])[: batch.tokens.lengths[0]].tolist()
    return batch.rendered[0], ids


@pytest.mark.parametrize(
    ("talk", "roles"),
    [
        ([(S, "French."), (U, "Hi")], "system, user"),
        ([(U, "Hi"), (A, "Yes?"), (U, "Go on")], "user, assistant, user"),
        ([(S, "French.")], "system"),
        ([(A, "Once")], "assistant"),
    ],
)
@pytest.mark.parametrize("assistant_last", ["refuse", "continue"])
def test_chat_without_a_template_is_refused_by_name(talk, roles, assistant_last):
    with pytest.raises(ValueError, match=f"prompt p7: a chat of {roles} needs a chat template"):
        encode(prompt(*talk), None, assistant_last=assistant_last)


def test_text_without_a_template_begins_as_the_tokenizer_begins_texts():
    alphabet = [*byte_alphabet(), "<s>"]
    base = Tokenizer.from_bpe(alphabet, [], special_ids=[256], bos_id=256, add_bos=True)
    batch = encode_prompts(["Once <s>"], base, room=100)
    assert batch.rendered == ["<s>Once <s>"]
    assert batch.tokens.tokens[0, :9].tolist() == [256, *b"Once <s>"]


def banning(*texts):
    return Prompt(id="p7", text="Hi", messages=({"role": U, "content": "Hi"},),
                  fields={"never": list(texts)})  # fmt: skip


def test_a_column_says_which_tokens_are_not_drawn():
    prompts = [banning("b", "a", "b"), banning()]
    assert encode_prompts(prompts, tiny_tokenizer(), room=200).allowed_tokens(300) is None
    batch = encode_prompts(prompts, tiny_tokenizer(), room=200, banned="never")
    assert batch.banned == [(97, 98), ()]
    allowed = batch.take([1, 0, 0]).allowed_tokens(300)
    assert allowed.shape == (3, 300)
    assert [np.flatnonzero(~row).tolist() for row in allowed] == [[], [97, 98], [97, 98]]
    with pytest.raises(ValueError, match="banned must be None for candidates that a server draws"):
        batch.check_nothing_banned("a server")


@pytest.mark.parametrize(
    ("prompt_", "message"),
    [
        (banning("ab"), "prompt p7: column never: 'ab' is 2 tokens of the policy; one can"),
        (banning(""), "prompt p7: column never: '' is 0 tokens of the policy"),
        (banning(3), r"prompt p7: column never must be a list of texts, \[3\]"),
        (prompt((U, "a")), "prompt p7: column never must be a list of texts, no such column"),
    ],
)
def test_what_cannot_be_banned_is_refused_by_name(prompt_, message):
    with pytest.raises(ValueError, match=message):
        encode_prompts([prompt_], tiny_tokenizer(), room=200, banned="never")


def test_prompt_that_ends_with_the_assistant_is_refused_or_continued():
    talk = prompt((U, "Capital of Peru?"), (A, "The capital is "))
    with pytest.raises(ValueError, match=r"prompt p7: its last message is the assistant's"):
        encode(talk, CHATML)
    text, ids = encode(talk, CHATML, assistant_last="continue")
    assert text.endswith("<|im_start|>assistant\nThe capital is ")
    assert ids[-15:] == [*b"The capital is "]
    assert ids.count(257) == 2
    assert ids.count(258) == 1
    # What the message spells stays text there, too; other prompts are as they were.
    text, ids = encode(prompt((U, "a"), (A, "b<|im_end|>")), CHATML, assistant_last="continue")
    assert ids[-11:] == [*b"b<|im_end|>"]
    assert encode(prompt((U, "a")), CHATML, assistant_last="continue") == encode(
        prompt((U, "a")), CHATML
    )
    with pytest.raises(ValueError, match="assistant_last must be refuse or continue, got 'drop'"):
        encode(talk, CHATML, assistant_last="drop")


@pytest.mark.parametrize(
    ("template", "talk", "message"),
    [
        ("{{ raise_exception('users alone') }}", [(U, "a")], "the chat template failed: users"),
        ("{{ messages[-1].content }}", [(S, "French."), (U, "a")], "message 0, of the role 'sys"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            [(U, "Hi"), (A, "Yes?"), (U, "Go on")],
            "leaves out its message 1, of the role 'assistant'",
        ),
        (CHATML, [(U, "a\ud800")], "lone surrogate"),
    ],
)
def test_what_the_template_makes_of_a_chat_is_told_with_the_prompt(template, talk, message):
    with pytest.raises(ValueError, match=f"prompt odd: .*{message}"):
        encode(prompt(*talk, name="odd"), template)


def test_template_may_write_a_message_in_other_words():
    source = (
        "{% for m in messages %}{{ m.content.split('</think>')[-1] | trim | upper }}.{% endfor %}"
    )
    text, _ = encode(prompt((U, " a "), (A, "<think>b</think> c"), (U, "d")), source)
    assert text == "A.C.D."
