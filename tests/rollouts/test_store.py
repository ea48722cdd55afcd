"""The rollout store: what is found, what damage and a kill leave, many writers, plain readers."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rsft_jax.rollouts import RolloutStore, draw_name, fingerprint


def rows(draw, num=3, **changes):
    columns = {
        "round": [1] * num,
        "arm": ["policy"] * num,
        "prompt_id": ["p0"] * num,
        "candidate": list(range(num)),
        "prompt": ["Once"] * num,
        "completion": [f"{draw} {i}" for i in range(num)],
        "tokens": [[i, i + 1] for i in range(num)],
        "log_probs": [np.full(2, -0.5, np.float32)] * num,
        "finished": [True] * num,
        "reward": [0.5] * num,
        "judge": [float("nan")] * num,
        "draw": [draw] * num,
        "failed": [False] * num,
    }
    return columns | changes


def test_candidates_are_found_by_their_draw_and_a_larger_draw_answers_for_a_smaller(tmp_path):
    store = RolloutStore(tmp_path)
    store.append(rows("a", 4))
    found = RolloutStore(tmp_path).find(["a", "b"], 2)
    assert list(found) == ["a"]
    assert [ids.tolist() for ids in found["a"].tokens] == [[0, 1], [1, 2]]
    assert found["a"].finished.tolist() == [True, True]
    assert RolloutStore(tmp_path).find(["a"], 5) == {}


def test_the_longest_part_of_a_draw_is_found_if_it_is_whole(tmp_path):
    store = RolloutStore(tmp_path)
    store.append(rows("a", 2), name="short")
    long = store.append(rows("a", 4, completion=["x"] * 4), name="long")
    store.append(rows("b", 1), name="other")

    def lengths(num):
        found = RolloutStore(tmp_path).find_longest(["a", "b", "c"], num)
        return {draw: (len(d.tokens), len(d.finished)) for draw, d in found.items()}

    assert lengths(8) == {"a": (4, 4), "b": (1, 1)}
    assert lengths(3) == {"a": (3, 3), "b": (1, 1)}
    long.write_bytes(long.read_bytes()[:-3])
    assert lengths(8) == {"a": (2, 2), "b": (1, 1)}


@pytest.mark.parametrize("part", range(5))
def test_a_draw_is_named_by_everything_that_it_hangs_on(part):
    same = ["policy", "law", "key", 3, (5, 6)]
    other = [*same]
    other[part] = ["policy2", "law2", "key2", 4, (5, 7)][part]
    assert draw_name(*same) == draw_name(*same)
    assert draw_name(*same) != draw_name(*other)


def test_a_fingerprint_tells_values_names_shapes_types_and_descriptions_apart():
    one = [("w", np.zeros((2, 2), np.float32))]
    others = [
        [("v", one[0][1])],
        [("w", np.zeros(4, np.float32))],
        [("w", np.zeros((2, 2), np.int32))],
        [("w", np.eye(2, dtype=np.float32))],
    ]
    names = {fingerprint(arrays) for arrays in [one, *others]} | {fingerprint(one, about="x")}
    assert len(names) == 6


def cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, os.unlink])
def test_a_damaged_part_is_named_and_skipped_and_its_draws_count_as_missing(tmp_path, damage):
    store = RolloutStore(tmp_path)
    bad = store.append(rows("a"))
    store.append(rows("b"))
    damage(bad)
    again = RolloutStore(tmp_path)
    (problem,) = again.problems()
    assert str(bad) in problem
    assert list(again.find(["a", "b"], 3)) == ["b"]
    assert set(again.read()["draw"]) == {"b"}
    again.append(rows("a"))  # drawn again: the same content takes the damaged one's place
    assert set(RolloutStore(tmp_path).find(["a", "b"], 3)) == {"a", "b"}
    assert RolloutStore(tmp_path).problems() == []


def test_a_damaged_entry_is_named_and_the_rest_is_read(tmp_path):
    store = RolloutStore(tmp_path)
    part = store.append(rows("a"))
    store.append(rows("b"))
    entry = tmp_path / "manifest" / f"{part.name}.json"
    for content in ("", "{", json.dumps({"bytes": 3}), "[]"):
        entry.write_text(content)
        again = RolloutStore(tmp_path)
        assert len(again.problems()) == 1
        assert list(again.find(["a", "b"], 1)) == ["b"]


def test_a_named_part_is_replaced(tmp_path):
    store = RolloutStore(tmp_path)
    store.append(rows("a"), name="round-001-policy")
    store.append(rows("b"), name="round-001-policy")
    assert [part.name for part in RolloutStore(tmp_path).parts()] == ["round-001-policy.parquet"]
    assert list(RolloutStore(tmp_path).find(["a", "b"], 1)) == ["b"]
    with pytest.raises(ValueError, match="name must be"):
        store.append(rows("c"), name="../x")


_WRITER = """
import sys
sys.path.insert(0, {root!r})
from tests.rollouts.test_store import rows
from rsft_jax.rollouts import RolloutStore
store = RolloutStore(sys.argv[1])
for number in range(int(sys.argv[3])):
    store.append(rows(f"{{sys.argv[2]}}-{{number}}"))
    print(number, flush=True)
