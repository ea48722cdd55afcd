"""One process of several, as `test_processes.py` starts them; also imported there as the only one.

python one_process.py ADDRESS NUM_PROCESSES PROCESS_ID FOLDER
"""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parent.parent.parent)


def train_and_restore(devices, folder, save_as, restore_from):
    """Two steps on a mesh of 4 devices, a checkpoint of its own, and another's restored."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import multihost_utils

    from rsft_jax.models.transformer import Transformer
    from rsft_jax.sharding import make_mesh, process_rows, shard_batch, train_shardings
    from rsft_jax.training import (
        Checkpoints,
        abstract_train_state,
        all_parameters,
        create_train_state,
        make_optimizer,
        make_train_step,
    )
    from tests.training.toys import CONFIG, make_batch, make_params

    part = all_parameters()
    config = dataclasses.replace(CONFIG, dtype=jnp.float64)
    model = Transformer(part.model(config))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), make_params())
    tx = make_optimizer(learning_rate=0.01)
    mesh = make_mesh(data=2, fsdp=2, devices=devices)
    abstract, frozen = abstract_train_state(model, part, params, tx)
    shardings = train_shardings(mesh, "fsdp", model, abstract, frozen)
    state, frozen = create_train_state(model, part, params, tx, shardings=shardings)
    step = make_train_step(model, part, shardings=shardings)
    rows = process_rows(shardings.batch, 8)
    losses = []
    for seed in range(2):
        local = jax.tree.map(lambda x: np.asarray(x)[rows], make_batch(seed=seed))
        state, metrics = step(state, frozen, shard_batch(shardings.batch, local, 8))
        losses.append(float(metrics.loss))

    def whole(tree):
        leaves = jax.tree.leaves(tree)
        return [np.asarray(multihost_utils.process_allgather(x, tiled=True)) for x in leaves]

    items = {"params": state.params, "opt_state": state.opt_state}
    with Checkpoints(folder / save_as) as checkpoints:
        checkpoints.save(2, items, {"losses": losses})
    found = {"rows": np.asarray(rows), "losses": np.asarray(losses)}
    found |= {f"own-{i:03d}": x for i, x in enumerate(whole(items))}
    if restore_from is not None:
        with Checkpoints(folder / restore_from) as checkpoints:
            restored = checkpoints.restore(items)
        found |= {f"restored-{i:03d}": x for i, x in enumerate(whole(restored.arrays))}
    return found


if __name__ == "__main__":
    address, count, number, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    sys.path.insert(0, ROOT)
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, number)
    arrays = train_and_restore(jax.devices(), Path(folder), "two", "one")
    np.savez(Path(folder) / f"process-{number}.npz", **arrays)
