"""Checkpoints that are whole or not there, and that are checked before they are used.

A checkpoint is a folder `step-00000007` of named items (parameters, optimizer, keys), written by
Orbax, and of `manifest.json`: the caller's metadata, the shape and dtype of every leaf, the size
and SHA-256 of every file, and its own. It is written under another name, flushed to the disk, and
renamed; so a killed run leaves no half checkpoint under a name that counts. `restore` takes the
latest checkpoint whose files are what the manifest says.

(Orbax's own `CheckpointManager` is not used: it counts any folder named by a number as a step,
for its retention too, restores files whose bits have flipped, and casts to another dtype.)

In a run of several processes all call `save` and `restore`, on a file system that they share; each
writes its part of the arrays. A checkpoint is read on any other mesh or number of processes.

Log lines come from Orbax through `logging`; the caller decides on their level.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from rsft_jax.numerics.checks import check_integer

FORMAT = 1
"""Version of the layout on disk."""
_MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d{8,})")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, incomplete, or of another shape than asked for."""


class Restored(NamedTuple):
    """What `Checkpoints.restore` found.

    Attributes:
      step: the step it was saved under.
      arrays: the items, as trees of arrays of the structure that was asked for.
      meta: the metadata given to `save`.
    """

    step: int
    arrays: dict[str, Any]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in one folder.

    Args:
      directory: made if it is missing. Whatever else lies in it is left alone.
      max_to_keep: so many of the latest checkpoints stay; all of them by default.

    Raises:
      ValueError: if `max_to_keep` is below 1.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
      ...     checkpoints.save(1, {"params": {"w": jnp.ones(2)}}, {"round": 1})
      ...     found = checkpoints.restore({"params": {"w": jnp.zeros(2)}})
      >>> found.step, found.arrays["params"]["w"].tolist(), found.meta
      (1, [1.0, 1.0], {'round': 1})
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_to_keep: int | None = None):
        if max_to_keep is not None:
            check_integer("max_to_keep", max_to_keep)
        self._directory = Path(directory).absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._max_to_keep = max_to_keep
        self._orbax = ocp.Checkpointer(ocp.CompositeCheckpointHandler())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases what Orbax holds; saves are complete without it."""
        self._orbax.close()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint folder, in order; not yet checked."""
        found = [_STEP.fullmatch(entry.name) for entry in self._directory.iterdir()]
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Writes a checkpoint; when this returns it is on the disk.

        Args:
          step: number of the checkpoint, at least 0; decides which is the latest.
          arrays: named items, each a tree of arrays; typed keys are arrays too.
          meta: what JSON can hold: round, data cursor, configuration.

        Raises:
          ValueError: if there is a valid checkpoint of this step (a damaged one is replaced), or
            `step` is negative.
          TypeError: if `meta` is not JSON.
        """
        check_integer("step", step, 0)
        final = self._folder(step)
        if final.exists() and not _faults(final):
            raise ValueError(f"step {step} has a checkpoint already, in {final}")
        _wait_for_others("checked")
        if _is_first():
            if final.exists():
                self._remove(final)
            self._clear()
        _wait_for_others("cleared")
        leaves = {item: _flatten(tree) for item, tree in arrays.items()}
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "step": step,
            "meta": dict(meta),
            "items": {
                item: {path: _spec(leaf) for path, leaf in flat.items()}
                for item, flat in leaves.items()
            },
        }
        _seal(manifest)  # fails before anything is written
        partial = self._directory / f".saving-{final.name}"
        # Orbax refuses a tree without leaves, such as the state of plain SGD.
        full = {item: ocp.args.StandardSave(flat) for item, flat in leaves.items() if flat}
        self._orbax.save(partial, args=ocp.args.Composite(**full))
        _wait_for_others("written")
        if _is_first():
            self._finish(step, partial, manifest)
        _wait_for_others("finished")

    def _finish(self, step: int, partial: Path, manifest: dict[str, Any]) -> None:
        """Adds the manifest to what all processes have written, and gives it its name."""
        final = self._folder(step)
        manifest["files"] = {
            str(file.relative_to(partial)): _digest(file, flush=True) for file in _files(partial)
        }
        with open(partial / _MANIFEST, "w", encoding="utf-8") as stream:
            json.dump({"sha256": _seal(manifest), "manifest": manifest}, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        for folder in [partial, *(entry for entry in partial.rglob("*") if entry.is_dir())]:
            _flush_folder(folder)
        os.rename(partial, final)
        _flush_folder(self._directory)
        self._retire(step)

    def restore(self, abstract: Mapping[str, Any]) -> Restored | None:
        """Reads the latest valid checkpoint.

        Args:
          abstract: the items wanted, as trees of arrays or `jax.ShapeDtypeStruct`; a leaf that has
            a sharding is restored to it, and an array that is bound to no device as such.

        Returns:
          The checkpoint, or None where none was ever completed.

        Raises:
          CheckpointError: if there are checkpoints but none is valid (with the causes), an item is
            missing (with its name), or a leaf is missing, of another shape, or of another dtype.

        Warns:
          UserWarning: for each damaged checkpoint that was passed over.
        """
        causes: list[str] = []
        for step in reversed(self.steps()):
            folder = self._folder(step)
            faults = _faults(folder)
            if not faults:
                for cause in causes:
                    warnings.warn(f"passed over the damaged checkpoint {cause}", stacklevel=2)
                return self._read(step, folder, abstract)
            causes.append(f"{folder.name}: {faults[0]}" + _and_more(len(faults) - 1))
        if causes:
            raise CheckpointError(f"no valid checkpoint in {self._directory}: " + "; ".join(causes))
        return None

    def _read(self, step: int, folder: Path, abstract: Mapping[str, Any]) -> Restored:
        manifest = _manifest(folder)
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{folder.name} has format {manifest['format']}; this version reads {FORMAT}"
            )
        wanted = {item: _flatten(tree) for item, tree in abstract.items()}
        _compare(folder.name, manifest["items"], wanted)
        args = {
            item: ocp.args.StandardRestore({path: _abstract(leaf) for path, leaf in flat.items()})
            for item, flat in wanted.items()
            if flat
        }
        read = self._orbax.restore(folder, args=ocp.args.Composite(**args)) if args else {}
        arrays = {
            item: jax.tree.unflatten(
                jax.tree.structure(tree),
                [_placed_as(leaf, read[item][path]) for path, leaf in wanted[item].items()],
            )
            for item, tree in abstract.items()
        }
        return Restored(step, arrays, manifest["meta"])

    def _folder(self, step: int) -> Path:
        return self._directory / f"step-{step:08d}"

    def _retire(self, newest: int) -> None:
        """Removes old checkpoints. Damaged ones do not count, so that they push no good one out."""
        if self._max_to_keep is None:
            return
        older = [step for step in self.steps() if step < newest]
        keep = self._max_to_keep - 1
        for step in reversed(older):
            if keep and not _faults(self._folder(step), contents=False):
                keep -= 1
            elif not keep:
                self._remove(self._folder(step))

    def _remove(self, folder: Path) -> None:
        # Renamed first: killed in the middle, this leaves no half checkpoint under a valid name.
        doomed = self._directory / f".removing-{folder.name}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
        shutil.rmtree(doomed)

    def _clear(self) -> None:
        """Removes what a killed run was writing or removing, by the names that only we use."""
        for entry in self._directory.iterdir():
            if re.match(r"\.(saving|removing)-step-\d+", entry.name):
                shutil.rmtree(entry, ignore_errors=True)


def _is_first() -> bool:
    return jax.process_index() == 0


def _wait_for_others(what: str) -> None:
    """One process renames and removes; the others wait until it has."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"rsft_jax checkpoint {what}")


