import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rsft_jax.training.checkpoint import CheckpointError, Checkpoints
from rsft_jax.training.optimizers import make_optimizer

ROOT = Path(__file__).parent.parent.parent
TX = make_optimizer(learning_rate=0.1)


def _arrays(number=1.0):
    number = float(number)
    params = {"mlp": {"kernel": jnp.full((3, 2), number)}, "scale": jnp.full(2, -number)}
    return {
        "params": params,
        "opt_state": TX.init(params),
        "key": jax.random.fold_in(jax.random.key(7), int(number)),
    }


def _assert_arrays(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def _abstract(arrays):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)


@pytest.fixture
def checkpoints(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        yield checkpoints


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    """A folder with checkpoints 1 and 2, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("two")
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _arrays(step), {"round": step})
    return folder


@pytest.mark.parametrize("abstract", [_abstract, lambda arrays: arrays])
def test_checkpoint_returns_what_was_saved(checkpoints, abstract):
    checkpoints.save(3, _arrays(), {"round": 3, "cursor": {"epoch": 1, "at": [1, 2]}})
    found = checkpoints.restore(abstract(_arrays(0.0)))
    _assert_arrays(found.arrays, _arrays())
    assert found.step == 3
    assert found.meta == {"round": 3, "cursor": {"epoch": 1, "at": [1, 2]}}
    # A typed key is usable at once.
    assert jax.random.uniform(found.arrays["key"]) == jax.random.uniform(_arrays()["key"])


def test_latest_is_by_number_and_not_by_time(checkpoints):
    checkpoints.save(10, _arrays(10), {})
    checkpoints.save(9, _arrays(9), {})
    assert checkpoints.restore(_arrays()).step == 10
    assert checkpoints.steps() == [9, 10]


def test_item_without_leaves_is_kept(checkpoints):
    empty = optax.sgd(0.1).init({})
    checkpoints.save(1, {"opt_state": empty, "params": {"w": jnp.ones(1)}}, {})
    found = checkpoints.restore({"opt_state": empty, "params": {"w": jnp.zeros(1)}})
    assert found.arrays["opt_state"] == empty


def test_nothing_saved_is_none(checkpoints):
    assert checkpoints.restore(_arrays()) is None


def test_missing_item_is_refused_by_name(checkpoints):
    arrays = _arrays()
    del arrays["key"]
    checkpoints.save(1, arrays, {})
    with pytest.raises(CheckpointError, match=r"step-00000001 has no item 'key'"):
        checkpoints.restore(_arrays())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a["params"].update(scale=jnp.zeros(3)),
            r"params/scale has the shape \[2\], \[3\]",
        ),
        (
            lambda a: a["params"].update(scale=jnp.zeros(2, jnp.bfloat16)),
            r"params/scale has the dtype float32, bfloat16 was asked for",
        ),
        (lambda a: a.update(key=jax.random.key(0, impl="rbg")), r"key/ has the dtype key<fry>"),
        (lambda a: a["params"].update(bias=jnp.zeros(2)), r"lacks the leaf params/bias"),
        (lambda a: a["params"].pop("scale"), r"nobody asked for, the leaf params/scale"),
    ],
)
def test_another_shape_dtype_or_tree_is_refused_by_leaf(checkpoints, change, message):
    checkpoints.save(1, _arrays(), {})
    wanted = _arrays()
    change(wanted)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore(wanted)


def _flip_bit(file):
    data = bytearray(file.read_bytes())
    if data:
        data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "bit": _flip_bit,
    "half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "deleted": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_falls_back_to_the_step_before(two_saved, tmp_path, damage):
    names = [f.relative_to(two_saved) for f in (two_saved / "step-00000002").rglob("*")]
    names = [name for name in names if (two_saved / name).is_file()]
    assert len(names) > 10
    folder = tmp_path / "copy"
    shutil.copytree(two_saved, folder)
    with Checkpoints(folder) as checkpoints:
        for name in names:
            if damage != "deleted" and (two_saved / name).stat().st_size == 0:
                continue  # an empty marker has nothing to damage
            DAMAGES[damage](folder / name)
            with pytest.warns(
                UserWarning, match="passed over the damaged checkpoint step-00000002"
            ):
                found = checkpoints.restore(_abstract(_arrays()))
            assert found.step == 1, name
            shutil.copy(two_saved / name, folder / name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert checkpoints.restore(_abstract(_arrays())).step == 2


def test_no_valid_checkpoint_lists_the_causes(two_saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two_saved, folder)
    (folder / "step-00000001" / "manifest.json").unlink()
    shutil.rmtree(folder / "step-00000002" / "opt_state")
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(
            CheckpointError,
            match=r"2: opt_state/.* is missing \(and .*step-00000001: manifest.json is missing",
        ),
    ):
        checkpoints.restore(_arrays())


def test_foreign_entries_are_left_alone(checkpoints, tmp_path):
    for name in ("99", "latest", "step-3", "checkpoint_7", ".cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000042.txt").write_text("")
    checkpoints.save(1, _arrays(), {})
    os.utime(tmp_path / "99", (2e9, 2e9))
    assert checkpoints.restore(_arrays()).step == 1
    assert {"99", "latest", "step-3", "checkpoint_7", ".cache"} < set(os.listdir(tmp_path))


def test_max_to_keep_counts_valid_checkpoints_alone(tmp_path):
    with Checkpoints(tmp_path, max_to_keep=2) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, _arrays(step), {})
        assert checkpoints.steps() == [3, 4]
        (tmp_path / "step-00000004" / "manifest.json").unlink()
        checkpoints.save(5, _arrays(5), {})
        assert checkpoints.steps() == [3, 4, 5]
        checkpoints.save(6, _arrays(6), {})
        assert checkpoints.steps() == [5, 6]


def test_valid_checkpoint_is_not_overwritten_but_a_damaged_one_is(checkpoints, tmp_path):
    checkpoints.save(1, _arrays(1), {})
    with pytest.raises(ValueError, match="step 1 has a checkpoint already"):
        checkpoints.save(1, _arrays(2), {})
    (tmp_path / "step-00000001" / "manifest.json").unlink()
    checkpoints.save(1, _arrays(2), {})
    _assert_arrays(checkpoints.restore(_arrays()).arrays, _arrays(2))


def test_metadata_that_is_not_json_is_refused_before_writing(checkpoints, tmp_path):
    with pytest.raises(TypeError):
        checkpoints.save(1, _arrays(), {"array": np.zeros(2)})
    assert os.listdir(tmp_path) == []


def test_another_format_is_refused(checkpoints, monkeypatch):
    monkeypatch.setattr("rsft_jax.training.checkpoint.FORMAT", 2)
    checkpoints.save(1, _arrays(), {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="step-00000001 has format 2; this version reads 1"):
        checkpoints.restore(_arrays())


def test_what_a_killed_save_left_is_cleared(checkpoints, tmp_path):
    (tmp_path / ".saving-step-00000001" / "params").mkdir(parents=True)
    (tmp_path / ".removing-step-00000000").mkdir()
    assert checkpoints.restore(_arrays()) is None
    checkpoints.save(1, _arrays(), {})
    assert os.listdir(tmp_path) == ["step-00000001"]


def test_checkpoints_refuse_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="max_to_keep must be an integer >= 1, got 0"):
        Checkpoints(tmp_path, max_to_keep=0)
    with (
        Checkpoints(tmp_path) as c,
        pytest.raises(ValueError, match="step must be an integer >= 0"),
    ):
        c.save(-1, _arrays(), {})


@pytest.mark.multi_device
def test_checkpoint_restores_onto_another_mesh(checkpoints):
    array = jnp.arange(16.0).reshape(8, 2)
    spec = jax.sharding.PartitionSpec("x")

    def sharding(count):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("x",))
        return jax.sharding.NamedSharding(mesh, spec)

    checkpoints.save(1, {"params": jax.device_put(array, sharding(8))}, {})
    wanted = jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding(2))
    found = checkpoints.restore({"params": wanted}).arrays["params"]
    np.testing.assert_array_equal(found, array)
    assert found.sharding == sharding(2)


RESUME = """
import sys
from tests.training.test_checkpoint import rounds
print(rounds(sys.argv[1], int(sys.argv[2])))
"""


def rounds(folder, last):
    """Trains to the end of round `last` from what `folder` holds; returns a hash of the state."""
    from rsft_jax.models.transformer import Transformer
    from rsft_jax.training.parts import lora
    from rsft_jax.training.state import create_train_state
    from rsft_jax.training.step import fine_tune, make_train_step
    from tests.training.toys import CONFIG, make_batch, make_params

    part = lora(jax.random.key(5), rank=2)
    model = Transformer(part.model(CONFIG))
    tx = make_optimizer(learning_rate=0.02, schedule="cosine", warmup_steps=2, total_steps=6)
    state, frozen = create_train_state(model, part, make_params(), tx)
    key, first = jax.random.key(11), 0
    step = make_train_step(model, part)
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore({"state": state, "key": key})
        if found:
            state, key, first = found.arrays["state"], found.arrays["key"], found.meta["round"]
        for number in range(first + 1, last + 1):
            key, key_data = jax.random.split(key)
            seeds = jax.random.randint(key_data, 3, 0, 10**6).tolist()
            batches = [make_batch(seed=seed) for seed in seeds]
            *_, (state, _) = fine_tune(state, frozen, batches, step)
            checkpoints.save(number, {"state": state, "key": key}, {"round": number})
    assert state.step == 3 * last
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((state, jax.random.key_data(key))):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    straight = rounds(tmp_path / "straight", 2)
    first = rounds(tmp_path / "resumed", 1)
    command = [sys.executable, "-c", RESUME, str(tmp_path / "resumed"), "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == straight
    assert straight != first


SAVE_FOREVER = """
import sys
from tests.training.test_checkpoint import Checkpoints, _arrays
with Checkpoints(sys.argv[1], max_to_keep=2) as checkpoints:
    found = checkpoints.restore(_arrays())
    step = found.step if found else 0
    while True:
        step += 1
        checkpoints.save(step, _arrays(step), {"round": step})
        print(step, flush=True)
"""


@pytest.mark.slow
def test_killed_run_keeps_every_acknowledged_save(tmp_path):
    generator = np.random.default_rng(0)
    last = 0
    for _ in range(12):
        command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
            acknowledged = [int(run.stdout.readline())]
            time.sleep(generator.uniform(0, 0.3))
            run.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in run.stdout.read().splitlines()]
        with Checkpoints(tmp_path) as checkpoints, warnings.catch_warnings():
            warnings.simplefilter("error")
            found = checkpoints.restore(_arrays())
        assert found.step >= acknowledged[-1] > last
        _assert_arrays(found.arrays, _arrays(found.step))
        last = found.step
