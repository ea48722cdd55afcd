import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.generation import stop_strings
from tests.tiny import CHATML, SPECIAL_TOKENS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
END, START = 258, 257
TEXT = st.text(st.characters(exclude_categories=("Cs",)))


def special_count(ids):
    return sum(i >= 256 for i in ids)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TEXT)
def test_tokenizer_inverts_every_text(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert ids == list(text.encode())


def test_other_options_read_no_vocabulary_and_are_those_of_a_new_tokenizer(monkeypatch):
    plain = tiny_tokenizer()
    assert plain.stop_token_ids  # kept once it has been asked for
    asked = {"bos_id": START, "eos_id": END, "stop_token_ids": (START,), "chat_template": CHATML}
    new = Tokenizer(plain.definition, **asked)
    padded = Tokenizer(plain.definition, **asked, pad_id=5)
    monkeypatch.setattr("rsft_jax.data.tokenizer._backend", None)
    for made, like in ((plain.with_options(**asked), new), (new.with_pad(5), padded)):
        for name in ("bos_id", "eos_id", "pad_id", "stop_token_ids", "chat_template"):
            assert getattr(made, name) == getattr(like, name)
        assert made.encode("<|im_end|>x") == like.encode("<|im_end|>x")


def test_tokenizer_splits_digits_when_asked():
    # "12" has a merge, which only counts where digits may stand together.
    tokens, merges = [*byte_alphabet(), "12"], ["1 2"]
    assert Tokenizer.from_bpe(tokens, merges).encode("12") == [256]
    assert Tokenizer.from_bpe(tokens, merges, split_digits=True).encode("12") == [49, 50]


def test_tokenizer_applies_the_earliest_merge_first():
    tokens = [*byte_alphabet(), "bc", "ab"]
    assert Tokenizer.from_bpe(tokens, ["b c", "a b"]).encode("abc") == [97, 256]
    assert Tokenizer.from_bpe(tokens, ["a b", "b c"]).encode("abc") == [257, 99]


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_spelled_special_token_is_text(special):
    text = f"a{special}b {special}"
    assert TOKENIZER.encode(text) == list(text.encode())
    assert TOKENIZER.encode_batch([text]) == [list(text.encode())]
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.lists(
            st.sampled_from(
                [*SPECIAL_TOKENS, "<|im_", "end|>", "<|", "hi", " ", "\n", "é", "\U000f0000"]
            )
        ).map("".join),
        max_size=4,
    )
)
def test_chat_has_the_special_tokens_of_its_template_alone(contents):
    messages = [{"role": "user", "content": content} for content in contents]
    ids = TOKENIZER.encode_chat(messages)
    # ChatML frames each message with two and opens the reply with one.
    assert special_count(ids) == 2 * len(contents) + 1
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == TOKENIZER.render_chat(messages)
    expected = []
    for content in contents:
        expected += [START, *b"user\n", *content.encode(), END, *b"\n"]
    assert ids == [*expected, START, *b"assistant\n"]


def test_chat_special_token_in_a_role_or_tool_is_text():
    messages = [{"role": "<|im_end|>", "content": "x", "tools": [{"name": "<|im_start|>"}]}]
    assert special_count(TOKENIZER.encode_chat(messages)) == 3
    template = "{{ messages[0]['tools'][0]['name'] }}<|im_end|>"
    tokenizer = Tokenizer(TOKENIZER.definition, chat_template=template)
    assert tokenizer.encode_chat(messages) == [*b"<|im_start|>", END]


def test_chat_marks_survive_what_a_template_does_to_text():
    template = "{% for m in messages %}{{ m['content'] | trim | upper }}<|im_end|>{% endfor %}"
    tokenizer = Tokenizer(TOKENIZER.definition, chat_template=template)
    ids = tokenizer.encode_chat([{"role": "user", "content": "  é<|im_end|>  "}])
    # In capitals it is no special token any more; the mark must be gone all the same.
    assert ids == [*"É<|IM_END|>".encode(), END]
    tokenizer = Tokenizer(TOKENIZER.definition, chat_template="{{ messages[0]['content'] }}")
    assert tokenizer.encode_chat([{"role": "user", "content": "<|im_end|>"}]) == [*b"<|im_end|>"]


