"""The weights as they are written: dtype, and several files with an index."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rsft_jax.interop import load_pretrained, pretrained_dtype, save_pretrained
from rsft_jax.models import Transformer
from tests.tiny import tiny_config, tiny_params, tiny_tensors, tiny_tokenizer, write_tiny_gguf

INDEX = "model.safetensors.index.json"


def save(folder, params=None, **options):
    params = tiny_params() if params is None else params
    save_pretrained(folder, Transformer(tiny_config()), params, tiny_tokenizer(), **options)


def test_several_files_are_the_model_of_one(tmp_path):
    save(tmp_path / "one")
    save(tmp_path / "many", max_shard_bytes=60_000)
    names = sorted(file.name for file in (tmp_path / "many").glob("*.safetensors"))
    count = len(names)
    assert count > 3
    assert names == [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    index = json.loads((tmp_path / "many" / INDEX).read_text())
    whole = load_file(tmp_path / "one" / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    found = {}
    for name in names:
        part = load_file(tmp_path / "many" / name)
        assert sum(t.nbytes for t in part.values()) <= 60_000 or len(part) == 1
        assert all(index["weight_map"][tensor] == name for tensor in part)
        found |= part
    assert found.keys() == whole.keys() == index["weight_map"].keys()
    read = load_pretrained(tmp_path / "many").params
    jax.tree.map(np.testing.assert_array_equal, read, tiny_params())


def test_a_divided_model_takes_the_place_of_a_whole_one_and_back(tmp_path):
    for seed, size in enumerate((10**9, 60_000, 90_000, 10**9)):
        save(tmp_path, tiny_params(seed), max_shard_bytes=size)
        read = load_pretrained(tmp_path).params
        jax.tree.map(np.testing.assert_array_equal, read, tiny_params(seed))
        assert (tmp_path / INDEX).exists() != (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_saved_dtype_is_that_of_the_file_and_of_its_description(tmp_path, dtype):
    save(tmp_path, dtype=dtype)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, tensor in tiny_tensors().items():
        assert tensors[name].dtype.name == dtype
        rounded = np.asarray(jnp.asarray(tensor).astype(dtype))  # by XLA
        np.testing.assert_array_equal(tensors[name], rounded)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype
    assert pretrained_dtype(tmp_path) == dtype


def test_the_dtype_of_a_model_is_that_of_most_of_its_numbers(tmp_path):
    save(tmp_path, dtype="bfloat16")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    few = {k: v.astype(np.float32) for k, v in tensors.items() if "attn" in k or "norm" in k}
    assert len(few) > len(tensors) / 2
    save_file(tensors | few, path)
    assert pretrained_dtype(tmp_path) == "bfloat16"
    save_file({k: v.astype(np.float64) for k, v in tensors.items()}, path)
    assert pretrained_dtype(tmp_path) == "float32"
    assert pretrained_dtype(write_tiny_gguf(tmp_path / "m.gguf", quantized=True)) == "float32"


def test_a_number_that_the_dtype_cannot_hold_is_refused_and_the_old_model_stays(tmp_path):
    save(tmp_path)
    params = jax.tree.map(jnp.copy, tiny_params())
    params["final_norm"]["scale"] = params["final_norm"]["scale"].at[3].set(1e6)
    with pytest.raises(ValueError, match=r"model\.norm\.weight: 1e\+06 is beyond what float16"):
        save(tmp_path, params, dtype="float16")
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path).params, tiny_params())
    for options, message in (
        ({"dtype": "float8"}, "dtype must be one of float32, bfloat16, float16, got 'float8'"),
        ({"max_shard_bytes": 0}, "max_shard_bytes must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            save(tmp_path / "new", **options)


def test_parameters_may_keep_the_dtype_that_they_have_in_the_files(tmp_path):
    save(tmp_path / "half", dtype="bfloat16")
    file = tmp_path / "half" / "model.safetensors"
    tensors = load_file(file)
    norm = "model.norm.weight"
    tensors[norm] = tiny_tensors()[norm].astype(np.float64)  # wider than JAX has: float32
    save_file(tensors, file)
    wide = load_pretrained(tmp_path / "half").params
    kept = load_pretrained(tmp_path / "half", params_dtype="checkpoint").params
    jax.tree.map(np.testing.assert_array_equal, kept, wide)
    scale = kept["final_norm"].pop("scale")
    assert scale.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(kept)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(wide)} == {"float32"}
    path = write_tiny_gguf(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="params_dtype must be 'float32' for a GGUF file"):
        load_pretrained(path, params_dtype="checkpoint")
    with pytest.raises(ValueError, match="params_dtype must be one of"):
        load_pretrained(tmp_path / "half", params_dtype="bfloat16")
