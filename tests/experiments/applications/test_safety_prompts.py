"""Prompts of the safety application: one word changes, and no template is in two splits."""

import json
from collections import Counter

import pytest

from rsft_jax.experiments.applications.safety import __main__ as safety
from rsft_jax.experiments.applications.safety.__main__ import prompts_by_word
from rsft_jax.experiments.applications.safety.prompts import (
    FILE,
    GROUPS,
    NO_GROUP,
    check_no_leak,
    prompt_rows,
    with_group,
    without_group,
)
from rsft_jax.experiments.applications.safety.templates import CONTROLS, PAIRS, TEMPLATES
from rsft_jax.experiments.language.make import load_prompt_split
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.rewards import offensive


@pytest.fixture(scope="module")
def rows():
    return list(prompt_rows())


def test_the_packaged_file_is_what_the_templates_make(rows):
    assert [json.loads(line) for line in FILE.read_text().splitlines()] == rows


def test_prompts_of_a_template_differ_in_the_group_word_alone(rows):
    of_template = {}
    for row in rows:
        of_template.setdefault(row["template"], []).append(row)
    for some in of_template.values():
        if some[0]["kind"] == "control":
            assert [row["group"] for row in some] == [NO_GROUP]
            continue
        assert [row["group"] for row in some] == list(GROUPS)
        words = [row["prompt"].split() for row in some]
        assert len({len(one) for one in words}) == 1
        changing = [place for place, column in enumerate(zip(*words)) if len(set(column)) > 1]
        assert len(changing) == 1
        for row, one in zip(some, words):
            assert one[changing[0]].strip(",.") == row["group"]
    assert len(GROUPS) == len(set(GROUPS)) == 2 * len(PAIRS)
    assert not any(group[0].lower() in "aeiou" for group in GROUPS)  # "a" is right for all


def test_both_splits_have_all_words_and_controls_are_held_out(rows):
    counts = Counter((row["split"], row["kind"]) for row in rows)
    expected = {
        (split, kind): len(texts) * len(GROUPS)
        for split, kinds in TEMPLATES.items()
        for kind, texts in kinds.items()
    }
    assert counts == expected | {("heldout", "control"): len(CONTROLS)}
    assert len({row["id"] for row in rows}) == len(rows)


def test_no_template_is_in_two_splits_and_a_planted_leak_is_seen(rows):
    check_no_leak(rows)
    stolen = next(r for r in rows if r["split"] == "heldout" and r["group"] == "nurse")
    other_word = {**stolen, "id": "x", "split": "train", "template": "train-heated-99"}
    other_word["prompt"] = "  " + with_group(stolen["prompt"], "LAWYER").replace(" ", "  ")
    with pytest.raises(ValueError, match="prompt x: its template is in the splits heldout and t"):
        check_no_leak([*rows, other_word])
    same_name = {**stolen, "id": "y", "split": "train", "prompt": "Another text."}
    with pytest.raises(ValueError, match="prompt y: its template is in the splits heldout and t"):
        check_no_leak([*rows, same_name])
    control = {**rows[-1], "id": "z", "split": "train", "template": "other"}
    with pytest.raises(ValueError, match="prompt z"):
        check_no_leak([*rows, control])


def test_group_words_are_whole_words():
    text = "A woman, a manager and the Man."
    assert without_group(text) == "a {group}, a manager and the {group}."
    assert with_group(text, "nurse") == "A nurse, a manager and the nurse."


def test_nothing_that_is_asked_is_offensive_itself(rows):
    texts = [row["prompt"] for row in rows]
    scores = offensive()(["all"], [texts])[0]
    assert scores.max() < 0.5, texts[scores.argmax()]


def test_the_classifier_has_opinions_of_words_and_the_judge_has_none(capsys, rows):
    slices = prompts_by_word()
    assert slices["sentiment"].gap.difference == (0, 0, 0)
    found = slices["offensive"]
    assert [one.num_prompts for one in found.groups] == [38] * len(GROUPS)
    nurses = [row["prompt"] for row in rows if row["group"] == "nurse"]
    (nurse,) = (one for one in found.groups if one.group == "nurse")
    assert nurse.interval.mean == pytest.approx(offensive()([""], [nurses]).mean())
    assert found.gap.difference.low > 0
    assert safety.main([]) == ExitCode.OK
    assert f"{nurse.interval.mean:.3f} [" in capsys.readouterr().out
    assert safety.main(["--nothing"]) == ExitCode.USAGE


def test_the_experiment_reads_the_packaged_prompts():
    data = load_config(["experiment=safety"]).data
    train, heldout = (load_prompt_split(data, heldout=yes) for yes in (False, True))
    assert (len(train), len(heldout)) == (160, 160)
    assert {p.fields["template"] for p in train}.isdisjoint(p.fields["template"] for p in heldout)
    config = load_config(["experiment=safety", "data.packaged=sotries"])
    with pytest.raises(ConfigError, match=r"data\.packaged: 'sotries' is not one of safety, st"):
        load_prompt_split(config.data, heldout=False)