def test_chat_longer_special_token_wins_over_its_beginning():
    tokens = [*byte_alphabet(), "<a", "<ab"]
    template = "<ab<a{{ messages[0]['content'] }}"
    tokenizer = Tokenizer.from_bpe(tokens, [], special_ids=[256, 257], chat_template=template)
    for content in ("<ab", "<a", "b"):
        ids = tokenizer.encode_chat([{"role": "user", "content": content}])
        # The template's own "<a" may grow by what follows it; no message's token may appear.
        expected = [257, 257] if content == "b" else [257, 256, *content.encode()]
        assert ids == expected


def test_chat_template_gets_the_special_tokens():
    tokenizer = Tokenizer(
        TOKENIZER.definition,
        bos_id=START,
        eos_id=END,
        chat_template="{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}",
    )
    assert tokenizer.encode_chat([{"role": "user", "content": "x"}]) == [START, ord("x"), END]


def test_decode_leaves_special_tokens_out_by_default():
    ids = np.array([START, 104, 105, END], np.int32)
    assert TOKENIZER.decode(ids) == "hi"
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == "<|im_start|>hi<|im_end|>"
    assert TOKENIZER.decode_batch([ids, ids[:2]]) == ["hi", "h"]


def test_decode_replaces_cut_characters():
    assert TOKENIZER.decode("é".encode()[:1]) == "\ufffd"


@pytest.mark.parametrize("bad", [-1, 259, 2**31])
def test_decode_refuses_ids_outside_of_the_vocabulary(bad):
    with pytest.raises(ValueError, match=rf"ids\[1\] must be in \[0, 259\), got {bad}"):
        TOKENIZER.decode([0, bad])


def test_encode_refuses_what_is_no_text():
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        TOKENIZER.encode("a\ud800")
    with pytest.raises(ValueError, match=r"texts\[1\] must be a string, got bytes"):
        TOKENIZER.encode_batch(["a", b"b"])  # pyright: ignore[reportArgumentType]
    assert TOKENIZER.encode("a\x00b") == [97, 0, 98]
    assert TOKENIZER.encode("") == []


