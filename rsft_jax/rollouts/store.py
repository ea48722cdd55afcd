"""An append-only store of candidates: Parquet parts, each with a checksum in the manifest.

    STORE/round-001-policy.parquet      parts: plain Parquet files
    STORE/draws-5d41402abc4b.parquet
    STORE/manifest/PART.json            one entry a part: bytes, checksum, what can be found in it

A part is written beside its name, flushed to the disk, renamed, and only then entered in the
manifest, which is written the same way. So there is no moment at which a writer that is killed
leaves a store that cannot be read: what is not in the manifest does not count. There is no file
that two writers share: each part has a name of its own, made of its content, and its own entry.

What a candidate is looked up by is its *draw*, a hash of the policy's fingerprint, the sampling
law, the random key, the number of the prompt under that key and the prompt's tokens: all that its
law and its randomness depend on. Candidates 0 to N - 1 of a draw do not depend on N, so a draw that
holds 16 also answers for 8.
"""

import dataclasses
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.rollouts.parquet import Rollouts, read_rollouts, write_rollouts

_MANIFEST = "manifest"
_LABEL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."


def draw_name(policy: str, law: str, key: str, place: int, tokens: Iterable[int]) -> str:
    """Names one prompt's candidates by all that they depend on.

    Args:
      policy: fingerprint of the policy, as of `fingerprint`.
      law: the sampling law, in any canonical form, such as `repr` of `SamplingParams`.
      key: the random key, in any canonical form.
      place: the number of the prompt under that key.
      tokens: ids of the prompt, without padding.

    Returns:
      32 hexadecimal digits.

    >>> draw_name("a", "t=1", "0", 3, [5, 6]) == draw_name("a", "t=1", "0", 3, [5, 6])
    True
    """
    ids = ",".join(str(int(token)) for token in tokens)
    return _hash("\x1f".join((policy, law, key, str(int(place)), ids)).encode())[:32]


def fingerprint(arrays: Iterable[tuple[str, Any]], *, about: str = "") -> str:
    """Names a set of arrays by their names, types, shapes and every bit of their values.

    Args:
      arrays: (name, array) in a fixed order, such as the leaves of a parameter tree.
      about: what else counts, such as the shape of the model.

    Returns:
      32 hexadecimal digits.

    >>> fingerprint([("w", np.zeros(2))]) == fingerprint([("w", np.array([0.0, -0.0]))])
    False
    """
    digest = hashlib.sha256(about.encode())
    for name, array in arrays:
        values = np.ascontiguousarray(array)
        digest.update(f"\x1e{name}\x1f{values.dtype}\x1f{values.shape}\x1f".encode())
        digest.update(values.view(np.uint8).data if values.size else b"")
    return digest.hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class Part:
    """An entry of the manifest.

    Attributes:
      name: of the file.
      bytes: its size.
      sha256: its checksum.
      rows: how many candidates it holds.
      draws: the draws in it, with how many candidates of each; empty when its rows name none.
      created: number that grows from entry to entry of one writer, nanoseconds since 1970.
    """

    name: str
    bytes: int
    sha256: str
    rows: int
    draws: Mapping[str, int]
    created: int


class Drawn(NamedTuple):
    """The candidates of one draw, in order.

    Attributes:
      tokens: N arrays `[length]` int32.
      log_probs: N arrays `[length]` float32 nats.
      finished: `[N]` bool.
      failed: `[N]` bool.
      texts: N completions.
      log_prob: `[N]` float64 of whole completions, where it is known besides; NaN elsewhere.
    """

    tokens: list[np.ndarray]
    log_probs: list[np.ndarray]
    finished: np.ndarray
    failed: np.ndarray
    texts: list[str]
    log_prob: np.ndarray