def _flatten(tree: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _spec(leaf: Any) -> dict[str, Any]:
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    # Without a sharding Orbax would take the one on disk, from a mesh that may not exist here.
    sharding = getattr(leaf, "sharding", None)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _placed_as(wanted: Any, read: Any) -> Any:
    """What was read, bound to a device only where what was wanted is.

    Orbax binds all it reads to a device; a program for arrays that are bound is another one than
    that for arrays that are not, and a run that goes on would compile everything again.
    """
    if not isinstance(wanted, jax.Array) or wanted.committed or not isinstance(read, jax.Array):
        return read
    if jnp.issubdtype(read.dtype, jax.dtypes.prng_key):
        data = jnp.array(np.asarray(jax.random.key_data(read)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(read))
    return jnp.array(np.asarray(read))  # a copy: the state is donated


def _compare(
    name: str, saved: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]]
) -> None:
    for item, flat in wanted.items():
        if item not in saved:
            raise CheckpointError(f"{name} has no item {item!r}; it has {sorted(saved)}")
        for path in sorted(flat.keys() ^ saved[item].keys()):
            where = "lacks" if path in flat else "has, and nobody asked for,"
            raise CheckpointError(f"{name} {where} the leaf {item}/{path}")
        for path, leaf in flat.items():
            found, asked = saved[item][path], _spec(leaf)
            for what in ("shape", "dtype"):
                if found[what] != asked[what]:
                    raise CheckpointError(
                        f"{name}: {item}/{path} has the {what} {found[what]}, "
                        f"{asked[what]} was asked for"
                    )


def _faults(folder: Path, *, contents: bool = True) -> list[str]:
    """What is wrong with a checkpoint's files; empty for a valid one."""
    try:
        files = _manifest(folder)["files"].items()
    except FileNotFoundError:
        return [f"{_MANIFEST} is missing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{_MANIFEST} is damaged ({type(error).__name__})"]
    faults = []
    for name, expected in files:
        file = folder / name
        if not file.is_file():
            faults.append(f"{name} is missing")
        elif file.stat().st_size != expected["size"]:
            faults.append(f"{name} has {file.stat().st_size} bytes, not {expected['size']}")
        elif contents and _digest(file)["sha256"] != expected["sha256"]:
            faults.append(f"{name} has changed since it was written")
    return faults


def _seal(manifest: Mapping[str, Any]) -> str:
    """Checksum of a manifest, whatever the whitespace of the file that holds it."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    if document["sha256"] != _seal(document["manifest"]):
        raise ValueError("the checksum of the manifest is wrong")
    return document["manifest"]


def _files(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.rglob("*") if entry.is_file())


def _digest(file: Path, *, flush: bool = False) -> dict[str, Any]:
    with open(file, "rb") as stream:
        if flush:
            os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256")
    return {"size": file.stat().st_size, "sha256": digest.hexdigest()}


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _and_more(count: int) -> str:
    return f" (and {count} more)" if count else ""
