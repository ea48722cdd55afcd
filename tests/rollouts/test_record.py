"""The one record of P x N candidates: to rows and back, from JSON Lines, with its verdict."""

import dataclasses
import json

import numpy as np
import pytest

from rsft_jax.rollouts import (
    Record,
    RolloutStore,
    Verdict,
    from_rows,
    read_jsonl,
    read_rollouts,
    to_rows,
    write_rollouts,
)


def _record(**changes) -> Record:
    """Two prompts with up to three candidates; the second has one that failed and one not drawn."""
    tokens = [[[5, 2], [6], [7, 8, 2]], [[9, 2], [], []]]
    log_probs = [[np.float32(-0.5) * np.arange(1, len(t) + 1, dtype=np.float32) for t in row]
                 for row in tokens]  # fmt: skip
    reward = np.array([[0.25, np.nan, 1.0], [-1.0, np.nan, np.nan]])
    fields = {
        "prompt_ids": ["a", "b"],
        "prompts": ["Once", "Twice"],
        "places": np.array([4, 1]),
        "texts": [["x", "y", "z"], ["u", "", ""]],
        "tokens": tokens,
        "log_probs": log_probs,
        "log_prob": np.array([[v.sum() for v in row] for row in log_probs], np.float64),
        "drawn": np.array([[True, True, True], [True, True, False]]),
        "failed": np.array([[False, False, False], [False, True, False]]),
        "finished": np.array([[True, False, True], [True, False, False]]),
        "reward": reward,
        "judge": np.where(np.isnan(reward), np.nan, 0.5),
        "terms": {"length": reward * 2},
        "round": 3,
        "arm": "control",
    }
    return Record(**{**fields, **changes})


def test_a_record_becomes_rows_and_the_rows_the_same_record(tmp_path):
    record = _record()
    rows = to_rows(record, {"place": [4, 4, 4, 1, 1, 1]})
    assert [rows["prompt_id"][i] + str(rows["candidate"][i]) for i in range(5)] == [
        "a0", "a1", "a2", "b0", "b1",
    ]  # fmt: skip
    assert len(rows["reward"]) == 5  # what was not drawn has no row
    (again,) = from_rows(read_rollouts(write_rollouts(tmp_path / "one.parquet", rows)))
    assert (again.round, again.arm) == (3, "control")
    for name in ("prompt_ids", "prompts"):
        assert getattr(again, name) == getattr(record, name)
    for name in ("places", "failed", "finished", "reward", "judge", "valid"):
        np.testing.assert_array_equal(
            np.where(record.drawn, getattr(again, name), 0) if name != "places" else again.places,
            np.where(record.drawn, getattr(record, name), 0) if name != "places" else record.places,
        )
    np.testing.assert_array_equal(again.drawn, record.drawn)
    np.testing.assert_array_equal(again.terms["length"], record.terms["length"])
    np.testing.assert_allclose(again.log_prob[record.drawn], record.log_prob[record.drawn])
    assert again.texts == record.texts
    assert [[list(map(int, t)) for t in row] for row in again.tokens] == record.tokens


def test_a_prompt_drawn_twice_in_a_round_is_two_prompts_again(tmp_path):
    # In two places of a batch: candidates 0 to 2 are the first draw's, 3 and on the second's.
    record = _record(prompt_ids=["a", "a"], prompts=["A", "A"], visits=np.array([0, 1]))
    rows = to_rows(record, {"place": [4, 4, 4, 1, 1, 1]})
    assert rows["candidate"] == [0, 1, 2, 3, 4]
    (again,) = from_rows(read_rollouts(write_rollouts(tmp_path / "one.parquet", rows)))
    assert again.prompt_ids == ["a", "a"]
    assert again.visits is not None
    assert again.visits.tolist() == [0, 1]
    assert again.texts == record.texts
    np.testing.assert_array_equal(again.places, record.places)
    np.testing.assert_array_equal(again.drawn, record.drawn)
    assert to_rows(again, {"place": [4, 4, 4, 1, 1, 1]})["candidate"] == rows["candidate"]


def test_a_prompt_drawn_twice_at_its_place_in_the_set_is_two_prompts_by_its_draws(tmp_path):
    # As a run writes it: the place is the prompt's, and each visit is a draw of its own.
    record = _record(prompt_ids=["a", "a"], prompts=["A", "A"], visits=np.array([0, 1]))
    rows = to_rows(record, {"place": [4] * 6, "draw": ["d0"] * 3 + ["d1"] * 3})
    (again,) = from_rows(read_rollouts(write_rollouts(tmp_path / "one.parquet", rows)))
    assert again.visits is not None
    assert again.visits.tolist() == [0, 1]
    assert again.places.tolist() == [4, 4]
    assert again.texts == record.texts
    np.testing.assert_array_equal(again.drawn, record.drawn)


