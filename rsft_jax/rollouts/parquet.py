"""Writes and reads rollout files: one Parquet file for the candidates of one round and arm.

The files are plain Parquet: `polars.read_parquet("rollouts/*.parquet")`, `pandas.read_parquet`,
`select * from 'rollouts/*.parquet'` in DuckDB and `datasets.load_dataset("parquet", ...)` read
them as they lie.
"""

import dataclasses
import itertools
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rsft_jax.rollouts import schema

_BUFFER_BYTES = 1 << 20  # of a column that is read in pieces


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """The columns of a rollout file; R is the number of rows.

    Attributes:
      columns: name -> R values. Numbers and booleans are `[R]` NumPy arrays, where NaN stands for
        "could not be scored"; texts are lists of `str`; `tokens` and `log_probs` are lists of
        arrays, one per row.
    """

    columns: dict[str, Any]

    @property
    def num_rows(self) -> int:
        """R, the number of candidates."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the reward terms, in the order of the file."""
        prefix = schema.TERM_PREFIX
        return tuple(name[len(prefix) :] for name in self.columns if name.startswith(prefix))

    def __getitem__(self, name: str) -> Any:
        """Returns the column `name`."""
        return self.columns[name]


def write_rollouts(path: str | os.PathLike[str], rows: Mapping[str, Sequence[Any]]) -> Path:
    """Writes candidates to `path`, all of them or nothing.

    The file appears under its name when it is complete and on disk; a reader, or a writer that is
    killed, never leaves half of one. A file of that name is replaced. NaN in a float column is
    written as null, so that every reader leaves it out of its means.

    Args:
      path: the file; its folder is made when missing.
      rows: name -> R values, for every column in `schema.COLUMNS`, any `term/<name>`, and either
        all of `schema.SELECTION_COLUMNS` or none. `tokens` and `log_probs` hold one sequence per
        row, of equal lengths.

    Returns:
      The path written.

    Raises:
      ImportError: pyarrow is not installed.
      ValueError: a column is missing, unknown, of another length or of another type.

    Example:
      >>> import tempfile
      >>> rows = {
      ...     "round": [1], "arm": ["policy"], "prompt_id": ["p0"], "candidate": [0],
      ...     "prompt": ["Once"], "completion": [" upon"], "tokens": [[7, 2]],
      ...     "log_probs": [[-0.5, -0.1]], "finished": [True], "reward": [0.3],
      ...     "judge": [float("nan")],
      ... }
      >>> folder = tempfile.TemporaryDirectory()
      >>> read_rollouts(write_rollouts(folder.name + "/one.parquet", rows))["tokens"]
      [array([7, 2], dtype=int32)]
    """
    pa = _pyarrow()
    path = Path(path)
    _check_columns(rows, path)
    table = pa.table({name: _to_arrow(pa, name, values, path) for name, values in rows.items()})
    _check_token_lengths(table, path)
    table = table.replace_schema_metadata({"rsft_jax.rollouts": schema.VERSION})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            # Page checksums let a reader find a flipped bit instead of using it.
            pa.parquet.write_table(table, file, compression="zstd", write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_rollouts(path: str | os.PathLike[str], *, without: Collection[str] = ()) -> Rollouts:
    """Reads a rollout file and checks it against the schema.

    Columns that the schema does not know are kept: a later version may add some.

    Args:
      path: a file as written by `write_rollouts`.
      without: columns to leave unread, such as the large `tokens` and `log_probs`.

    Raises:
      ImportError: pyarrow is not installed.
      FileNotFoundError: there is no such file.
      ValueError: the file is cut, damaged or no Parquet file, or a column is missing or has
        another type.
    """
    pa = _pyarrow()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no rollout file at {path}")
    try:
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_types(file.schema_arrow, path)
            names = file.schema_arrow.names
            table = file.read(columns=[name for name in names if name not in without])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged or not a Parquet file: {error}") from error
    return Rollouts({name: _from_arrow(table[name]) for name in table.column_names})


def scan_rollouts(
    path: str | os.PathLike[str],
    columns: Collection[str] | None = None,
    *,
    without: Collection[str] = (),
    batch_rows: int = 4096,
) -> Iterator[Rollouts]:
    """Reads columns of a rollout file piece by piece, so that it need not fit in memory.

    Args:
      path: a file as written by `write_rollouts`.
      columns: those to read, as far as the file has them; None for all.
      without: columns to leave unread.
      batch_rows: the most rows of a piece, at least 1.

    Yields:
      The rows in order. A file that is replaced meanwhile is read to the end as it was.

    Raises:
      ImportError: pyarrow is not installed.
      FileNotFoundError: there is no such file.
      ValueError: `batch_rows` is too small, or the file is as `read_rollouts` refuses it.

    Example:
      >>> import tempfile
      >>> rows = {
      ...     "round": [1, 1], "arm": ["policy"] * 2, "prompt_id": ["p0"] * 2, "candidate": [0, 1],
      ...     "prompt": ["Once"] * 2, "completion": [" upon", " more"], "tokens": [[7, 2], [9]],
      ...     "log_probs": [[-0.5, -0.1], [-1.0]], "finished": [True] * 2, "reward": [0.3, 0.1],
      ...     "judge": [0.0, 0.0],
      ... }
      >>> folder = tempfile.TemporaryDirectory()
      >>> file = write_rollouts(folder.name + "/one.parquet", rows)
      >>> [piece.columns for piece in scan_rollouts(file, ["completion"], batch_rows=1)]
      [{'completion': [' upon']}, {'completion': [' more']}]
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
    pa = _pyarrow()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no rollout file at {path}")
    try:
        with pa.parquet.ParquetFile(
            path, page_checksum_verification=True, buffer_size=_BUFFER_BYTES
        ) as file:
            _check_types(file.schema_arrow, path)
            names = [
                name
                for name in file.schema_arrow.names
                if name not in without and (columns is None or name in columns)
            ]
            for batch in file.iter_batches(batch_rows, columns=names, use_threads=False):
                table = pa.Table.from_batches([batch])
                yield Rollouts({name: _from_arrow(table[name]) for name in names})
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged or not a Parquet file: {error}") from error


def _pyarrow() -> ModuleType:
    """Imports pyarrow when it is first needed: the library without the extra stays importable."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("rollout files need pyarrow: pip install 'rsft_jax[rollouts]'") from error
    return pyarrow


def _check_columns(rows: Mapping[str, Sequence[Any]], path: Path) -> None:
    missing = [name for name in schema.required_columns(rows) if name not in rows]
    if missing:
        raise ValueError(f"{path}: missing columns {missing}; given {sorted(rows)}")
    for name, values in rows.items():
        if schema.column_type(name) is None:
            raise ValueError(
                f"{path}: unknown column {name!r}; the nearest is {schema.nearest_column(name)!r}"
                f", a reward term is '{schema.TERM_PREFIX}<name>'"
            )
        if len(values) != len(rows["round"]):
            raise ValueError(
                f"{path}: column {name!r} has {len(values)} rows, 'round' has {len(rows['round'])}"
            )


def _arrow_type(pa: ModuleType, name: str) -> Any:
    """The Arrow type of a column that the schema knows."""
    return {
        "int32": pa.int32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "string": pa.string(),
        "list<int32>": pa.list_(pa.int32()),
        "list<float32>": pa.list_(pa.float32()),
    }[schema.column_type(name) or ""]


def _to_arrow(pa: ModuleType, name: str, values: Sequence[Any], path: Path) -> Any:
    kind = _arrow_type(pa, name)
    plain = values if isinstance(values, np.ndarray) and values.ndim == 1 else list(values)
    try:
        # from_pandas turns NaN into null, but for log-probabilities, where it must stay visible.
        array = pa.array(plain, type=kind, from_pandas=pa.types.is_float64(kind))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: column {name!r} is not {kind}: {error}") from error
    if array.null_count and not pa.types.is_float64(kind):
        row = array.is_null().index(True).as_py()
        raise ValueError(f"{path}: column {name!r} has no value at row {row}")
    return array


def _check_token_lengths(table: Any, path: Path) -> None:
    tokens, log_probs = (
        np.diff(table[name].combine_chunks().offsets.to_numpy()) for name in ("tokens", "log_probs")
    )
    if (wrong := np.flatnonzero(tokens != log_probs)).size:
        row = int(wrong[0])
        raise ValueError(
            f"{path}: row {row} has {tokens[row]} tokens and {log_probs[row]} log_probs"
        )


def _check_types(found: Any, path: Path) -> None:
    types = {
        field.name: str(field.type).replace("element: ", "").replace("item: ", "")
        for field in found
    }
    types = {
        name: {"double": "float64", "list<float>": "list<float32>"}.get(kind, kind)
        for name, kind in types.items()
    }
    if missing := [name for name in schema.required_columns(types) if name not in types]:
        raise ValueError(f"{path}: missing columns {missing}; it has {list(types)}")
    for name, kind in types.items():
        if (wanted := schema.column_type(name)) is not None and kind != wanted:
            raise ValueError(f"{path}: column {name!r} is {kind}, not {wanted}")


def _from_arrow(column: Any) -> Any:
    kind = str(column.type)
    if kind in ("int32", "double"):
        return column.to_numpy()  # null becomes NaN in a float column
    if kind == "bool":
        return np.asarray(column.to_pylist(), dtype=bool)
    if kind.startswith("list<"):
        return [np.asarray(values) for values in _split(column)]
    return column.to_pylist()


def _split(column: Any) -> list[np.ndarray]:
    """Cuts a list column into one array per row without a Python object per token."""
    array = column.combine_chunks()
    if hasattr(array, "chunks"):  # a chunked array of one chunk, in some versions of pyarrow
        array = array.chunk(0)
    offsets = array.offsets.to_numpy()
    values = array.values.to_numpy(zero_copy_only=False)
    return [values[start:stop] for start, stop in itertools.pairwise(offsets)]
