"""GGUF files that are written here, read by our reader and by the one of the `gguf` package."""

import json
import os
import stat

import gguf
import jax
import numpy as np
import pytest

from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.interop import load_pretrained, read_gguf, write_gguf, write_gguf_adapter
from rsft_jax.interop.gguf_header import header_of
from rsft_jax.interop.gguf_tensors import permute, stored, unpermute
from rsft_jax.interop.gguf_tokenizer import SPLITS
from rsft_jax.models import LayerKind, Rope
from rsft_jax.models.lora import merge_lora
from tests.tiny import (
    CHATML,
    SPECIAL_TOKENS,
    tiny_config,
    tiny_params,
    tiny_tokenizer,
    write_tiny_gguf,
)

TEXTS = (
    "It's 1234, I'LL say: x=12",
    " \n\n  two  blanks\t\n",
    "naïve 東京 🙂 ½Ⅷ٣",
    "ab<|im_end|>ab",
)
CHAT = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Yes."}]


def written(path, *, config=None, params=None, tokenizer=None, **options):
    config, params = config or tiny_config(), params or tiny_params()
    write_gguf(path, config, params, tokenizer or tiny_tokenizer(), **options)
    return path


def worded(**options):
    """A tokenizer with merges, an added word and the ends of a turn and a text."""
    words = ["ab", "Ġt", "abab", "12", "123", "'t", "\u010a\u010a", "<|tool|>"]
    merges = ["a b", "Ġ t", "ab ab", "1 2", "12 3", "' t", "\u010a \u010a"]
    given = {"bos_id": 257, "eos_id": 256, "chat_template": CHATML} | options
    tokens = [*byte_alphabet(), *SPECIAL_TOKENS, *words]
    return Tokenizer.from_bpe(tokens, merges, special_ids=range(256, 259), added_ids=[266], **given)


def same_tokenizer(got, expected):
    for text in TEXTS:
        assert got.encode(text) == expected.encode(text)
        assert got.encode_prompt(text) == expected.encode_prompt(text)
        assert got.decode(got.encode(text)) == text
    assert got.stop_token_ids == expected.stop_token_ids
    assert got.special_tokens == expected.special_tokens
    assert got.vocab_size == expected.vocab_size
    for name in ("bos_id", "eos_id", "pad_id", "start_ids", "chat_template", "named_templates"):
        assert getattr(got, name) == getattr(expected, name)
    if expected.chat_template:
        assert got.render_chat(CHAT) == expected.render_chat(CHAT)
        assert got.encode_chat(CHAT) == expected.encode_chat(CHAT)


def test_gguf_of_a_model_reads_back_bit_for_bit(tmp_path):
    config = tiny_config(kinds=(LayerKind(rope=Rope(123456.789)),), max_length=77)
    got, params, tokenizer = read_gguf(written(tmp_path / "tiny.gguf", config=config))
    base, eps = (float(np.float32(value)) for value in (123456.789, config.norm_eps))
    assert got == tiny_config(max_length=77, norm_eps=eps, kinds=(LayerKind(rope=Rope(base)),))
    jax.tree.map(np.testing.assert_array_equal, params, tiny_params())
    same_tokenizer(tokenizer, tiny_tokenizer())


def test_gguf_untied_head_and_wide_heads_read_back(tmp_path):
    config = tiny_config(tie_embeddings=False)
    params = tiny_params() | {"head": {"kernel": np.ones((64, 259), np.float32)}}
    got, read, _ = read_gguf(written(tmp_path / "tiny.gguf", config=config, params=params))
    assert not got.tie_embeddings
    jax.tree.map(np.testing.assert_array_equal, read, params)


def test_gguf_of_a_model_equals_one_that_the_package_wrote(tmp_path):
    # The other file was made by GGUFWriter, with its rows permuted one by one.
    ours = gguf.GGUFReader(written(tmp_path / "ours.gguf"))
    theirs = gguf.GGUFReader(write_tiny_gguf(tmp_path / "theirs.gguf"))
    tensors = {t.name: t for t in ours.tensors}
    assert set(tensors) == {t.name for t in theirs.tensors}
    for t in theirs.tensors:
        assert tensors[t.name].tensor_type == t.tensor_type
        np.testing.assert_array_equal(tensors[t.name].data, t.data)
    for key, field in theirs.fields.items():
        if key in ("tokenizer.ggml.merges", "tokenizer.ggml.tokens"):
            continue  # the other file has two merges
        if not key.startswith("GGUF."):
            assert ours.fields[key].types == field.types
            assert ours.fields[key].contents() == field.contents()


