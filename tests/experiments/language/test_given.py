"""Candidates of somebody else as a policy is given them: ends, lengths, what is not known."""

import dataclasses
import json

import numpy as np
import pytest

from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language import given, reselect
from rsft_jax.experiments.language.candidates import read_candidates
from rsft_jax.experiments.runs import compare
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.rollouts import from_rows, read_rollouts, to_rows
from rsft_jax.selection import Decision, Law, best_of_n, make_rule
from tests.experiments import smoke
from tests.tiny import CHATML

# The end of a text stands before that of a turn everywhere but in the template.
TOKENIZER = Tokenizer.from_bpe(
    [*byte_alphabet(), "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    [],
    special_ids=[256, 257, 258],
    eos_id=256,
    also_stop=[256],
    chat_template=CHATML,
)
END = 258
LIKELY = make_rule(
    "likely", lambda key, c, scored: Decision(c.log_proposal > -9), law=Law.EXACT,
    needs={"log_proposal"},
)  # fmt: skip


def offer(tmp_path, rows):
    """Rows as they are read; each is its completion, or what is known besides."""
    path = tmp_path / "theirs.jsonl"
    rows = [row if isinstance(row, dict) else {"completion": row} for row in rows]
    lines = [json.dumps({"prompt": "Say it.", "reward": 1, **row}) + "\n" for row in rows]
    path.write_text("".join(lines))
    (record,), left_out = read_candidates(path)
    return given.Offer(record.asked, record, left_out)


def ids_of(found, j, i=0):
    return [int(token) for token in found.tokens[i, j] if token >= 0]


def test_a_text_ends_with_the_token_that_ends_a_turn_spelled_or_not(tmp_path):
    texts = ["yes", "yes<|im_end|>", "yes<|endoftext|>", "yes<|im_end|>\n<|endoftext|>", "yes \n"]
    found = offer(tmp_path, texts).encode(TOKENIZER, 16)
    for j in range(4):
        assert ids_of(found, j) == [*b"yes", END]
    assert ids_of(found, 4) == [*b"yes \n", END]  # blanks of the text are the text's
    assert found.finished.all()
    assert found.notes == ["3 of 5 with an end that was spelled out, which is trained as the token"]
    # What a reward and the store are shown of it.
    rows = [ids_of(found, j) for j in range(4)]
    assert TOKENIZER.decode_completions(rows) == ["yes"] * 4


def test_a_special_token_inside_a_text_stays_text_and_is_told(tmp_path):
    found = offer(tmp_path, ["a<|im_end|>b"]).encode(TOKENIZER, 32)
    assert ids_of(found, 0) == [*b"a<|im_end|>b", END]
    assert found.notes == [
        "1 of 1 with special tokens spelled inside, which are trained as letters"
    ]


@pytest.mark.parametrize("cut", [{"finished": False}, {"finish_reason": "length"}])
def test_a_text_that_was_cut_is_not_taught_to_end(tmp_path, cut):
    whole = {"completion": "yes", "finish_reason": "stop", "finished": None}
    found = offer(tmp_path, [{"completion": "yes", **cut}, whole]).encode(TOKENIZER, 16)
    assert [ids_of(found, j) for j in range(2)] == [[*b"yes"], [*b"yes", END]]
    places = np.array([0])
    assert np.asarray(found.completions(places).finished).tolist() == [[False, True]]
    assert found.notes == ["1 of 2 cut before their end, and trained without one"]


def test_a_text_that_is_too_long_is_left_out_counted_and_told(tmp_path):
    found = offer(tmp_path, ["abc", "abcd", "abcdefg"]).encode(TOKENIZER, 4)
    assert found.valid.tolist() == [[True, False, False]]
    assert found.too_long.sum() == 2
    assert found.lengths.tolist() == [[4, 0, 0]]
    (note,) = found.notes
    assert note.startswith("2 of 3 longer than sampling.max_new_tokens (the longest has 8 tokens")


def test_a_row_that_cannot_be_read_is_told_with_its_line(tmp_path):
    found = offer(tmp_path, ["yes", "n\x00o"]).encode(TOKENIZER, 16)
    (note,) = found.notes
    assert note.endswith("theirs.jsonl:2: a NUL character")


def test_rows_of_a_prompt_may_share_its_id_or_have_their_own(tmp_path):
    shared = offer(tmp_path, [{"id": "q7", "completion": c} for c in "ab"]).record
    assert (shared.prompt_ids, shared.texts) == (["q7"], [["a", "b"]])
    own = offer(tmp_path, [{"id": f"q7-{c}", "completion": c} for c in "ab"]).record
    assert (own.prompt_ids, own.texts) == (["q7-a"], [["a", "b"]])


def test_an_id_of_two_prompts_is_refused_with_both_lines(tmp_path):
    rows = [{"id": "q7", "completion": "a"}, {"id": "q7", "prompt": "Other.", "completion": "b"}]
    with pytest.raises(ConfigError, match=r":2: the id 'q7' is that of another prompt, line 1"):
        offer(tmp_path, rows)


def test_finished_must_be_a_truth(tmp_path):
    with pytest.raises(ConfigError, match=r":1: column 'finished' must be true, false or null"):
        offer(tmp_path, [{"completion": "a", "finished": "yes"}])


def test_places_without_a_candidate_are_no_failed_candidates(tmp_path):
    rows = [{"completion": "a"}, {"completion": "b"}, {"prompt": "Other.", "completion": "c"}]
    found = offer(tmp_path, rows).encode(TOKENIZER, 16)
    completions = found.completions(np.array([1, 0]))
    assert np.asarray(completions.lengths).tolist() == [[2, 0], [2, 2]]
    assert not np.asarray(completions.failed).any()


def test_what_is_not_known_of_a_probability_is_not_a_number(tmp_path):
    rows = [{"completion": "a", "log_prob": -3.5}, {"completion": "b"}, {"completion": "c" * 99}]
    found = offer(tmp_path, rows).encode(TOKENIZER, 4)
    values = np.asarray(found.completions(np.array([0])).log_probs)
    assert np.isnan(values[0, :2, :2]).all()  # of the tokens nothing is known
    assert (values[0, :2, 2:] == 0).all()
    np.testing.assert_array_equal(found.log_proposal(np.array([0])), [[-3.5, np.nan, 0]])


def test_the_store_keeps_the_log_prob_of_a_whole_text_beside_unknown_tokens(tmp_path):
    read = offer(tmp_path, [{"completion": "a", "log_prob": -3.5}, {"completion": "b"}]).record
    unknown = [[np.full(2, np.nan)] * 2]
    record = dataclasses.replace(read, tokens=[[[97, END], [98, END]]], log_probs=unknown)
    rows = to_rows(record)
    np.testing.assert_array_equal(rows["log_prob"], [-3.5, np.nan])
    known = dataclasses.replace(record, log_probs=[[np.zeros(2)] * 2], log_prob=np.zeros((1, 2)))
    assert "log_prob" not in to_rows(known)


@pytest.mark.parametrize("settings", [["selection=best_of_n"], ["training.clip_ratio=null"]])
def test_what_needs_no_probability_takes_texts_without(tmp_path, settings):
    found = offer(tmp_path, ["a", "b", "c", "d"]).encode(TOKENIZER, 4)
    given.check_given(load_config([*smoke.SMOKE, *settings]), found)


def test_a_ratio_of_tokens_whose_probability_is_unknown_is_refused_with_file_and_line(tmp_path):
    config = load_config([*smoke.SMOKE, "training.clip_ratio=0.2"])
    offered = offer(tmp_path, [{"completion": c, "log_prob": -1.0} for c in "abcd"])
    with pytest.raises(ConfigError, match=r"^training.clip_ratio: 0.2; needs .*jsonl:1; set it"):
        given.check_given(config, offered.encode(TOKENIZER, 4))
    # Of tokens that were stored with theirs it is known.
    tokens = [[[*c.encode(), END] for c in "abcd"]]
    record = dataclasses.replace(offered.record, tokens=tokens, log_probs=[[np.full(2, -0.5)] * 4])
    found = given.Offer(offered.prompts, record).encode(TOKENIZER, 4)
    given.check_given(config, found)
    assert found.log_probs[0, 0].tolist() == [-0.5, -0.5, 0, 0]


def test_a_rule_of_probabilities_is_refused_where_one_is_unknown(tmp_path, monkeypatch):
    record = offer(tmp_path, [{"completion": "a", "log_prob": -3.5}, {"completion": "b"}]).record
    with pytest.raises(ConfigError, match=r"selection: likely; needs the log_prob .*jsonl:2 has"):
        reselect.reselect([record], lambda number: LIKELY, seed=0)
    assert reselect.reselect([record], lambda number: best_of_n(), seed=0).num_accepted == 1
    monkeypatch.setattr(given, "make_rules", lambda *_: lambda number: LIKELY)
    found = given.Offer(record.asked, record).encode(TOKENIZER, 4)
    with pytest.raises(ConfigError, match=r"selection: likely; needs the log_prob .*jsonl:2 has"):
        given.check_given(load_config(list(smoke.SMOKE)), found)


def test_candidates_of_which_none_fits_are_refused(tmp_path):
    found = offer(tmp_path, ["abcdefgh"] * 2).encode(TOKENIZER, 4)
    with pytest.raises(ConfigError, match="none of them can be trained on: 2 of 2 longer than"):
        given.check_given(load_config(list(smoke.SMOKE)), found)


def test_a_run_tells_and_keeps_what_it_leaves_out(tmp_path, capsys):
    path = tmp_path / "theirs.jsonl"
    rows = [
        {"id": p, "prompt": f"Tell {p}", "completion": c, "reward": r, "log_prob": -2.5}
        for p in "ab"
        for c, r in (("yes<|im_end|>", 0.5), ("no", 0.2), ("x" * 99, 0.9))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["rounds.num_rounds=1", "evaluation.num_prompts=2", "control=false"]
    settings += [f"candidates={path}", "selection=best_of_n", "rounds.prompts_per_round=2"]
    code, folder = smoke.run(tmp_path / "run", *settings)
    assert code == ExitCode.OK
    shown = capsys.readouterr().out
    assert "2 of 6 longer than sampling.max_new_tokens" in " ".join(shown.split())
    (event,) = [e for e in folder.events() if e["event"] == "round"]
    assert (event["num_candidates"], event["num_scored"], event["num_too_long"]) == (6, 4, 2)
    stored = read_rollouts(folder.rollout_path(1, "policy"))
    kept = [stored["completion"][i] for i in np.flatnonzero(stored["accepted"])]
    assert kept == ["yes"] * 2
    ended = {int(ids[-1]) for ids in stored["tokens"] if len(ids)}
    assert ended == {256}  # the end of a turn of the smallest policy
    assert [t for t, failed in zip(stored["completion"], stored["failed"]) if failed] == [
        "x" * 99
    ] * 2
    assert compare._equal(stored["log_probs"], [values.copy() for values in stored["log_probs"]])
    # Nothing is known of the tokens, and what is known of the whole is not lost.
    (record,) = from_rows(stored)
    np.testing.assert_array_equal(record.log_prob, [[-2.5, -2.5, np.nan]] * 2)
    assert main(["run", *smoke.SMOKE, *settings, "training.clip_ratio=0.2",
                 f"output_dir={tmp_path / 'other'}"]) == ExitCode.USAGE  # fmt: skip
