import json
import pickle
import struct
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rsft_jax.interop.formats.safetensors import SafetensorsFile
from rsft_jax.interop.pretrained import load_pretrained, save_pretrained
from rsft_jax.interop.weights import params_from_tensors
from rsft_jax.models import LayerKind, Rope
from rsft_jax.models.families.llama import FAMILY as LLAMA
from rsft_jax.models.transformer import Transformer, stack_layers
from tests.tiny import CHATML, tiny_config, tiny_params, tiny_tensors, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEMPLATE = "chat_template.jinja"


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "model"
    save_pretrained(folder, Transformer(tiny_config()), tiny_params(), tiny_tokenizer())
    return folder


def edit(path, **changes):
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))


def test_saved_model_loads_exactly(directory):
    model, params, tokenizer = load_pretrained(directory)
    assert model == Transformer(tiny_config())
    jax.tree.map(np.testing.assert_array_equal, params, tiny_params())
    saved = tiny_tokenizer()
    assert tokenizer.definition == saved.definition
    for name in ("bos_id", "eos_id", "pad_id", "stop_token_ids", "chat_template"):
        assert getattr(tokenizer, name) == getattr(saved, name)
    # A second trip changes no byte of the weights.
    second = directory.parent / "second"
    save_pretrained(second, model, params, tokenizer)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (second / name).read_bytes() == (directory / name).read_bytes()


def test_saved_weights_have_the_names_and_layout_of_transformers(directory):
    tensors = load_file(directory / "model.safetensors")
    expected = tiny_tensors()
    assert set(tensors) == set(expected)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[name])


def test_untied_head_survives_the_trip(tmp_path):
    config = tiny_config(tie_embeddings=False)
    head = jnp.arange(config.d_model * config.vocab_size, dtype=jnp.float32)
    params = tiny_params() | {"head": {"kernel": head.reshape(config.d_model, -1)}}
    save_pretrained(tmp_path, Transformer(config), params, tiny_tokenizer())
    model, loaded, _ = load_pretrained(tmp_path)
    assert not model.config.tie_embeddings
    np.testing.assert_array_equal(loaded["head"]["kernel"], params["head"]["kernel"])
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].shape == (259, 64)


