"""A folder holds one model: what is saved over another replaces it whole, or is refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop import load_pretrained, save_pretrained
from rsft_jax.models import Transformer
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer

MODEL = Transformer(tiny_config())


def save(folder, seed=0, **options):
    tokenizer = Tokenizer(tiny_tokenizer().definition, eos_id=258, **options)
    save_pretrained(folder, MODEL, tiny_params(seed), tokenizer)
    return tokenizer


def shard(folder):
    """Cuts the weights of a folder into two files and an index, as transformers does."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {}
    for i, names in enumerate((sorted(tensors)[:7], sorted(tensors)[7:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return index


def test_a_model_saved_over_another_is_the_one_that_is_read(tmp_path):
    save(tmp_path)
    alone = {file.name for file in tmp_path.iterdir()}
    shard(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("old")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/rag.jinja").write_text("old")
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<|im_start|>"}')
    (tmp_path / "added_tokens.json").write_text('{"<x>": 259}')
    (tmp_path / "README.md").write_text("kept")
    tokenizer = save(tmp_path, seed=1, chat_template="new {{ messages[0]['content'] }}")
    _, params, again = load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, tiny_params(1))
    for name in ("chat_template", "named_templates", "bos_id", "stop_token_ids"):
        assert getattr(again, name) == getattr(tokenizer, name)
    # Readers of other programs look for names: none of the older model is left.
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert left == alone | {"README.md"}


def test_ends_of_the_older_model_do_not_stay(tmp_path):
    save(tmp_path, stop_token_ids=[257, 258])
    assert load_pretrained(tmp_path).tokenizer.stop_token_ids[-1] == 256
    tokenizer = Tokenizer.from_bpe([*"abcdefgh"], [])
    config = tiny_config(vocab_size=8)
    params = jax.tree.map(lambda x: x[:8] if x.shape[0] == 259 else x, tiny_params())
    save_pretrained(tmp_path, Transformer(config), params, tokenizer)
    assert load_pretrained(tmp_path).tokenizer.stop_token_ids == ()


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "other.safetensors", "adapter_model.safetensors", "adapter_config.json",
     "model.gguf", "tf_model.h5"],
)  # fmt: skip
def test_weights_of_another_form_are_not_saved_over_and_not_removed(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"/{name}: belongs to another model"):
        save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_folder_of_two_models_is_refused(tmp_path):
    save(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    shard(tmp_path)
    load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    with pytest.raises(ValueError, match=r"holds two models, model\.safetensors and the parts"):
        load_pretrained(tmp_path)


def test_a_tensor_that_the_index_leaves_out_is_refused(tmp_path):
    save(tmp_path)
    index = shard(tmp_path)
    del index["model.norm.weight"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ValueError, match=r"model\.norm\.weight: .* does not list it here"):
        load_pretrained(tmp_path)


def test_an_adapter_beside_a_model_is_not_left_out_in_silence(tmp_path):
    save(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config\.json: .* merge it into its base model"):
        load_pretrained(tmp_path)
