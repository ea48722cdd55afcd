"""`rsft reward train` end to end on a tiny model, its figures recomputed, and what it refuses."""

import json

import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language.preferences import read_examples
from rsft_jax.experiments.language.reward_figures import heldout_figures
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.interop import load_classifier
from rsft_jax.rewards import Term
from rsft_jax.texts import split_words

GOOD = ("lovely day", "happy walk", "sunny garden walk", "warm smile")
BAD = ("sad rain", "grey mud", "cold stone", "dull wait again")


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _pairs():
    rng = np.random.default_rng(0)
    return [
        {
            "prompt": [{"role": "user", "content": f"Tell me {i}"}],
            "chosen": [{"role": "assistant", "content": str(rng.choice(GOOD))}],
            "rejected": str(rng.choice(BAD)),
            "person": f"p{i // 2}",
            "split": "heldout" if i >= 28 else "train",
        }
        for i in range(40)
    ]


def _scored():
    rng = np.random.default_rng(1)
    rows = []
    for i in range(40):
        kind = int(rng.integers(2))
        text = str(rng.choice((BAD, GOOD)[kind]))
        score = 5 * kind + float(rng.random())
        rows.append({"prompt": f"Say {i}", "completion": text, "score": score, "person": i % 12})
    return rows


def _train(path, rows, loss, *more):
    data = _write(path / "rows.jsonl", rows)
    flags = ["--policy", "tiny_random", "--group", "person", "-o", str(path / "model")]
    assert main(["reward", "train", "--data", str(data), "--loss", loss, *flags, *more]) == 0
    return path / "model", json.loads((path / "model" / "reward.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return _train(tmp_path_factory.mktemp("pairs"), _pairs(), "bradley_terry")


def test_a_model_of_pairs_orders_those_that_it_has_not_seen_as_its_folder_says(trained):
    folder, report = trained
    assert report["rows"] == {"train": 28, "heldout": 12}
    assert report["groups"] == {"heldout": 6}
    classifier = load_classifier(folder)
    assert classifier.labels == ("score",)
    assert classifier.problem_type is None
    right, longer = [], []
    for row in _pairs()[28:]:
        texts = row["chosen"][0]["content"], row["rejected"]
        ids = [classifier.encode(row["prompt"], text) for text in texts]
        first, second = classifier.scores(ids)[:, 0]
        right.append(first > second)
        words = [len(split_words(text)) for text in texts]
        longer.append(0.5 + 0.5 * np.sign(words[0] - words[1]))
    found = report["heldout"]
    assert found["learned"]["mean"] == pytest.approx(np.mean(right))
    assert found["learned"]["mean"] > 0.8
    length = np.mean(longer) if found["length"]["sign"] > 0 else 1 - np.mean(longer)
    assert found["length"]["mean"] == pytest.approx(length)
    assert found["length"]["less"]["mean"] == pytest.approx(np.mean(right) - length)


def test_the_folder_is_a_reward_of_a_run(trained):
    folder, _ = trained
    config = load_config(["experiment=smoke", "reward=learned", f"reward.learned.path='{folder}'"])
    assert set(config.reward.terms) == {"learned"}
    term = config.reward.terms["learned"]
    found = Term("learned", term.build(), term.weight)(["Tell me 3"], [["lovely day", "sad rain"]])
    assert found[0, 0] > found[0, 1]


def test_a_model_of_scores_with_last_layers_ranks_as_people_do(tmp_path):
    folder, report = _train(
        tmp_path, _scored(), "regression", "--train", "last_layers", "--layers", "1",
        "--passes", "1", "--heldout-part", "0.4",
    )  # fmt: skip
    assert report["heldout"]["learned"]["mean"] > 0.5
    assert {"mean", "low", "high"} == set(report["heldout"]["length"]["less"])
    assert report["groups"] == {"heldout": 5}  # 0.4 of 12 people
    assert load_classifier(folder).problem_type == "regression"


def test_the_sign_of_a_baseline_is_that_of_the_training_rows(tmp_path):
    # In training the shorter text is preferred, held out the longer one: the baseline is wrong.
    rows = [
        {"prompt": f"{i}", "chosen": "a " * (1 + 2 * (i >= 6)), "rejected": "a a", "split":
         "heldout" if i >= 6 else "train"}
        for i in range(9)
    ]  # fmt: skip
    examples = _read(_write(tmp_path / "rows.jsonl", rows))
    figures = heldout_figures(examples, np.array([[1.0, 0.0]] * 9), "bradley_terry")
    assert figures["length"]["sign"] == -1
    assert (figures["length"]["mean"], figures["length"]["less"]["mean"]) == (0.0, 1.0)
    assert figures["learned"]["mean"] == 1.0


def _read(path, loss="bradley_terry", group=None):
    return read_examples(
        path, loss, group=group, split="split", heldout="heldout", heldout_part=0.5, seed=0
    )


PAIR = {"prompt": "a", "chosen": "x", "rejected": "y"}


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ([{"prompt": "a", "chosen": "x"}] * 2, [], "line 1: has no column rejected; it has prompt"),
        ([PAIR] * 2, ["--loss", "regression"], "line 1: has no column completion; it has"),
        ([PAIR | {"chosen": 3}] * 2, [], "line 1: chosen must be a text, or a list of one"),
        (
            [PAIR | {"chosen": [{"role": "user", "content": "x"}]}] * 2, [],
            "line 1: chosen must be a text, or a list of one message of the assistant",
        ),
        (
            [{"prompt": "a", "completion": "x", "score": "7"}] * 2, ["--loss", "regression"],
            "line 1: score must be a number, got '7'",
        ),
        ([PAIR, PAIR | {"prompt": "b"}], ["--group", "person"], "line 1: has no column person"),
        ([PAIR | {"split": "train"}] * 2, [], "0 of 2 rows are with split = 'heldout'"),
        ([PAIR | {"split": "train"}, PAIR], [], "line 2: has no column split"),
        (
            [PAIR | {"split": "train"}, PAIR | {"split": "heldout"}], [],
            "line 2; its group 'a' has rows that are held out and rows to train on",
        ),
        (
            [PAIR | {"split": "train"}, PAIR | {"prompt": "b", "split": "heldout"}],
            ["--policy", "missing_folder"], "--policy: 'missing_folder'; missing_folder: there is",
        ),
        ([PAIR] * 2, ["--heldout-part", "1"], "--heldout-part: 1.0; must be above 0 and below 1"),
        ([PAIR] * 2, ["--passes", "0"], "--passes: 0; must be at least 1"),
        ([PAIR] * 2, ["--loss", "hinge"], "argument --loss: invalid choice: 'hinge'"),
        ([], [], "is empty: a prompt file needs at least one row"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path, capfd, rows, flags, message):
    data = _write(tmp_path / "rows.jsonl", rows)
    flags = [] + (["--policy", "tiny_random"] if "--policy" not in flags else []) + flags
    output = tmp_path / "model"
    loss = [] if "--loss" in flags else ["--loss", "bradley_terry"]
    code = main(["reward", "train", "--data", str(data), "-o", str(output), *loss, *flags])
    text = capfd.readouterr().err
    assert code == 2
    assert message in text
    assert len(text.strip().splitlines()) == 1
    assert not output.exists()


def test_a_folder_that_is_not_empty_is_refused(tmp_path, capfd):
    data = _write(tmp_path / "rows.jsonl", _pairs())
    flags = ["--loss", "bradley_terry", "-o", str(tmp_path)]
    assert main(["reward", "train", "--data", str(data), *flags]) == 2
    assert "is not empty, choose another" in capfd.readouterr().err


def test_rows_that_are_too_long_are_left_out_and_none_left_is_said(tmp_path, capfd):
    data = _write(tmp_path / "rows.jsonl", _pairs())
    flags = ["--loss", "bradley_terry", "--policy", "tiny_random", "--max-length", "3"]
    assert main(["reward", "train", "--data", str(data), "-o", str(tmp_path / "x"), *flags]) == 2
    assert "0 of 0 rows are held out: none is left" in capfd.readouterr().err
    assert not (tmp_path / "x").exists()
