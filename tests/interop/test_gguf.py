import os
import random
import struct
import tracemalloc

import gguf
import jax
import numpy as np
import pytest

from rsft_jax.interop.formats.gguf import GGUFFile
from rsft_jax.interop.gguf import read_gguf
from rsft_jax.interop.gguf_tensors import unpermute
from rsft_jax.interop.pretrained import load_pretrained
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer, write_tiny_gguf


def header(keys=b"", num_keys=0, num_tensors=0, version=3, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, num_tensors, num_keys) + keys


def string(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def tensor(name, shape, kind=0, offset=0):
    dims = struct.pack(f"<{len(shape)}Q", *shape)
    return string(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


def test_gguf_float_weights_load_exactly(tmp_path):
    config, params, tokenizer = read_gguf(write_tiny_gguf(tmp_path / "tiny.gguf"))
    assert config == tiny_config(norm_eps=config.norm_eps)
    assert config.norm_eps == pytest.approx(1e-5)
    jax.tree.map(np.testing.assert_array_equal, params, tiny_params())
    assert tokenizer.encode("abcab") == [255, 254]
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.render_chat(chat) == tiny_tokenizer().render_chat(chat)


def test_gguf_every_end_counts_whatever_the_type_of_its_token(tmp_path):
    # Files are converted with `<|im_end|>` as a user's token; llama.cpp overrides its type.
    values = {
        "tokenizer.ggml.token_type": [1] * 256 + [3, 3, 4],
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.eot_token_id": 258,
        "tokenizer.ggml.eom_token_id": 257,
        "tokenizer.chat_template.tool_use": "tools",
        "split.count": 1,
    }
    path = write_tiny_gguf(tmp_path / "ends.gguf", values=values)
    tokenizer = read_gguf(path)[2]
    assert tokenizer.stop_token_ids == (258, 256, 257)  # the template ends a turn with 258
    assert tokenizer.decode([72, 258]) == "H"
    assert tokenizer.encode("<|im_end|>") == list(b"<|im_end|>")
    assert tokenizer.named_templates == {"tool_use": "tools"}


def test_gguf_first_part_of_a_split_model_says_so(tmp_path):
    # It has the model's header and some of its tensors; later parts have no model's header.
    path = tmp_path / "part.gguf"
    key = string("split.count") + struct.pack("<IH", 2, 3)
    path.write_bytes(header(key, num_keys=1))
    with pytest.raises(ValueError, match=r"one of 3 parts of a split model; merge them"):
        load_pretrained(path)


def test_gguf_quantized_weights_match_the_packages_own_reader(tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", quantized=True)
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    assert {t.tensor_type.name for t in theirs.tensors} == {"F32", "Q8_0", "Q4_1"}
    assert set(ours.tensors) == {t.name for t in theirs.tensors}
    for t in theirs.tensors:
        expected = gguf.quants.dequantize(t.data, t.tensor_type)
        np.testing.assert_array_equal(ours.tensor(t.name), expected)
    for key in ours:
        assert ours.get(key) == theirs.fields[key].contents()
    # The rotary order is undone: the result is near the weights before quantisation.
    _, params, _ = read_gguf(path)
    for got, exact in zip(jax.tree.leaves(params), jax.tree.leaves(tiny_params())):
        assert np.max(np.abs(got - exact)) < 0.06


def test_unpermute_puts_pairs_into_halves():
    weight = np.arange(8.0)[:, None]
    assert unpermute(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_gguf_padded_vocabulary_rows_are_left_out(tmp_path):
    tokens = [*gguf_tokens(tmp_path)][:258]  # the embedding has 259 rows
    values = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3] * 2,
        "tokenizer.ggml.eos_token_id": 257,
    }
    config, params, tokenizer = read_gguf(write_tiny_gguf(tmp_path / "p.gguf", values=values))
    assert config.vocab_size == tokenizer.vocab_size == 258
    assert params["embedder"]["embedding"].shape == (258, 64)


def test_gguf_of_llama_3_begins_texts_where_it_does_not_say(tmp_path):
    # As in llama.cpp: converted files of Llama 3 often have no `add_bos_token`.
    for split, said, starts in (
        ("llama-bpe", {}, (257,)),
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": 0}, ()),
        ("qwen2", {}, ()),
    ):
        values = {"tokenizer.ggml.pre": split} | said
        path = write_tiny_gguf(tmp_path / "tiny.gguf", values=values)
        assert read_gguf(path)[2].start_ids == starts


def gguf_tokens(tmp_path):
    return GGUFFile(write_tiny_gguf(tmp_path / "tokens.gguf")).get("tokenizer.ggml.tokens")


def test_gguf_max_length_is_checked(tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert load_pretrained(path, max_length=32).model.config.max_length == 32
    with pytest.raises(ValueError, match=r"max_length must be in \[1, 256\], got 257"):
        load_pretrained(path, max_length=257)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type"),
        ({"llama.block_count": 2**31}, "block_count"),
        ({"llama.block_count": 3}, "layers.2"),
        ({"llama.block_count": 1}, "blk.1"),
        ({"llama.attention.head_count": 3}, "head"),
        ({"llama.attention.head_count": 0}, "head"),
        ({"llama.attention.head_count": [4, 4]}, "head_count"),
        ({"llama.rope.dimension_count": 8}, "dimension_count"),
        ({"llama.embedding_length": 2**31}, "embed|head_dim|shape"),
        ({"llama.rope.freq_base": float("nan")}, "rope base"),
        ({"llama.context_length": "many"}, "context_length"),
        ({"llama.expert_count": 8}, "expert_count"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.pre": "unknown"}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.merges": ["a  b"]}, "merges"),
        ({"tokenizer.ggml.merges": ["x y"]}, "merges"),
        ({"tokenizer.ggml.eos_token_id": 300}, "eos_id"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "token_type"),
        ({"tokenizer.ggml.tokens": [str(i) for i in range(300)]}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": ["a"] * 259}, "occurs twice"),
        ({"tokenizer.chat_template": 7}, "tokenizer"),
        ({"general.alignment": 3}, "alignment"),
        ({"general.alignment": 0}, "alignment"),
        ({"split.no": 0, "split.count": 2}, "split.count: this is one of 2 parts of a split model"),
        ({"general.type": "adapter"}, "general.type: must be 'model', got 'adapter'"),
        ({"tokenizer.ggml.eot_token_id": 300}, "also_stop"),
        ({"tokenizer.chat_template.rag": 7}, "chat_template.rag"),
    ],
)
def test_gguf_wrong_value_is_refused_by_name(tmp_path, values, message):
    path = write_tiny_gguf(tmp_path / "bad.gguf", values=values)
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(path)
    assert "bad.gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("add", "start"), [({}, ()), ({"tokenizer.ggml.add_bos_token": 1}, (257,))]
)
def test_gguf_says_whether_texts_begin_with_the_start_token(tmp_path, add, start):
    tokenizer = load_pretrained(write_tiny_gguf(tmp_path / "m.gguf", values=add)).tokenizer
    assert tokenizer.start_ids == start
    assert tokenizer.encode_prompt("xy") == [*start, *b"xy"]