def test_sharded_checkpoint_loads_like_a_whole_one(directory):
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    index = {}
    for i, part in enumerate((sorted(tensors)[:7], sorted(tensors)[7:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file)
        index |= dict.fromkeys(part, file)
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(directory).params, tiny_params())
    for file in ("../x.safetensors", "/etc/passwd", "model.bin", "missing.safetensors"):
        edit(path, weight_map=index | {"model.norm.weight": file})
        with pytest.raises((ValueError, FileNotFoundError), match=r"refuses|no such file"):
            load_pretrained(directory)


def test_bfloat16_weights_load_as_float32(directory):
    tensors = load_file(directory / "model.safetensors")
    half = {name: tensor.astype(jnp.bfloat16) for name, tensor in tensors.items()}
    save_file(half, directory / "model.safetensors")
    params = load_pretrained(directory).params
    for leaf, exact in zip(jax.tree.leaves(params), jax.tree.leaves(tiny_params())):
        assert leaf.dtype == jnp.float32
        rounded = exact.astype(jnp.bfloat16).astype(jnp.float32)
        np.testing.assert_array_equal(leaf, rounded)


# As transformers 5.24.0 reads them (`LlamaConfig.from_pretrained`).
@pytest.mark.parametrize(
    ("keys", "base"),
    [
        ({"rope_theta": 5e5}, 5e5),
        ({"rope_theta": ...}, 1e4),
        ({"rope_theta": ..., "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5),
        ({"rope_theta": 1e3, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5),
        ({"rope_theta": 1e3, "rope_parameters": {"rope_type": "default"}}, 1e3),
        ({"rope_theta": 1e3, "rope_parameters": {}, "rope_scaling": None}, 1e3),
        ({"rope_theta": 1e3, "rope_scaling": {"type": "default", "rope_theta": 7e5}}, 7e5),
    ],
)
def test_rotary_base_is_read_as_transformers_reads_it(directory, keys, base):
    edit(directory / "config.json", **keys)
    assert load_pretrained(directory).model.config.kinds[0].rope.base == base


def test_exported_rotary_base_stands_where_transformers_4_and_5_find_it(tmp_path):
    # Version 4 knows `rope_theta` alone and takes 10000 where it is missing, without a word; in
    # version 5 `rope_parameters` and `rope_scaling` would win over it.
    save_pretrained(
        tmp_path,
        Transformer(tiny_config(kinds=(LayerKind(rope=Rope(5e5)),))),
        tiny_params(),
        TOKENIZER,
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == 5e5
    assert not {"rope_parameters", "rope_scaling"} & set(config)
    assert load_pretrained(tmp_path).model.config.kinds[0].rope.base == 5e5


def as_list(folder, templates):
    listed = [{"name": name, "template": text} for name, text in templates.items()]
    edit(folder / "tokenizer_config.json", chat_template=listed)


def as_files(folder, templates):
    # What version 5 writes; such files win over what tokenizer_config.json holds.
    edit(folder / "tokenizer_config.json", chat_template="stale")
    (folder / "additional_chat_templates").mkdir()
    for name, text in templates.items():
        file = f"additional_chat_templates/{name}.jinja" if name != "default" else TEMPLATE
        (folder / file).write_text(text)


@pytest.mark.parametrize("written", [as_list, as_files])
def test_named_chat_templates_are_kept(directory, tmp_path, written):
    written(directory, {"default": CHATML, "tool_use": "tools", "rag": "documents"})
    for folder in (directory, tmp_path / "again"):
        model, params, tokenizer = load_pretrained(folder)
        assert tokenizer.chat_template == CHATML
        assert tokenizer.named_templates == {"tool_use": "tools", "rag": "documents"}
        assert pickle.loads(pickle.dumps(tokenizer)).named_templates == tokenizer.named_templates
        save_pretrained(tmp_path / "again", model, params, tokenizer)


def test_one_chat_template_is_read_from_its_file_and_written_as_a_string(directory):
    assert json.loads((directory / "tokenizer_config.json").read_text())["chat_template"] == CHATML
    edit(directory / "tokenizer_config.json", chat_template="stale")
    (directory / TEMPLATE).write_text("new")
    assert load_pretrained(directory).tokenizer.chat_template == "new"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "must be a string, or a list"),
        ([{"name": "default", "template": 7}], "must be a string, or a list"),
        ([{"name": "default", "template": "a"}] * 2, "a name of its own"),
        ([{"name": "default", "template": "a"}, "b"], "a name of its own"),
        ([{"name": "rag", "template": "a"}], "must have one named 'default', got 'rag'"),
    ],
)
def test_chat_templates_that_say_nothing_clear_are_refused(directory, value, message):
    edit(directory / "tokenizer_config.json", chat_template=value)
    with pytest.raises(ValueError, match=rf"chat_template: .*{message}"):
        load_pretrained(directory)


def add_tensor(folder, name, value):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: value}, folder / "model.safetensors")


def test_a_tied_head_may_be_there_again_but_not_be_another(directory):
    embedding = tiny_tensors()["model.embed_tokens.weight"]
    add_tensor(directory, "lm_head.weight", embedding)
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(directory).params, tiny_params())
    other = embedding.copy()
    other[-1, -1] += 1
    add_tensor(directory, "lm_head.weight", other)
    with pytest.raises(ValueError, match=r"lm_head\.weight: differs from model\.embed_tokens"):
        load_pretrained(directory)
    # The remedy that the message names.
    edit(directory / "config.json", tie_word_embeddings=False)
    head = load_pretrained(directory).params["head"]["kernel"]
    np.testing.assert_array_equal(head, other.T)


def test_stored_rotary_frequencies_must_be_those_of_the_base(directory):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    frequencies = 1e4 ** -(np.arange(0, 16, 2) / 16)
    for kind in (np.float32, np.float16, jnp.bfloat16):
        add_tensor(directory, name, frequencies.astype(kind))
        load_pretrained(directory)
    for wrong in (frequencies / 2, frequencies[:4]):
        add_tensor(directory, name, wrong.astype(np.float32))
        with pytest.raises(ValueError, match="not the rotary frequencies that"):
            load_pretrained(directory)


def test_a_transposed_array_is_written_as_what_it_is(tmp_path):
    # safetensors' writer for NumPy takes the bytes of a view as they lie; no shape tells, where the
    # matrix is square.
    params = tiny_params()
    kernel = params["layers_0"]["attention"]["query"]["kernel"]
    assert kernel.shape == (64, 64)
    embedding = np.asarray(params["embedder"]["embedding"])
    params["embedder"]["embedding"] = np.asfortranarray(embedding)
    save_pretrained(tmp_path, Transformer(tiny_config()), params, TOKENIZER)
    tensors = load_file(tmp_path / "model.safetensors")
    written = tensors["model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(written, np.asarray(kernel).T)
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], embedding)