class RolloutStore:
    """The store in a folder, for any number of readers and writers at the same time.

    Args:
      folder: made when something is first appended.

    Example:
      >>> import tempfile
      >>> rows = {
      ...     "round": [1], "arm": ["policy"], "prompt_id": ["p0"], "candidate": [0],
      ...     "prompt": ["Once"], "completion": [" upon"], "tokens": [[7, 2]],
      ...     "log_probs": [[-0.5, -0.1]], "finished": [True], "reward": [0.3], "judge": [0.0],
      ...     "draw": ["d0"],
      ... }
      >>> folder = tempfile.TemporaryDirectory()
      >>> store = RolloutStore(folder.name)
      >>> _ = store.append(rows)
      >>> store.find(["d0", "d1"], 1)["d0"].tokens
      [array([7, 2], dtype=int32)]
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._checked: dict[tuple[str, str], str] = {}  # (name, sha256) -> problem or ""
        self._found: dict[str, Drawn] = {}

    def append(self, rows: Mapping[str, Sequence[Any]], *, name: str | None = None) -> Path:
        """Writes a part and enters it in the manifest; both are on the disk on return.

        Args:
          rows: as of `write_rollouts`; those with a column `draw` can be found by it.
          name: of the file, without suffix. None makes one of the content, which any number of
            writers may do at the same time. A name of one's own belongs to one writer alone, and
            replaces the part of that name.

        Raises:
          ValueError: the rows do not fit the schema, or `name` is no plain file name.
        """
        if name is not None and (not name or set(name) - set(_LABEL) or name.startswith(".")):
            raise ValueError(f"name must be letters, digits, '-', '_', '.', got {name!r}")
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".part.{secrets.token_hex(8)}.tmp"
        try:
            write_rollouts(unfinished, rows)
            content = unfinished.read_bytes()
            sha256 = _hash(content)
            path = self.folder / f"{name or f'draws-{sha256[:12]}'}.parquet"
            entry = self._entry_path(path.name)
            if name is not None:
                entry.unlink(missing_ok=True)  # of the part that is being replaced
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        _sync_folder(self.folder)
        part = {
            "bytes": len(content),
            "sha256": sha256,
            "rows": len(rows["round"]),
            "draws": _draws_of(rows),
            "created": time.time_ns(),
        }
        entry.parent.mkdir(exist_ok=True)
        _write_durably(entry, json.dumps(part).encode())
        return path

    def parts(self) -> list[Part]:
        """Lists the entries that can be read, the oldest first."""
        return sorted(
            (part for part, problem in self._entries() if part is not None),
            key=lambda part: (part.created, part.name),
        )

    def problems(self) -> list[str]:
        """Names every part that does not count and says why; reads all of them."""
        found = [problem for part, problem in self._entries() if part is None]
        for part in self.parts():
            if problem := self._problem(part):
                found.append(problem)
        return found

    def read(self, *, without: Sequence[str] = ()) -> Rollouts:
        """Reads the rows of all good parts that have the same columns as the newest one.

        Raises:
          ValueError: there is no good part.
        """
        tables = []
        for part in self.parts():
            if not self._problem(part):
                tables.append(read_rollouts(self.folder / part.name, without=without).columns)
        if not tables:
            raise ValueError(f"{self.folder} has no part that can be read")
        names = list(tables[-1])
        tables = [table for table in tables if set(table) == set(names)]
        return Rollouts({name: _joined([table[name] for table in tables]) for name in names})

    def find(self, draws: Iterable[str], num_candidates: int) -> dict[str, Drawn]:
        """Looks up candidates 0 to N - 1 of draws; what is missing or damaged is left out.

        Args:
          draws: names, as of `draw_name`.
          num_candidates: N.

        Returns:
          draw -> its candidates, exactly N.
        """
        wanted = set(draws)
        found = {d: self._found[d] for d in wanted & set(self._found)}
        found = {d: drawn for d, drawn in found.items() if len(drawn.tokens) >= num_candidates}
        for part in reversed(self.parts()):
            here = {
                draw for draw in wanted - set(found) if part.draws.get(draw, 0) >= num_candidates
            }
            if here and not self._problem(part):
                found |= _drawn(read_rollouts(self.folder / part.name), here)
        self._found |= found
        return {draw: _first(drawn, num_candidates) for draw, drawn in found.items()}

    def find_longest(self, draws: Iterable[str], num_candidates: int) -> dict[str, Drawn]:
        """Looks up candidates 0, 1, ... of draws, as many as one part holds, at most N.

        Args:
          draws: names, as of `draw_name`.
          num_candidates: N.

        Returns:
          draw -> its candidates, 1 to N; what is missing or damaged is left out.
        """
        wanted = set(draws)
        longest: dict[str, Part] = {}
        for part in self.parts():
            for draw in wanted & set(part.draws):
                held = longest[draw].draws[draw] if draw in longest else 0
                if part.draws[draw] > held and not self._problem(part):
                    longest[draw] = part
        found: dict[str, Drawn] = {}
        for part in {part.name: part for part in longest.values()}.values():
            here = {draw for draw, holder in longest.items() if holder.name == part.name}
            found |= _drawn(read_rollouts(self.folder / part.name), here)
        return {draw: _first(drawn, num_candidates) for draw, drawn in found.items()}

    def _entry_path(self, name: str) -> Path:
        return self.folder / _MANIFEST / f"{name}.json"

    def _entries(self) -> Iterator[tuple[Part | None, str]]:
        for path in sorted((self.folder / _MANIFEST).glob("*.json")):
            try:
                entry = json.loads(path.read_bytes())
                yield Part(name=path.name.removesuffix(".json"), **entry), ""
            except FileNotFoundError:  # its part is being replaced
                continue
            except (OSError, ValueError, TypeError) as error:
                yield None, f"{path}: cannot be read ({' '.join(str(error).split())})"

    def _problem(self, part: Part) -> str:
        """Says what is wrong with a part, or ""; each content is read once."""
        place = (part.name, part.sha256)
        if place not in self._checked:
            self._checked[place] = _damage(self.folder / part.name, part)
        return self._checked[place]


def _damage(path: Path, part: Part) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror}); skipped"
    if len(content) != part.bytes:
        return f"{path}: has {len(content)} bytes where {part.bytes} were written; skipped"
    if _hash(content) != part.sha256:
        return f"{path}: its checksum is not the one of the manifest; skipped"
    return ""


def _draws_of(rows: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """How many candidates 0, 1, 2, ... of each draw the rows hold, in order and without a gap."""
    counts: dict[str, int] = {}
    for draw, candidate in zip(rows.get("draw", ()), rows["candidate"]):
        if candidate == counts.get(draw, 0):
            counts[draw] = int(candidate) + 1
    return counts


def _drawn(rows: Rollouts, draws: set[str]) -> dict[str, Drawn]:
    places: dict[str, list[int]] = {draw: [] for draw in draws}
    for row, (draw, candidate) in enumerate(zip(rows["draw"], rows["candidate"])):
        if draw in places and candidate == len(places[draw]):
            places[draw].append(row)
    failed = rows.columns.get("failed", np.zeros(rows.num_rows, bool))
    log_prob = rows.columns.get("log_prob", np.full(rows.num_rows, np.nan))
    return {
        draw: Drawn(
            tokens=[rows["tokens"][row] for row in found],
            log_probs=[rows["log_probs"][row] for row in found],
            finished=rows["finished"][found],
            failed=failed[found],
            texts=[rows["completion"][row] for row in found],
            log_prob=log_prob[found],
        )
        for draw, found in places.items()
    }


def _first(drawn: Drawn, num: int) -> Drawn:
    return Drawn(
        tokens=drawn.tokens[:num],
        log_probs=drawn.log_probs[:num],
        finished=drawn.finished[:num],
        failed=drawn.failed[:num],
        texts=drawn.texts[:num],
        log_prob=drawn.log_prob[:num],
    )


def _joined(columns: list[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [value for column in columns for value in column]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a loss of power, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(descriptor)