def test_gguf_header_says_what_a_converter_says(tmp_path):
    fields = gguf.GGUFReader(written(tmp_path / "a.gguf", dtype="q8_0", name="Tiny")).fields
    expected = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Tiny",
        "general.file_type": int(gguf.LlamaFileType.MOSTLY_Q8_0),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        "llama.vocab_size": 259,
        "llama.attention.key_length": 16,
        "llama.rope.dimension_count": 16,
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.token_type": [1] * 256 + [3] * 3,
    }
    assert {key: fields[key].contents() for key in expected} == expected
    # The types that llama.cpp asks for; it refuses a file with others.
    kinds = gguf.GGUFValueType
    assert fields["llama.rope.freq_base"].types == [kinds.FLOAT32]
    assert fields["llama.block_count"].types == [kinds.UINT32]
    assert fields["tokenizer.ggml.add_bos_token"].types == [kinds.BOOL]
    assert fields["tokenizer.ggml.token_type"].types == [kinds.ARRAY, kinds.INT32]
    named = gguf.GGUFReader(written(tmp_path / "b.gguf")).fields["general.name"].contents()
    assert named == "b"


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
def test_gguf_matrices_alone_are_rounded(tmp_path, dtype):
    config = tiny_config(d_ff=80)  # 80 does not divide into blocks of 32
    params = tiny_params()
    for i in range(2):
        mlp = params[f"layers_{i}"]["mlp"]
        for name, cut in (("gate", np.s_[:, :80]), ("up", np.s_[:, :80]), ("down", np.s_[:80])):
            mlp[name] = {"kernel": mlp[name]["kernel"][cut]}
    path = written(tmp_path / "a.gguf", config=config, params=params, dtype=dtype)
    for t in gguf.GGUFReader(path).tensors:
        small = t.name.endswith("norm.weight")
        odd = dtype == "q8_0" and "ffn_down" in t.name
        assert t.tensor_type.name == ("F32" if small else "F16" if odd else dtype.upper())
    # Half a unit in the last place of the format, or half a step of a block's scale, itself in f16.
    limit = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.5 / 127 + 2**-11}[dtype]
    for got, exact in zip(jax.tree.leaves(read_gguf(path)[1]), jax.tree.leaves(params)):
        got, exact = np.asarray(got), np.asarray(exact)
        assert np.max(np.abs(got - exact)) <= limit * 1.01 * np.max(np.abs(exact))
        assert (exact.ndim == 1 or dtype == "f32") == np.array_equal(got, exact)


@pytest.mark.parametrize(("dtype", "fits", "limit"), [("f16", 65_504, 65_505), ("q8_0", 8e6, 9e6)])
def test_gguf_number_that_does_not_fit_is_refused(tmp_path, dtype, fits, limit):
    params = tiny_params()
    path = written(tmp_path / "old.gguf")
    before = path.read_bytes()
    for value, fine in ((-fits, True), (limit, False), (-limit, False)):
        params["layers_1"]["mlp"]["up"]["kernel"] = np.full((64, 96), value, np.float32)
        if fine:
            read = read_gguf(written(tmp_path / "fine.gguf", params=params, dtype=dtype))[1]
            assert np.all(np.isfinite(read["layers_1"]["mlp"]["up"]["kernel"]))
        else:
            with pytest.raises(ValueError, match=rf"blk\.1\.ffn_up\.weight: .* fit into {dtype}"):
                written(path, params=params, dtype=dtype)
    # The older file is whole, and nothing else is left.
    assert path.read_bytes() == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["fine.gguf", "old.gguf"]