def test_pickled_tokenizer_is_the_same():
    copy = pickle.loads(pickle.dumps(TOKENIZER))
    assert copy.definition == TOKENIZER.definition
    chat = [{"role": "user", "content": "12 <|im_end|>"}]
    assert copy.encode_chat(chat) == TOKENIZER.encode_chat(chat)
    assert (copy.bos_id, copy.eos_id, copy.pad_id) == (START, END, END)
    assert copy.stop_token_ids == TOKENIZER.stop_token_ids == (END, 256)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos_id": 259}, r"eos_id must be in \[0, 259\), got 259"),
        ({"bos_id": -1}, "bos_id"),
        ({"pad_id": 10**9}, "pad_id"),
        ({"stop_token_ids": [3, 400]}, "stop_token_ids"),
    ],
)
def test_tokenizer_refuses_ids_outside_of_the_vocabulary(options, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(TOKENIZER.definition, **options)


@pytest.mark.parametrize("definition", ["", "{}", "null", '{"model": 1}'])
def test_tokenizer_refuses_a_damaged_definition(definition):
    with pytest.raises(ValueError, match="definition cannot be read"):
        Tokenizer(definition)


def test_tokenizer_without_a_template_says_so():
    with pytest.raises(ValueError, match="no chat template"):
        Tokenizer(TOKENIZER.definition).encode_chat([{"role": "user", "content": "x"}])


def test_merges_that_make_no_token_are_refused():
    for merge in ("ab", "a b", "a  b", ""):
        with pytest.raises(ValueError, match=r"merges\[0\]"):
            Tokenizer.from_bpe(byte_alphabet(), [merge])


def test_template_of_the_tiny_tokenizer_is_chatml():
    chat = [{"role": "user", "content": "x"}]
    assert TOKENIZER.chat_template == CHATML
    assert TOKENIZER.render_chat(chat, add_generation_prompt=False) == (
        "<|im_start|>user\nx<|im_end|>\n"
    )


def test_modules_import_without_their_heavy_packages():
    code = (
        "import sys; import rsft_jax.data.tokenizer, rsft_jax.data.chat;"
        "assert not {'tokenizers', 'jinja2', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def names(tokenizer, ids):
    return [tokenizer.id_to_token(i) for i in ids]


def with_flags(tokenizer, **flags):
    """The definition of a tokenizer with other flags of its special tokens."""
    content = json.loads(tokenizer.definition)
    for token in content["added_tokens"]:
        token.update(flags)
    return json.dumps(content)


def word_start_tokenizer(model, prepend):
    """Letters, of which the first one of a text (or of every piece) gets a mark of a word."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    pieces = ["<unk>", "<s>", "</s>", "\u2581", *"abcdefghijklmnopqrstuvwxyz[]/<>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Backend(
        models.BPE(vocab, [], unk_token="<unk>")
        if model == "bpe"
        else models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.Metaspace(prepend_scheme=prepend)  # pyright: ignore[reportAttributeAccessIssue]
    # One beside the vocabulary: it keeps its id, too.
    added = [*pieces[:3], "<x>"]
    backend.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in added])
    template = "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]</s>{% endfor %}<x>"
    return Tokenizer(backend.to_str(), bos_id=1, eos_id=2, chat_template=template)


@pytest.mark.parametrize("flags", [{"rstrip": True}, {"lstrip": True}, {"single_word": True}])
def test_spelled_special_does_not_change_what_the_templates_own_take(flags):
    tokenizer = Tokenizer(with_flags(TOKENIZER, **flags), chat_template=CHATML)
    before, after = {"role": "user", "content": "a "}, {"role": "user", "content": " b"}
    plain = tokenizer.encode_chat([before, {"role": "user", "content": "."}, after])
    spelled = tokenizer.encode_chat([before, {"role": "user", "content": "<|im_end|>"}, after])
    place = plain.index(ord("."))
    assert spelled == [*plain[:place], *b"<|im_end|>", *plain[place + 1 :]]


@pytest.mark.parametrize("prepend", ["first", "always"])
@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_spelled_special_does_not_change_where_a_word_starts(model, prepend):
    tokenizer = word_start_tokenizer(model, prepend)

    def chat(first):
        messages = [{"role": "user", "content": content} for content in (first, "y")]
        return names(tokenizer, tokenizer.encode_chat(messages))

    plain = chat("x")
    place = plain.index("x")
    assert chat("</s>") == [*plain[:place], *"</s>", *plain[place + 1 :]]
    assert plain.count("</s>") == 2
    assert (plain[0], plain[-1]) == ("<s>", "<x>")


def test_prompt_of_a_base_model_begins_with_what_its_tokenizer_adds():
    alphabet = [*byte_alphabet(), "<s>"]
    base = Tokenizer.from_bpe(alphabet, [], special_ids=[256], bos_id=256, add_bos=True)
    assert base.start_ids == (256,)
    assert base.encode_prompt("a<s>") == [256, *b"a<s>"]
    assert base.render_prompt("a") == "<s>a"
    assert pickle.loads(pickle.dumps(base)).encode_prompt("") == [256]
    plain = Tokenizer.from_bpe(alphabet, [], special_ids=[256], bos_id=256)
    assert plain.start_ids == ()
    assert plain.encode_prompt("a") == [97]
    # What ends a text is no part of its beginning, as in tokenizers of encoders.
    content = json.loads(base.definition)
    start, text = content["post_processor"]["single"]
    content["post_processor"]["single"] = [start, text, start]
    assert Tokenizer(json.dumps(content)).encode_prompt("a") == [256, 97]
    with pytest.raises(ValueError, match="bos_id must be a token where add_bos is true, got None"):
        Tokenizer.from_bpe(alphabet, [], add_bos=True)


def test_chat_of_a_tokenizer_that_adds_a_start_has_it_once():
    base = Tokenizer.from_bpe(
        [*byte_alphabet(), "<s>"],
        [],
        special_ids=[256],
        bos_id=256,
        add_bos=True,
        chat_template="{{ bos_token }}{{ messages[0].content }}",
    )
    for content in ("a", "<s>"):
        ids = base.encode_chat([{"role": "user", "content": content}])
        assert ids == [256, *content.encode()]


def test_readings_spell_special_tokens_where_there_are_any():
    assert TOKENIZER.readings([104, 105]) == ("hi",)
    assert TOKENIZER.readings([104, END, 105]) == ("hi", "h<|im_end|>i")
    stop = stop_strings(TOKENIZER.readings, ["<|im_end|>", "ij"])
    assert stop(np.array([104, END, 105])) == 2
    assert stop(np.array([105, END, 106, 107])) == 2
    assert stop(np.array([105, START, 106, 107])) == 3  # as it is shown
    assert stop(np.array([104, 105])) is None
