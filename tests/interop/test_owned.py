"""Arrays of files as arrays of JAX: copied right, copied once, shared with nobody."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.interop.formats.safetensors import SafetensorsFile
from rsft_jax.interop.owned import copied, hand_over
from rsft_jax.interop.weights import params_from_tensors
from rsft_jax.models.families.llama import FAMILY as LLAMA
from tests.tiny import tiny_config, tiny_params, tiny_tensors

WHOLE = np.random.default_rng(0).normal(size=(300, 700))
VIEWS = {
    "as it lies": WHOLE,
    "transposed": WHOLE.T,
    "columns": WHOLE[:, 10:520],
    "transposed columns": WHOLE.T[:, 5:290],
    "every other": WHOLE[::2, ::3].T,
    "backwards": WHOLE.T[::-1, ::-1],
    "one tile and a number": WHOLE[:257, :257].T,
    "row": WHOLE[3],
    "column": WHOLE[:, 3],
    "three axes": WHOLE.reshape(3, 100, 700).transpose(2, 0, 1),
    "none": WHOLE[:0].T,
    "number": WHOLE[1, 2],
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("kinds", [("f8", "f4"), ("f4", "f4"), (jnp.bfloat16, "f4"), ("f2", "f2")])
def test_a_copy_has_the_numbers_of_any_view(name, kinds):
    view = np.asarray(VIEWS[name]).astype(kinds[0], order="K")
    made = copied(view, kinds[1])
    expected = view.astype(kinds[1])
    assert made.dtype == expected.dtype
    assert made.flags.c_contiguous
    assert made.ctypes.data % 64 == 0 or not made.size
    assert not np.shares_memory(made, view)
    np.testing.assert_array_equal(made, expected)


def test_the_copy_is_the_array_and_not_copied_again():
    made = copied(WHOLE.T, np.float32)
    array = hand_over(made)
    np.testing.assert_array_equal(array, WHOLE.T.astype(np.float32))
    if jax.default_backend() == "cpu":
        assert array.unsafe_buffer_pointer() == made.ctypes.data


def test_an_array_that_is_donated_leaves_the_others_alone():
    first, second = (hand_over(copied(WHOLE, np.float32)) for _ in range(2))
    donated = jax.jit(lambda x: x + 1, donate_argnums=0)(first)
    np.testing.assert_array_equal(second, WHOLE.astype(np.float32))
    np.testing.assert_array_equal(donated, WHOLE.astype(np.float32) + 1)


def _aligned_file(path, tensors):
    """A safetensors file whose tensors begin where JAX would take over memory without a copy."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape}
        header[name]["data_offsets"] = [end, end + tensor.nbytes]
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    body = b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_parameters_do_not_change_with_the_file_that_they_were_read_from(tmp_path):
    path = tmp_path / "model.safetensors"
    _aligned_file(path, tiny_tensors())
    file = SafetensorsFile(path)
    assert file["model.embed_tokens.weight"].ctypes.data % 64 == 0
    for kept in ("float32", "checkpoint"):
        params = params_from_tensors(path, LLAMA, tiny_config(), file, params_dtype=kept)
        jax.tree.map(np.testing.assert_array_equal, params, tiny_params())
    written = np.memmap(path, np.uint8, "r+")
    written[path.stat().st_size // 2 :] = 1  # in place: a mapped file sees it
    written.flush()
    assert (file["model.norm.weight"] != tiny_tensors()["model.norm.weight"]).all()
    jax.tree.map(np.testing.assert_array_equal, params, tiny_params())


def test_parameters_are_on_the_device_that_is_the_default_of_the_caller():
    with jax.default_device(jax.devices()[-1]):
        params = params_from_tensors(Path("tiny"), LLAMA, tiny_config(), tiny_tensors())
    assert params["final_norm"]["scale"].devices() == {jax.devices()[-1]}


def test_the_first_tensor_that_is_wrong_is_named():
    tensors = tiny_tensors()
    for i in (1, 0):
        del tensors[f"model.layers.{i}.mlp.up_proj.weight"]
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up_proj.*is missing"):
        params_from_tensors(Path("tiny"), LLAMA, tiny_config(), tensors)


def _resident(path):
    """Bytes of a mapped file that the process holds."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc")
def test_a_file_that_has_been_read_is_given_back(tmp_path):
    path = tmp_path / "model.safetensors"
    big = np.random.default_rng(1).normal(size=(512, 1024)).astype(np.float32)
    _aligned_file(path, {"small": big[0], "big": big, "last": big[1]})
    file = SafetensorsFile(path)
    assert file["big"].sum() == big.sum()
    assert _resident(path) > 0.9 * big.nbytes
    file.forget("big")
    assert _resident(path) < 0.1 * big.nbytes
    for name, expected in (("small", big[0]), ("big", big), ("last", big[1])):
        np.testing.assert_array_equal(file[name], expected)
        file.forget(name)