"""


def writer(folder, label, count):
    from pathlib import Path

    program = _WRITER.format(root=str(Path(__file__).parents[2]))
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder), label, str(count)], stdout=subprocess.PIPE
    )


def test_two_writers_lose_nothing_and_a_killed_one_leaves_a_store_that_is_read(tmp_path):
    steady, killed = writer(tmp_path, "steady", 40), writer(tmp_path, "killed", 100_000)
    for _ in range(3):
        killed.stdout.readline()
    rng = np.random.default_rng(0)
    acknowledged = 3
    time.sleep(rng.uniform(0, 0.05))
    killed.send_signal(signal.SIGKILL)
    acknowledged += len(killed.stdout.read().split())
    assert steady.wait(60) == 0
    killed.wait()
    store = RolloutStore(tmp_path)
    assert store.problems() == []
    wanted = [f"steady-{n}" for n in range(40)] + [f"killed-{n}" for n in range(acknowledged)]
    assert set(store.find(wanted, 3)) == set(wanted)


@pytest.mark.parametrize("step", ["write_rollouts", "replace", "manifest"])
def test_a_writer_that_stops_between_two_steps_leaves_no_half_part(tmp_path, monkeypatch, step):
    from rsft_jax.rollouts import store as module

    store = RolloutStore(tmp_path)
    store.append(rows("a"))

    def stop(*_):
        raise KeyboardInterrupt

    if step == "write_rollouts":
        monkeypatch.setattr(module, "write_rollouts", stop)
    elif step == "replace":
        monkeypatch.setattr(module.os, "replace", stop)
    else:
        monkeypatch.setattr(module, "_write_durably", stop)
    with pytest.raises(KeyboardInterrupt):
        store.append(rows("b"))
    monkeypatch.undo()
    again = RolloutStore(tmp_path)
    assert again.problems() == []
    assert list(again.find(["a", "b"], 3)) == ["a"]
    again.append(rows("b"))
    assert set(again.find(["a", "b"], 3)) == {"a", "b"}


@pytest.mark.parametrize("reader", ["polars", "pandas", "duckdb", "datasets"])
def test_other_tools_read_the_parts_as_they_lie(tmp_path, reader):
    library = pytest.importorskip(reader)
    store = RolloutStore(tmp_path / "store")
    store.append(rows("a"))
    store.append(rows("b", 2))
    pattern = f"{tmp_path}/store/*.parquet"
    if reader == "polars":
        texts = library.read_parquet(pattern)["completion"].to_list()
    elif reader == "pandas":
        texts = list(library.read_parquet(tmp_path / "store" / store.parts()[0].name)["completion"])
        texts += list(
            library.read_parquet(tmp_path / "store" / store.parts()[1].name)["completion"]
        )
    elif reader == "duckdb":
        texts = [row[0] for row in library.sql(f"select completion from '{pattern}'").fetchall()]
    else:
        table = library.load_dataset("parquet", data_files=pattern, cache_dir=str(tmp_path / "c"))
        texts = table["train"]["completion"]
    assert sorted(texts) == ["a 0", "a 1", "a 2", "b 0", "b 1"]