def test_gguf_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.gguf"
    seen = []

    def watched(name, tensor):
        seen.append(path.exists())
        if len(seen) == 5:
            raise OSError("no space left")
        return original(name, tensor)

    from rsft_jax.interop.formats import gguf_writer

    original = gguf_writer.encode
    monkeypatch.setattr(gguf_writer, "encode", watched)
    with pytest.raises(OSError, match="no space"):
        written(path)
    assert seen == [False] * 5
    assert not list(path.parent.iterdir())
    monkeypatch.undo()
    written(path)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_permute_is_what_the_converter_does():
    weight = np.random.default_rng(0).standard_normal((12, 5))
    # `LlamaModel.permute` in llama.cpp's conversion/llama.py, for 2 heads of 6 rows.
    theirs = weight.reshape(2, 2, 12 // 2 // 2, 5).swapaxes(1, 2).reshape(weight.shape)
    np.testing.assert_array_equal(permute(weight, 2), theirs)
    np.testing.assert_array_equal(unpermute(theirs, 2), weight)
    np.testing.assert_array_equal(permute(weight[:, 0], 2), theirs[:, 0])


def test_vectors_and_norms_are_stored_as_they_are():
    vector, matrix = np.ones(64), np.ones((2, 64))
    assert stored(vector, "q8_0").encoding == "f32"
    assert stored(matrix, "q8_0", norm=True).encoding == "f32"
    assert stored(matrix, "q8_0").encoding == "q8_0"
    assert stored(matrix[:, 1:], "q8_0").encoding == "f16"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kinds": (LayerKind(window=8),)}, "kinds"),
        ({"kinds": (LayerKind(rope=Rope(width=4)),)}, "kinds"),
        ({"attention_bias": "all"}, "attention_bias"),
        ({"logits_cap": 3.0}, "logits_cap"),
        ({"family": "Gemma 2"}, "Gemma 2"),
    ],
)
def test_what_a_header_cannot_say_is_not_written(change, named):
    with pytest.raises(ValueError, match=named):
        header_of(tiny_config(**change))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("add_bos", [False, True])
def test_gguf_tokenizer_reads_back(tmp_path, split, add_bos):
    tokenizer = worded(
        **SPLITS[split],
        add_bos=add_bos,
        pad_id=258,
        named_templates={"tool_use": "tools", "a-b.c": "x"},
    )
    config = tiny_config(vocab_size=267)
    params = tiny_params()
    params["embedder"]["embedding"] = np.ones((267, 64), np.float32)
    path = written(tmp_path / "a.gguf", config=config, params=params, tokenizer=tokenizer)
    same_tokenizer(read_gguf(path)[2], tokenizer)
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.pre"].contents() == split
    assert fields["tokenizer.ggml.merges"].contents()[:2] == ["a b", "Ġ t"]
    assert fields["tokenizer.ggml.token_type"].contents()[256:] == [3] * 3 + [1] * 7 + [4]
    assert fields["tokenizer.ggml.add_bos_token"].contents() is add_bos
    assert fields["tokenizer.chat_template"].contents() == CHATML
    assert fields["tokenizer.chat_templates"].contents() == ["tool_use", "a-b.c"]
    assert fields["tokenizer.chat_template.tool_use"].contents() == "tools"


def test_splitting_rules_cut_apart():
    # By hand, from the regular expressions: what each rule does to digits, quotes and lines.
    text = "I'LL 1234\n\nx"
    cuts = {
        "gpt-2": ["I", "'", "LL", " 1234", "\n", "\n", "x"],
        "smollm": ["I", "'", "LL", " ", "1", "2", "3", "4", "\n", "\n", "x"],
        "llama-bpe": ["I", "'LL", " ", "123", "4", "\n\n", "x"],
        "qwen2": ["I", "'LL", " ", "1", "2", "3", "4", "\n\n", "x"],
    }
    for name, options in SPLITS.items():
        import tokenizers

        definition = Tokenizer.from_bpe(byte_alphabet(), [], **options).definition
        splitter = tokenizers.Tokenizer.from_str(definition).pre_tokenizer
        assert splitter is not None
        spans = [span for _, span in splitter.pre_tokenize_str(text)]
        assert [text[a:b] for a, b in spans] == cuts[name]


def test_gguf_tokenizer_of_transformers_form_is_recognised(tmp_path):
    # As Llama 3's tokenizer.json is written: other flags on the side, start by a post-processor.
    content = json.loads(worded(**SPLITS["llama-bpe"], add_bos=True).definition)
    content["pre_tokenizer"]["pretokenizers"][-1]["trim_offsets"] = False
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    content["post_processor"] = {
        "type": "Sequence",
        "processors": [byte_level | {"use_regex": True}, content["post_processor"]],
    }
    tokenizer = Tokenizer(json.dumps(content), bos_id=257, eos_id=256)
    config, params = tiny_config(vocab_size=300), tiny_params()
    params["embedder"]["embedding"] = np.ones((300, 64), np.float32)
    path = written(tmp_path / "a.gguf", config=config, params=params, tokenizer=tokenizer)
    got_config, got_params, got = read_gguf(path)
    same_tokenizer(got, tokenizer)
    # Rows without a token stand in the file under unused tokens, and are padding when it is read.
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.tokens"].contents()[266:268] == ["<|tool|>", "[PAD267]"]
    assert fields["tokenizer.ggml.token_type"].contents()[266:] == [4] + [5] * 33
    assert got_config.vocab_size == 267
    assert got_params["embedder"]["embedding"].shape == (267, 64)