def test_loaded_parameters_do_not_change_with_the_arrays_they_come_from():
    tensors = tiny_tensors()
    params = params_from_tensors(Path("mine"), LLAMA, tiny_config(), tensors)
    for tensor in tensors.values():
        tensor[...] = 7
    jax.tree.map(np.testing.assert_array_equal, params, tiny_params())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"model_type": "mixtral"}, "model_type"),
        ({"model_type": ...}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "q_proj.bias: this tensor is missing"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_scaling": 3}, "rope_scaling"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": {"full": {"rope_theta": 1e3}}}, "must be one for all layers"),
        ({"rope_scaling": {"type": "linear"}, "rope_parameters": {}}, "factor must be a number"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": ...}, "hidden_size"),
        ({"hidden_size": 128}, "needs the shape"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 3}, "model.layers.2"),
        ({"num_hidden_layers": 1}, "model.layers.1"),
        ({"num_key_value_heads": 3}, "num_kv_heads"),
        ({"rms_norm_eps": 0}, "norm_eps"),
        ({"vocab_size": 200}, "259 ids"),
        ({"tie_word_embeddings": False}, "lm_head"),
    ],
)
def test_config_that_differs_is_refused_by_name(directory, changes, message):
    edit(directory / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained(directory)


def test_missing_parts_are_named(directory):
    # In the reverse of the order in which they are read.
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        (directory / name).unlink()
        with pytest.raises(FileNotFoundError, match=name.replace(".", r"\.")):
            load_pretrained(directory)


def test_pickled_weights_in_a_directory_are_refused(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin is a pickle"):
        load_pretrained(directory)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"a": "\ud800"'])
def test_damaged_json_is_refused(directory, text):
    (directory / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"config\.json"):
        load_pretrained(directory)


def safetensors(head, data=b""):
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(start, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE = {
    "empty": b"",
    "short": b"\x00\x00",
    "header longer than the file": struct.pack("<Q", 10**9) + b"{}",
    "header length 2^64": b"\xff" * 8 + b"{}",
    "header over the limit": struct.pack("<Q", 5 << 20) + b" " * (5 << 20),
    "no JSON": safetensors(b"{'a'"),
    "a list": safetensors(b"[]"),
    "deep": safetensors(b"[" * 100_000),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "duplicate": safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "reversed": safetensors({"a": entry(4, 0, [1])}, bytes(4)),
    "overlap": safetensors({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
    "hole": safetensors({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)),
    "past the end": safetensors({"a": entry(0, 8, [2])}, bytes(4)),
    "bytes left over": safetensors({"a": entry(0, 4, [1])}, bytes(8)),
    "shape overflow": safetensors({"a": entry(0, 4, [2**32, 2**32])}, bytes(4)),
    "negative": safetensors({"a": entry(0, 4, [-1, -1])}, bytes(4)),
    "float offset": safetensors({"a": entry(0, 4.0, [1])}, bytes(4)),
    "dtype": safetensors({"a": entry(0, 4, [1], "O")}, bytes(4)),
    "dtype list": safetensors({"a": entry(0, 4, [1], [])}, bytes(4)),
    "fields": safetensors({"a": {"dtype": "F32"}}),
    "a number": safetensors({"a": 3}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_safetensors_hostile_header_is_refused_in_bounded_memory(tmp_path, name):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"hostile\.safetensors"):
            SafetensorsFile(path)
        assert tracemalloc.get_traced_memory()[1] < len(HOSTILE[name]) + (1 << 22)
    finally:
        tracemalloc.stop()


def test_safetensors_whole_file_is_accepted(tmp_path):
    # The control for the cases above.
    path = tmp_path / "whole.safetensors"
    data = np.arange(3, dtype=np.float32)
    header = {"__metadata__": {"format": "pt"}, "b": entry(4, 12, [2]), "a": entry(0, 4, [1])}
    path.write_bytes(safetensors(header, data.tobytes()))
    file = SafetensorsFile(path)
    assert {name: tensor.tolist() for name, tensor in file.items()} == {"a": [0.0], "b": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: stack_layers(p), "unrolled layout"),
        (lambda p: p | {"extra": {"kernel": jnp.zeros(1)}}, "extra/kernel"),
        (lambda p: p | {"final_norm": {"scale": jnp.zeros(3)}}, "final_norm/scale"),
        (lambda p: {k: v for k, v in p.items() if k != "embedder"}, "embedder/embedding"),
    ],
)
def test_params_that_do_not_fit_are_not_saved(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        save_pretrained(
            tmp_path / "x", Transformer(tiny_config()), change(tiny_params()), tiny_tokenizer()
        )
    assert not (tmp_path / "x").exists()
