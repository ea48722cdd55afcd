"""Rollout files: the round trip, what is refused, and what a crash or a flipped bit leaves."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsft_jax.rollouts import (
    COLUMNS,
    SELECTION_COLUMNS,
    read_rollouts,
    scan_rollouts,
    write_rollouts,
)


def _rows(num=4, selection=True):
    rows = {
        "round": np.full(num, 1),
        "arm": ["policy"] * num,
        "prompt_id": [f"p{i // 2}" for i in range(num)],
        "candidate": np.arange(num) % 2,
        "prompt": ["Once upon a time"] * num,
        "completion": [f"text {i} <b>\u2603</b>\n" for i in range(num)],
        "tokens": [list(range(i)) for i in range(num)],
        "log_probs": [np.full(i, -0.25, np.float32) for i in range(num)],
        "finished": np.arange(num) % 2 == 0,
        "reward": [0.1 * i for i in range(num - 1)] + [float("nan")],
        "judge": np.linspace(-1, 1, num),
        "term/sentiment": np.linspace(0, 1, num),
    }
    if selection:
        rows |= {
            "accepted": [i == 1 for i in range(num)],
            "accept_prob": np.linspace(0, 1, num),
            "log_weight": [float("-inf")] * (num - 1) + [0.0],
            "reason": ["accepted" if i == 1 else "statistical_rejection" for i in range(num)],
        }
    return rows


@pytest.mark.parametrize("selection", [True, False])
def test_rollouts_come_back_as_written(tmp_path, selection):
    rows = _rows(selection=selection)
    path = write_rollouts(tmp_path / "rollouts" / "round-001-policy.parquet", rows)
    back = read_rollouts(path)
    assert back.num_rows == 4
    assert back.terms == ("sentiment",)
    assert list(back.columns) == list(rows)
    for name, values in rows.items():
        if name in ("tokens", "log_probs"):
            for written, read in zip(values, back[name], strict=True):
                np.testing.assert_array_equal(np.asarray(written, read.dtype), read)
        else:
            np.testing.assert_array_equal(np.asarray(values), np.asarray(back[name]))
    assert back["tokens"][3].dtype == np.int32
    assert back["log_probs"][3].dtype == np.float32


def test_rollout_types_are_those_of_the_schema(tmp_path):
    found = pq.read_schema(write_rollouts(tmp_path / "a.parquet", _rows()))
    assert found.names[:11] == [column.name for column in COLUMNS]
    assert found.names[-4:] == [column.name for column in SELECTION_COLUMNS]
    assert found.field("round").type == pa.int32()
    assert found.field("reward").type == pa.float64()
    assert found.field("term/sentiment").type == pa.float64()
    assert found.field("tokens").type == pa.list_(pa.int32())
    assert found.field("log_probs").type == pa.list_(pa.float32())


def test_unscored_reward_is_null_to_every_reader_and_nan_here(tmp_path):
    path = write_rollouts(tmp_path / "a.parquet", _rows())
    assert pq.read_table(path)["reward"].null_count == 1
    assert np.isnan(read_rollouts(path)["reward"][3])
    assert np.isneginf(read_rollouts(path)["log_weight"][0])


def test_columns_can_be_left_unread(tmp_path):
    path = write_rollouts(tmp_path / "a.parquet", _rows())
    back = read_rollouts(path, without=("tokens", "log_probs", "no such column"))
    assert set(back.columns) == set(_rows()) - {"tokens", "log_probs"}


def test_pieces_together_are_the_file(tmp_path):
    path = write_rollouts(tmp_path / "a.parquet", _rows(num=7))
    pieces = list(scan_rollouts(path, batch_rows=3))
    assert [piece.num_rows for piece in pieces] == [3, 3, 1]
    whole = read_rollouts(path)
    assert all(list(piece.columns) == list(whole.columns) for piece in pieces)
    for name, values in whole.columns.items():
        joined = [value for piece in pieces for value in piece[name]]
        for one, other in zip(joined, values, strict=True):
            np.testing.assert_array_equal(one, other)
    some = list(scan_rollouts(path, ["reward", "prompt", "unknown"], without=["prompt"]))
    assert [list(piece.columns) for piece in some] == [["reward"]]


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path):
    path = write_rollouts(tmp_path / "a.parquet", _rows(num=600))
    pieces = scan_rollouts(path, ["candidate", "completion"], batch_rows=200)
    first = next(pieces)
    write_rollouts(path, _rows(num=2))
    assert sum(piece.num_rows for piece in [first, *pieces]) == 600


def test_pieces_of_a_damaged_file_are_refused(tmp_path):
    path = write_rollouts(tmp_path / "a.parquet", _rows(num=200))
    with pytest.raises(ValueError, match="batch_rows must be at least 1, got 0"):
        next(scan_rollouts(path, batch_rows=0))
    column = pq.ParquetFile(path).metadata.row_group(0).column(9)  # reward
    data = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    data[begin + column.total_compressed_size - 40] ^= 1
    path.write_bytes(data)
    assert sum(piece.num_rows for piece in scan_rollouts(path, ["judge"])) == 200
    with pytest.raises(ValueError, match="damaged"):
        list(scan_rollouts(path, ["reward"]))
    with pytest.raises(FileNotFoundError, match=r"no rollout file at .*b\.parquet"):
        next(scan_rollouts(tmp_path / "b.parquet"))


def test_no_candidates_is_a_file_with_no_rows(tmp_path):
    rows = {name: values[:0] for name, values in _rows().items()}
    back = read_rollouts(write_rollouts(tmp_path / "a.parquet", rows))
    assert back.num_rows == 0
    assert back["tokens"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop("reward"), r"missing columns \['reward'\]"),
        (lambda rows: rows.pop("reason"), r"missing columns \['reason'\]"),
        (
            lambda rows: rows.update(rewards=[0.0] * 4),
            "unknown column 'rewards'; the nearest is 'rew",
        ),
        (lambda rows: rows.update({"term/": [0.0] * 4}), "unknown column 'term/'"),
        (lambda rows: rows.update(judge=[0.0] * 3), "'judge' has 3 rows, 'round' has 4"),
        (lambda rows: rows.update(reward=["a", "b", "c", "d"]), "column 'reward' is not double"),
        (lambda rows: rows.update(arm=["policy", None, "policy", "policy"]), "no value at row 1"),
        (lambda rows: rows.update(log_probs=[[0.0]] * 4), "row 0 has 0 tokens and 1 log_probs"),
        (lambda rows: rows.update(round=[2**40] * 4), "column 'round' is not int32"),
    ],
)
def test_bad_rows_are_refused_by_name_and_nothing_is_written(tmp_path, change, message):
    rows = _rows()
    change(rows)
    with pytest.raises(ValueError, match=message):
        write_rollouts(tmp_path / "a.parquet", rows)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = write_rollouts(tmp_path / "a.parquet", _rows())
    before = path.read_bytes()

    def fail(table, file, **options):
        file.write(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="no space"):
        write_rollouts(path, _rows(num=8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_cut_or_foreign_file_is_named(tmp_path):
    path = write_rollouts(tmp_path / "a.parquet", _rows())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.parquet is damaged"):
        read_rollouts(path)
    with pytest.raises(FileNotFoundError, match=r"no rollout file at .*b\.parquet"):
        read_rollouts(tmp_path / "b.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet: missing columns \['round'"):
        read_rollouts(tmp_path / "c.parquet")


def test_column_of_another_type_is_refused(tmp_path):
    path = write_rollouts(tmp_path / "a.parquet", _rows())
    table = pq.read_table(path)
    place = table.column_names.index("reward")
    pq.write_table(table.set_column(place, "reward", pa.array(["x"] * 4)), path)
    with pytest.raises(ValueError, match="column 'reward' is string, not float64"):
        read_rollouts(path)


def test_flipped_bit_in_the_data_is_found(tmp_path):
    rows = _rows(num=200)
    path = write_rollouts(tmp_path / "a.parquet", rows)
    column = pq.ParquetFile(path).metadata.row_group(0).column(9)  # reward
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        read_rollouts(path)


def test_missing_pyarrow_names_the_extra(tmp_path):
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from rsft_jax.rollouts import write_rollouts\n"
        "write_rollouts('x.parquet', {})\n"
    )
    repo = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repo, capture_output=True, text=True, check=False
    )
    assert (
        "ImportError: rollout files need pyarrow: pip install 'rsft_jax[rollouts]'" in done.stderr
    )