def test_gguf_ends_are_named_where_readers_do_not_know_them(tmp_path):
    tokens = [*byte_alphabet(), "<|im_end|>", "<done>", "<over>", "<out>"]

    def made(**options):
        return Tokenizer.from_bpe(tokens, [], special_ids=range(256, 260), **options)

    config, params = tiny_config(vocab_size=260), tiny_params()
    params["embedder"]["embedding"] = np.ones((260, 64), np.float32)

    def keys(tokenizer):
        path = written(tmp_path / "a.gguf", config=config, params=params, tokenizer=tokenizer)
        assert set(read_gguf(path)[2].stop_token_ids) == set(tokenizer.stop_token_ids)
        assert read_gguf(path)[2].end_id == tokenizer.end_id
        found = gguf.GGUFReader(path).fields
        named = ((key, f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "eot", "eom"))
        return {key: found[name].contents() for key, name in named if name in found}

    assert keys(made(eos_id=256)) == {"eos": 256}
    assert keys(made(eos_id=257)) == {"eos": 257}  # <|im_end|> is known by its spelling
    assert keys(made(eos_id=257, also_stop=[258, 259])) == {"eos": 257, "eot": 258, "eom": 259}
    turns = made(eos_id=257, also_stop=[258], chat_template="{{ messages[-1].content }}<out>")
    assert keys(turns) == {"eos": 257, "eot": 259, "eom": 258}
    assert keys(made(also_stop=[258])) == {"eos": 258}  # llama.cpp would take token 11 without
    with pytest.raises(ValueError, match=r"more ends of a text than GGUF's three: \(256, 65, 257"):
        keys(made(eos_id=256, also_stop=[65, 257, 258, 259]))


def changed(**parts):
    """The content of a tokenizer.json; `model__key` changes a key of the model."""
    content = json.loads(worded().definition)
    for key, value in parts.items():
        where, _, inner = key.partition("__")
        if inner:
            content[where][inner] = value
        else:
            content[where] = value
    return Tokenizer(json.dumps(content), bos_id=257, eos_id=256, chat_template=CHATML)


def with_flag(flag):
    added = json.loads(worded().definition)["added_tokens"]
    return changed(added_tokens=[token | {flag: True} for token in added])


def byte_level(**flags):
    plain = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"type": "ByteLevel", **plain, **flags}


def ends_with(*ids):
    tokens = {i: {"id": str(i), "ids": [i], "tokens": [SPECIAL_TOKENS[i - 256]]} for i in ids}
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    single += [{"SpecialToken": {"id": str(i), "type_id": 0}} for i in ids]
    processor = {"type": "TemplateProcessing", "single": single, "pair": []}
    return processor | {"special_tokens": {str(i): token for i, token in tokens.items()}}


def without_byte(byte):
    vocab = json.loads(worded().definition)["model"]["vocab"]
    gone = byte_alphabet()[byte]
    return {("<unk>" if token == gone else token): i for token, i in vocab.items()}


def unigram():
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}
    content = json.loads(worded().definition) | {"added_tokens": [], "model": model}
    return Tokenizer(json.dumps(content), eos_id=0)


LLAMA_3 = {"type": "Split", "pattern": {"Regex": SPLITS["llama-bpe"]["split_pattern"]}}
LLAMA_3 |= {"behavior": "Isolated", "invert": False}
SENTENCEPIECE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}

