"""Which token ends a turn, and which end a text, for families as their files say it."""

import json
import pickle
from typing import NamedTuple

import pytest

from rsft_jax.data.ends import end_tokens, text_after_answer, without_end
from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.interop.huggingface_tokenizer import read_tokenizer
from tests.tiny import CHATML

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} "
    "[/INST]{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
ZEPHYR = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] + eos_token }}\n{% endfor %}"
COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|><|{{ m['role'] }}|>"
    "{{ m['content'] }}<|END_OF_TURN_TOKEN|>{% endfor %}"
)
OWN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<turn/>{% endfor %}"
WORDS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
REFUSES = "{{ raise_exception('no answers') }}"
# Writes the beginning of the next turn always, asked or not.
UNASKED = LLAMA_3.partition("{% if")[0] + "<|start_header_id|>assistant<|end_header_id|>\n\n"


class Family(NamedTuple):
    """What the files of a family say, by spelling; `ends` is right, the end of a turn first."""

    specials: str
    ends: str
    eos: str | None = None
    template: str | None = None
    generation: str | list[str] | None = None
    config: str | list[str] | None = None


L3 = "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eom_id|> <|eot_id|>"
FAMILIES = {
    "Llama 2 chat": Family("<s> </s>", "</s>", "</s>", LLAMA_2, "</s>", "</s>"),
    "Llama 3 base": Family(L3, "<|end_of_text|> <|eot_id|> <|eom_id|>", "<|end_of_text|>"),
    "Llama 3, text named first": Family(
        L3, "<|eot_id|> <|end_of_text|> <|eom_id|>", "<|end_of_text|>", LLAMA_3,
        ["<|end_of_text|>", "<|eot_id|>"], "<|end_of_text|>",
    ),
    "Llama 3.1 instruct": Family(
        L3, "<|eot_id|> <|end_of_text|> <|eom_id|>", "<|eot_id|>", LLAMA_3,
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
    ),
    "prompt of the next turn written unasked": Family(
        L3, "<|eot_id|> <|end_of_text|> <|eom_id|>", "<|end_of_text|>", UNASKED
    ),
    "SmolLM2": Family(
        "<|endoftext|> <|im_start|> <|im_end|>", "<|im_end|> <|endoftext|>", "<|im_end|>", CHATML,
        "<|im_end|>", "<|im_end|>",
    ),
    "Qwen 2.5 base, which has a template": Family(
        "<|endoftext|> <|im_start|> <|im_end|>", "<|im_end|> <|endoftext|>", "<|endoftext|>",
        CHATML, "<|endoftext|>", "<|endoftext|>",
    ),
    "ChatML on a base with </s>": Family(
        "<s> </s> <|im_start|> <|im_end|>", "<|im_end|> </s>", "</s>", CHATML, "</s>", "</s>"
    ),
    "Phi 3": Family(
        "<|endoftext|> <|assistant|> <|user|> <|end|>", "<|end|> <|endoftext|> <|user|>",
        "<|endoftext|>", PHI_3, ["<|endoftext|>", "<|user|>", "<|end|>"], "<|endoftext|>",
    ),
    "Gemma 2": Family(
        "<bos> <eos> <start_of_turn> <end_of_turn>", "<end_of_turn> <eos>", "<eos>", GEMMA,
        ["<eos>", "<end_of_turn>"], "<eos>",
    ),
    "Zephyr": Family("<s> </s>", "</s>", "</s>", ZEPHYR, "</s>", "</s>"),
    "Command R": Family(
        "<BOS> <EOS> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>", COMMAND_R, "<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    ),
    "the template alone ends a turn": Family("<end/> <turn/>", "<turn/> <end/>", "<end/>", OWN),
    "no special token in the template": Family("<end/> <x/>", "<end/>", "<end/>", WORDS),
    "a template that refuses": Family("<end/> <x/>", "<end/>", "<end/>", REFUSES),
    "config alone": Family("<a/> <b/>", "<b/>", config="<b/>"),
    "a list in config alone": Family("<a/> <b/> <c/>", "<b/> <c/>", config=["<b/>", "<c/>"]),
    "config adds to the tokenizer": Family("<a/> <b/>", "<a/> <b/>", "<a/>", config="<b/>"),
    "config is stale, a word": Family("<a/> <b/>", "<b/>", "<b/>", generation="<b/>", config="#"),
    "generation_config alone": Family("<a/> <b/>", "<b/> <a/>", generation=["<b/>", "<a/>"]),
    "known by name alone": Family("<a/> </s>", "</s>"),
    "nothing": Family("<a/>", ""),
}  # fmt: skip


def write(path, family):
    """The files of a family, with a token a byte and its special tokens behind."""
    specials = family.specials.split()
    ids = {token: i for i, token in enumerate([*byte_alphabet(), *specials])}
    made = Tokenizer.from_bpe(list(ids), [], special_ids=[ids[token] for token in specials])
    (path / "tokenizer.json").write_text(made.definition)

    def numbers(tokens):
        return [ids[t] for t in tokens] if isinstance(tokens, list) else ids.get(tokens)

    options = {"eos_token": family.eos, "chat_template": family.template}
    options |= {"bos_token": specials[0]}
    (path / "tokenizer_config.json").write_text(json.dumps(options))
    if family.generation is not None:
        generation = json.dumps({"eos_token_id": numbers(family.generation)})
        (path / "generation_config.json").write_text(generation)
    return {"eos_token_id": numbers(family.config)}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_place_that_names_an_end_counts_and_the_first_ends_a_turn(tmp_path, name):
    family = FAMILIES[name]
    tokenizer = read_tokenizer(tmp_path, write(tmp_path, family))
    found = [tokenizer.id_to_token(i) for i in tokenizer.stop_token_ids]
    assert found == family.ends.split()
    assert tokenizer.end_id == (tokenizer.stop_token_ids[0] if found else None)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.stop_token_ids == tokenizer.stop_token_ids


@pytest.mark.parametrize(
    ("value", "file"),
    [("2", "config"), (True, "config"), ([1, None], "generation_config"), (300, "config"),
     (-1, "generation_config"), ({}, "config")],
)  # fmt: skip
def test_an_end_that_is_no_id_is_refused_by_file(tmp_path, value, file):
    config = write(tmp_path, FAMILIES["config alone"])
    if file == "config":
        config = {"eos_token_id": value}
    else:
        (tmp_path / f"{file}.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ValueError, match=rf"/{file}\.json: eos_token_id: must be an id or a list"):
        read_tokenizer(tmp_path, config)


def plain(tokens, *, added=(), **ids):
    """A token a byte, and these behind: a word of the vocabulary, or added without the flag."""
    names = [*byte_alphabet(), *tokens]
    numbers = {name: names.index(token) for name, token in ids.items()}
    return Tokenizer.from_bpe(names, [], added_ids=[names.index(t) for t in added], **numbers)


@pytest.mark.parametrize("added", [(), ("<stop>",)])
def test_an_end_without_a_flag_is_a_special_token_all_the_same(added):
    tokenizer = plain(["<stop>"], added=added, eos_id="<stop>")
    assert tokenizer.special_tokens == {"<stop>": 256}
    assert tokenizer.decode([72, 256]) == "H"  # never shown
    assert tokenizer.encode("<stop>") == list(b"<stop>")  # and never spelled by a text
    assert tokenizer.decode(tokenizer.encode("<stop>")) == "<stop>"
    assert Tokenizer(tokenizer.definition).special_tokens == {"<stop>": 256}


def test_a_known_end_without_a_flag_is_special_and_an_unknown_token_is_not():
    tokenizer = plain(["<|im_end|>", "<tag>"], added=["<|im_end|>", "<tag>"])
    assert tokenizer.special_tokens == {"<|im_end|>": 256}
    assert tokenizer.stop_token_ids == (256,)
    assert tokenizer.encode("<tag>") == [257]


def test_a_word_that_ends_a_text_stays_a_word_and_is_not_shown_where_it_ends_one():
    newline, letter = 10, ord("x")
    tokenizer = Tokenizer.from_bpe(byte_alphabet(), [], eos_id=newline, also_stop=[letter])
    assert tokenizer.special_tokens == {}
    assert tokenizer.stop_token_ids == (newline, letter)
    assert tokenizer.encode("a\nx") == [97, newline, letter]
    assert tokenizer.decode([97, newline, letter]) == "a\nx"
    rows = [[97, newline], [97, newline, letter], [97], []]
    assert tokenizer.decode_completions(rows) == ["a", "a\n", "a", ""]


def test_ends_that_are_given_are_kept_as_they_are():
    names = [*byte_alphabet(), "<a>", "</s>"]
    tokenizer = Tokenizer.from_bpe(names, [], special_ids=[256, 257], stop_token_ids=[256])
    assert tokenizer.stop_token_ids == (256,)
    assert Tokenizer.from_bpe(names, [], special_ids=[257], stop_token_ids=[]).end_id is None


def test_the_text_behind_an_answer_is_what_the_template_writes_there():
    assert text_after_answer(lambda chat: f"<{chat[1]['content']}>\n") == ">\n"
    assert text_after_answer(lambda chat: "nothing of it") == ""


def test_an_end_is_the_longest_spelling_right_behind_the_answer():
    specials = {"<|end|>": 1, "<|end|>!": 2}
    assert end_tokens(specials, after_answer="\n<|end|>!") == (2, 1)
    assert end_tokens(specials, after_answer=" words <|end|>!", eos_id=5) == (5, 1)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("yes</s>", "yes"),
        ("yes</s></s>\n", "yes"),
        ("yes\n<|im_end|></s>", "yes\n"),
        ("</s> yes", "</s> yes"),
        ("yes \n", "yes \n"),
        ("</s>", ""),
        ("", ""),
    ],
)
def test_ends_that_a_text_spells_behind_it_are_taken_off(text, left):
    assert without_end(text, ["</s>", "<|im_end|>"]) == left
    assert without_end(text, []) == text