HOSTILE = {
    "empty": b"",
    "short": b"GGUF",
    "magic": header(magic=b"GGML") + bytes(64),
    "version 1": header(version=1),
    "big-endian": header(version=3 << 24),
    "keys": header(num_keys=2**63) + bytes(64),
    "tensors": header(num_tensors=2**63) + bytes(64),
    "key past the end": header(struct.pack("<Q", 2**62) + bytes(16), num_keys=1),
    "key not UTF-8": header(string(b"\xff\xfe") + struct.pack("<IB", 0, 0), num_keys=1),
    "unknown type": header(string("a") + struct.pack("<IQ", 99, 0), num_keys=1),
    "string past the end": header(string("a") + struct.pack("<IQ", 8, 2**63) + bytes(9), 1),
    "list past the end": header(string("a") + struct.pack("<IIQ", 9, 4, 2**61) + bytes(9), 1),
    "list of unknown": header(string("a") + struct.pack("<IIQ", 9, 77, 1) + bytes(9), 1),
    "nested lists": header(
        string("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 10_000 + bytes(16), 1
    ),
    "twice": header((string("a") + struct.pack("<IB", 0, 1)) * 2, 2),
    "no dimensions": header(tensor("t", []), 0, 1) + bytes(64),
    "many dimensions": header(string("t") + struct.pack("<I", 2**32 - 1) + bytes(64), 0, 1),
    "product overflow": header(tensor("t", [2**33, 2**33]), 0, 1) + bytes(64),
    "zero width": header(tensor("t", [0]), 0, 1) + bytes(64),
    "tensor type": header(tensor("t", [4], kind=1000), 0, 1) + bytes(64),
    "partial block": header(tensor("t", [33], kind=8), 0, 1) + bytes(64),
    "offset past the end": header(tensor("t", [4], offset=2**60), 0, 1) + bytes(64),
    "offset wraps": header(tensor("t", [4], offset=2**64 - 32), 0, 1) + bytes(64),
    "unaligned offset": header(tensor("t", [4], offset=1), 0, 1) + bytes(128),
    "overlap": header(tensor("t", [16]) + tensor("u", [16], offset=32), 0, 2) + bytes(256),
    "same tensor": header(tensor("t", [4]) + tensor("t", [4], offset=32), 0, 2) + bytes(256),
    "pickle": b"\x80\x04\x95" + bytes(64),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_gguf_hostile_header_is_refused_in_bounded_memory(tmp_path, name):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"hostile\.gguf: "):
            GGUFFile(path)
        assert tracemalloc.get_traced_memory()[1] < len(HOSTILE[name]) + (1 << 20)
    finally:
        tracemalloc.stop()


def test_gguf_sane_handmade_header_is_accepted(tmp_path):
    # The control for the cases above: what they break is accepted when it is whole.
    path = tmp_path / "sane.gguf"
    key = string("a") + struct.pack("<IIQ", 9, 8, 2) + string("x") + string("yz")
    data = np.arange(16, dtype="<f4").tobytes()
    raw = header(key + tensor("t", [8, 2]), num_keys=1, num_tensors=1)
    path.write_bytes(raw + bytes(-len(raw) % 32) + data)
    file = GGUFFile(path)
    assert file.get("a") == ["x", "yz"]
    np.testing.assert_array_equal(file.tensor("t"), np.arange(16.0).reshape(2, 8))


def test_gguf_many_strings_are_not_decoded_to_be_skipped(tmp_path):
    # 15 MB as Python strings, 3 MB in the file.
    path = tmp_path / "strings.gguf"
    raw = string("a") + struct.pack("<IIQ", 9, 8, 300_000) + string("xy") * 300_000
    path.write_bytes(header(raw, num_keys=1))
    tracemalloc.start()
    file = GGUFFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.length("a") == 300_000
    assert peak < 1 << 21


def test_gguf_more_strings_than_any_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rsft_jax.interop.formats.gguf.MAX_STRINGS", 100)
    path = tmp_path / "strings.gguf"
    for count, fine in ((100, True), (101, False)):
        raw = string("a") + struct.pack("<IIQ", 9, 8, count) + string("") * count
        path.write_bytes(header(raw, num_keys=1))
        if fine:
            assert GGUFFile(path).get("a") == [""] * 100
        else:
            with pytest.raises(ValueError, match="more than 100 strings"):
                GGUFFile(path)


def test_gguf_truncated_anywhere_is_refused(tmp_path):
    whole = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    rng = random.Random(0)
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 64), *rng.sample(range(64, len(whole)), 60), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf"):
            read_gguf(cut)


def test_gguf_changed_header_byte_never_fails_otherwise(tmp_path):
    # Whatever the byte was, the file either loads or is refused with a ValueError.
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    whole = path.read_bytes()
    first_tensor = min(info.offset for info in GGUFFile(path).tensors.values())
    rng = random.Random(1)
    changed, refused = tmp_path / "changed.gguf", 0
    for _ in range(150):
        raw = bytearray(whole)
        raw[rng.randrange(first_tensor)] ^= 1 << rng.randrange(8)
        changed.write_bytes(raw)
        try:
            read_gguf(changed)
        except ValueError:
            refused += 1
    assert 15 < refused < 150


def test_gguf_missing_or_irregular_file_is_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gguf: there is no such file"):
        load_pretrained(tmp_path / "nowhere.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ValueError, match="no regular file"):
        load_pretrained(tmp_path / "pipe.gguf")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".npy", ".PT"])
def test_pickles_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="pickled objects, which run code"):
        load_pretrained(path)