INEXPRESSIBLE = {
    "unigram": (unigram, "its model is Unigram; only byte-level BPE is written"),
    "lowercase": (lambda: changed(normalizer={"type": "Lowercase"}), "normalizer, Lowercase, is"),
    "nfc": (lambda: changed(normalizer={"type": "NFC"}), "NFC, .* drop_normalizer=True writes"),
    "prefix space": (
        lambda: changed(pre_tokenizer=byte_level(add_prefix_space=True)),
        'splits text by none of the rules gpt-2, .*"add_prefix_space": true',
    ),
    "no split": (lambda: changed(pre_tokenizer=byte_level(use_regex=False)), "by none of the rule"),
    "sentencepiece": (lambda: changed(pre_tokenizer=SENTENCEPIECE), "Metaspace"),
    "digits alone": (
        lambda: changed(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": False}, byte_level()],
            }
        ),
        '"individual_digits": false',
    ),
    "merged words": (
        lambda: changed(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [LLAMA_3, byte_level(use_regex=False)],
            }
        ),
        "ignore_merges False",
    ),
    "ignored merges": (lambda: changed(model__ignore_merges=True), "ignore_merges True"),
    "dropout": (lambda: changed(model__dropout=0.1), "its model has dropout 0.1"),
    "suffix": (lambda: changed(model__end_of_word_suffix="b"), "end_of_word_suffix 'b'"),
    "byte fallback": (lambda: changed(model__byte_fallback=True), "byte_fallback True"),
    "unknown": (
        lambda: changed(model__vocab=without_byte(7), model__unk_token="<unk>"),
        "writes '<unk>' for bytes that have no token",
    ),
    "spelling": (
        lambda: changed(
            model__vocab={
                {"ab": "a b", "abab": "c d"}.get(t, t): i
                for t, i in json.loads(worded().definition)["model"]["vocab"].items()
            },
            model__merges=[],
        ),
        "its token 'a b' is not spelled in the byte alphabet",
    ),
    "lstrip": (lambda: with_flag("lstrip"), "token '<|endoftext|>' has the flag lstrip"),
    "rstrip": (lambda: with_flag("rstrip"), "has the flag rstrip"),
    "single word": (lambda: with_flag("single_word"), "has the flag single_word"),
    "behind": (
        lambda: changed(post_processor=ends_with(256)),
        r"behind a text: 'a' becomes \[97, ",
    ),
    "in front": (
        lambda: worded(bos_id=256, add_bos=True, eos_id=256).__class__(
            worded(bos_id=256, add_bos=True).definition, bos_id=257, eos_id=256
        ),
        r"begins texts with the ids \(256,\), not with bos_id alone",
    ),
    "no end": (
        lambda: Tokenizer.from_bpe([*byte_alphabet(), "<s>"], [], special_ids=[256], bos_id=256),
        "no token ends its texts",
    ),
    "no start": (
        lambda: worded(bos_id=None, chat_template="{{ bos_token }}" + CHATML),
        "chat template writes bos_token, but there is no bos_id",
    ),
}


@pytest.mark.parametrize("name", INEXPRESSIBLE)
def test_gguf_refuses_a_tokenizer_that_it_cannot_say(tmp_path, name):
    make, reason = INEXPRESSIBLE[name]
    tokenizer = make()
    config, params = tiny_config(vocab_size=267), tiny_params()
    params["embedder"]["embedding"] = np.ones((267, 64), np.float32)
    with pytest.raises(ValueError, match=f"cannot be written as GGUF: .*{reason}"):
        written(tmp_path / "a.gguf", config=config, params=params, tokenizer=tokenizer)
    assert not list(tmp_path.iterdir())


def test_gguf_normal_form_can_be_left_out_by_name(tmp_path):
    tokenizer = changed(normalizer={"type": "NFC"})
    config, params = tiny_config(vocab_size=267), tiny_params()
    params["embedder"]["embedding"] = np.ones((267, 64), np.float32)
    path = tmp_path / "a.gguf"
    written(path, config=config, params=params, tokenizer=tokenizer, drop_normalizer=True)
    got = read_gguf(path)[2]
    assert got.encode("é") == tokenizer.encode("é")
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é") != got.encode("e\u0301")
    lowers = changed(normalizer={"type": "Lowercase"})
    with pytest.raises(ValueError, match="Lowercase"):
        written(path, config=config, params=params, tokenizer=lowers, drop_normalizer=True)


def test_gguf_arguments_are_checked(tmp_path):
    (tmp_path / "folder").mkdir()
    cases = [
        ({"dtype": "q4_0"}, "a.gguf", r"dtype must be one of \('f32', .*got 'q4_0'"),
        ({"config": tiny_config(vocab_size=258)}, "a.gguf", "the tokenizer has 259 ids, but"),
        ({"config": tiny_config(d_ff=95)}, "a.gguf", "mlp/gate/kernel needs the shape"),
        ({}, "a.bin", "can hold pickled objects"),
        ({}, "folder", "this is a folder"),
    ]
    for options, name, message in cases:
        with pytest.raises(ValueError, match=message):
            written(tmp_path / name, **options)
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


def lora_of(rank=4, modules=("attention/query", "attention/key", "mlp/up")):
    """Random adapters of the second layer."""
    rng, layer = np.random.default_rng(0), {}
    for module in modules:
        part, name = module.split("/")
        wide, narrow = tiny_params()["layers_1"][part][name]["kernel"].shape
        pair = {"a": rng.standard_normal((wide, rank)), "b": rng.standard_normal((rank, narrow))}
        layer.setdefault(part, {})[name] = jax.tree.map(np.float32, pair)
    return {"layers_1": layer}