def test_rows_hold_the_verdict_and_rounds_and_arms_are_records_of_their_own(tmp_path):
    shape = (2, 3)
    accepted = np.array([[True, False, True], [True, False, False]])
    verdict = Verdict(
        accepted=accepted,
        accept_prob=np.full(shape, 0.5),
        log_weight=np.where(accepted, 0.0, -np.inf),
        reasons=["accepted" if yes else "rejected by top_k(2)" for yes in accepted.ravel()],
        rule="top_k(2)",
    )
    store = RolloutStore(tmp_path)
    for round_ in (1, 2):
        for arm in ("policy", "control"):
            record = _record(round=round_, arm=arm, verdict=verdict)
            store.append(to_rows(record), name=f"{round_}-{arm}")
    rows = store.read()
    assert rows["accepted"].sum() == 4 * 3
    assert set(rows["reason"]) == {"accepted", "rejected by top_k(2)"}
    assert {(r.round, r.arm) for r in from_rows(rows)} == {
        (1, "policy"), (1, "control"), (2, "policy"), (2, "control"),
    }  # fmt: skip


def test_texts_alone_do_not_become_rows():
    with pytest.raises(ValueError, match="must have tokens and log_probs to become rows, got"):
        to_rows(_record(tokens=None))


def test_a_column_that_differs_between_rows_of_a_prompt_is_not_the_prompts(tmp_path):
    path = tmp_path / "theirs.jsonl"
    lines = [
        {"prompt": "2+2", "completion": "4", "reward": 1, "answer": "4", "model": "a"},
        {"prompt": "2+2", "completion": "5", "reward": 0, "answer": "4", "model": "b"},
        {"prompt": "2+3", "completion": "5", "reward": 1, "answer": "5", "model": "b"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = read_jsonl(path).asked or []
    assert first.fields["answer"] == "4"
    assert "model" not in first.fields  # and not the first row's: "a" is untrue of the second
    assert second.fields["model"] == "b"


def test_candidates_of_a_json_lines_file_are_grouped_by_prompt(tmp_path):
    path = tmp_path / "theirs.jsonl"
    lines = [
        {"prompt": "A", "completion": "x", "reward": 0.5, "log_prob": -2.0},
        {"prompt": "B", "completion": "y", "reward": True},
        {"prompt": "A", "completion": "z", "reward": None},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = read_jsonl(path)
    assert record.prompts == ["A", "B"]
    assert record.texts == [["x", "z"], ["y", ""]]
    np.testing.assert_array_equal(record.reward, [[0.5, np.nan], [1.0, np.nan]])
    np.testing.assert_array_equal(record.log_prob, [[-2.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(record.valid, [[True, True], [True, False]])
    assert record.drawn_texts == ["x", "z", "y"]
    assert [prompt.text for prompt in record.asked] == ["A", "B"]


def test_a_record_is_not_changed_by_its_scores():
    record = _record()
    other = dataclasses.replace(record, reward=np.zeros((2, 3)))
    assert record.reward[0, 0] == 0.25
    assert other.reward[0, 0] == 0


def test_the_stored_verdict_is_read_back_in_its_places_when_asked_for(tmp_path):
    from rsft_jax.rollouts import read_rollouts, write_rollouts

    rows = {
        "round": [1] * 3, "arm": ["policy"] * 3, "prompt_id": ["a", "b", "b"],
        "candidate": [1, 0, 1], "prompt": ["A", "B", "B"], "completion": ["x", "y", "z"],
        "tokens": [[1]] * 3, "log_probs": [[-1.0]] * 3, "finished": [True] * 3,
        "reward": [0.1, 0.2, 0.3], "judge": [0.0] * 3, "accepted": [True, False, True],
        "accept_prob": [0.5, 0.25, 1.0], "log_weight": [0.0, -1.0, 0.25],
        "reason": ["accepted", "rejected by top_k(1)", "accepted"], "rule": ["top_k(1)"] * 3,
    }  # fmt: skip
    stored = read_rollouts(write_rollouts(tmp_path / "r.parquet", rows))
    (record,) = from_rows(stored, with_verdict=True)
    verdict = record.verdict
    assert verdict.accepted.tolist() == [[False, True], [False, True]]
    np.testing.assert_array_equal(verdict.accept_prob, [[np.nan, 0.5], [0.25, 1.0]])
    np.testing.assert_array_equal(verdict.log_weight, [[np.nan, 0.0], [-1.0, 0.25]])
    assert verdict.reasons == ["", "accepted", "rejected by top_k(1)", "accepted"]
    assert verdict.rule == "top_k(1)"
    assert from_rows(stored)[0].verdict is None