def test_gguf_adapter_adds_what_merging_adds(tmp_path):
    lora = lora_of()
    path = tmp_path / "a.gguf"
    write_gguf_adapter(path, tiny_config(), lora, alpha=6.0)
    reader = gguf.GGUFReader(path)
    expected = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 6.0,
        "general.file_type": 0,
    }
    assert {key: reader.fields[key].contents() for key in expected} == expected
    tensors = {t.name: t.data for t in reader.tensors}
    names = {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in tensors}
    assert names == {f"blk.1.{part}.weight" for part in ("attn_q", "attn_k", "ffn_up")}
    assert len(tensors) == 2 * len(names)
    # What llama.cpp adds to a weight of the file, against what merging changes in that weight.
    merged = merge_lora(tiny_params(), lora, 6.0 / 4)
    before = gguf.GGUFReader(written(tmp_path / "before.gguf"))
    after = gguf.GGUFReader(written(tmp_path / "after.gguf", params=merged))
    for old, new in zip(before.tensors, after.tensors):
        change = 0.0
        if old.name in names:
            a, b = tensors[f"{old.name}.lora_a"], tensors[f"{old.name}.lora_b"]
            assert (a.shape, b.shape) == ((4, old.data.shape[1]), (old.data.shape[0], 4))
            change = 6.0 / 4 * (b @ a)
        np.testing.assert_allclose(new.data, old.data + change, atol=2e-5)


def test_gguf_adapter_of_the_head_and_in_half_precision(tmp_path):
    config = tiny_config(tie_embeddings=False)
    lora = {"head": {"a": np.full((64, 3), 0.1), "b": np.full((3, 259), 0.1)}}
    write_gguf_adapter(tmp_path / "a.gguf", config, lora, alpha=3, dtype="q8_0")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert kinds == {"output.weight.lora_a": "Q8_0", "output.weight.lora_b": "F16"}
    with pytest.raises(ValueError, match="lora has head/a, where the model has no kernel"):
        write_gguf_adapter(tmp_path / "b.gguf", tiny_config(), lora, alpha=3)


def test_gguf_adapter_refuses_what_does_not_fit(tmp_path):
    def up(**pair):
        return {"layers_0": {"mlp": {"up": pair}}}

    a, b = np.ones((64, 2)), np.ones((2, 96))
    mixed = up(a=a, b=b) | {"layers_1": {"mlp": {"up": {"a": a[:, :1], "b": b[:1]}}}}
    cases = [
        (up(a=a, b=b), 0.0, "alpha must be positive and finite, got 0.0"),
        (up(a=a, b=b), float("nan"), "alpha must be positive"),
        (up(a=a, b=b), float("inf"), "alpha must be positive and finite, got inf"),
        ({}, 1.0, "lora holds no adapter"),
        (up(a=a), 1.0, r"mlp/up needs a and b .*got \(64, 2\) and nothing"),
        (up(b=b), 1.0, "mlp/up needs a and b .*got nothing"),
        (up(a=a.T, b=b), 1.0, r"needs a and b of the shapes \(64, 'r'\) and \('r', 96\)"),
        (up(a=a, b=b[:1]), 1.0, r"got \(64, 2\) and \(1, 96\)"),
        ({"layers_9": up(a=a, b=b)["layers_0"]}, 1.0, "lora has layers_9/mlp/up/a, where"),
        ({"layers": {"mlp": {"up": {"a": a[None], "b": b[None]}}}}, 1.0, "in the unrolled layout"),
        ({"embedder": {"a": a, "b": b}}, 1.0, "lora has embedder/a"),
        (mixed, 1.0, r"lora must have one rank, got \[1, 2\]"),
    ]
    for lora, alpha, message in cases:
        with pytest.raises(ValueError, match=message):
            write_gguf_adapter(tmp_path / "a.gguf", tiny_config(), lora, alpha=alpha)
    assert not list(tmp_path.iterdir())


def test_gguf_adapter_is_refused_as_a_model(tmp_path):
    write_gguf_adapter(tmp_path / "a.gguf", tiny_config(), lora_of(), alpha=1.0)
    with pytest.raises(ValueError, match="must be 'model', got 'adapter'"):
        load_pretrained(tmp_path / "a.gguf")
