"""The maths application end to end at its smallest, and the figures of stored answers."""

import json

import numpy as np
import pytest

from rsft_jax.experiments.applications.maths import __main__ as maths
from rsft_jax.experiments.applications.maths import evaluate
from rsft_jax.experiments.applications.maths.judging import differences, intervals, judge
from rsft_jax.experiments.applications.maths.pretrain import MAX_LENGTH
from rsft_jax.experiments.applications.maths.prompts import DIGITS, UNSEEN, draw_questions
from rsft_jax.experiments.cli import main
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.interop import load_pretrained
from rsft_jax.rollouts import Record
from tests.experiments.smoke import run

SIZES = {"heldout": 2, "train": 3, "examples": 40}
SMALL = (("d_model", 16), ("num_layers", 1), ("num_heads", 2), ("epochs", 2))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder that the experiment reads, and what was said."""
    folder, said = tmp_path_factory.mktemp("prepared"), []
    maths.prepare(folder, sizes=SIZES, tell=said.append, **dict(SMALL))
    return folder, said


def settings(folder):
    return [
        "experiment=maths",
        f"policy.path={folder / 'policy'}",
        f"data.path={folder / 'prompts.jsonl'}",
        "sampling.num_candidates=4",
        "sampling.batch_size=64",
        "rounds.num_rounds=1",
        "rounds.prompts_per_round=12",
        # an untrained policy has no right answer: here a number of the right form is enough
        "selection=threshold",
        "selection.minimum=0.0",
        "selection.budget=2",
        "training.batch_size=8",
        "evaluation.num_candidates=4",
        "evaluation.kl_prompts=4",
        "evaluation.bootstrap_samples=20",
    ]


def test_smoke_end_to_end(tmp_path, prepared, capsys):
    folder, said = prepared
    assert said[0].startswith("160 sums with their working to pre-train on; 12 prompts to train on")
    code, made = run(tmp_path / "run", settings=settings(folder))
    assert code == ExitCode.OK
    events = made.events()
    trained = next(e for e in events if e["event"] == "round" and e["arm"] == "policy")
    assert trained["num_accepted"] == 24
    assert trained["steps"] == 6  # two passes
    assert evaluate.main([str(made.path)]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert "tuned policy less the others, paired by prompt" in shown
    written = json.loads((made.path / "maths.json").read_text())
    assert list(written["figures"]) == ["levels 1 to 4", *(f"level {level}" for level in DIGITS)]
    assert written["prompts"] == {"levels 1 to 4": 8, **{f"level {n}": 2 for n in DIGITS}}
    for figures in written["figures"].values():
        for one in figures.values():
            assert 0 <= one["pass@1"]["mean"] <= one["pass@4"]["mean"] <= 1
            assert 1 <= one["texts"]["mean"] <= 4
    assert written["cost"]["policy"]["num_candidates"] == 48
    assert written["cost"]["control"]["trained_tokens"] > 0
    # What the command of the library says of the same candidates.
    arguments = ["passk", str(made.path), "--term", "answer", "--by", "level", "--heldout"]
    assert main([*arguments, "--csv", str(tmp_path / "t.csv")]) == ExitCode.OK


def test_the_rule_of_the_experiment_needs_contrast_and_all_of_the_answer(prepared):
    folder, _ = prepared
    config = load_config([s for s in settings(folder) if not s.startswith("selection")])
    assert config.selection.rule == "correct"
    assert config.training.normalise == "prompt"
    assert (config.selection.minimum, config.selection.contrast) == (1.0, True)


def test_a_policy_learns_from_examples_and_is_read_back(prepared):
    folder, said = prepared
    losses = [float(line.rpartition(" ")[2]) for line in said if "loss" in line]
    assert losses[-1] < losses[0]
    made = load_pretrained(folder / "policy")
    text = "12+34=46 46-5=41"
    ids = made.tokenizer.encode_prompt(text)
    assert ids == list(text.encode())
    assert made.tokenizer.decode([*ids, 256]) == text
    assert made.tokenizer.stop_token_ids == (256,)


def test_the_longest_working_fits():
    longest = max(
        (q for some in draw_questions(1).values() for q in some), key=lambda q: len(q.working)
    )
    config = load_config(["experiment=maths"])
    assert len(longest.working) + 1 <= config.sampling.max_new_tokens
    worst = "99+99=198 198+99=297 297+99=396"
    assert len(worst) + 1 <= config.sampling.max_new_tokens <= MAX_LENGTH - len("99+99+99+99:")
    assert longest.level == UNSEEN


def test_what_is_missing_says_how_it_is_made(tmp_path, prepared):
    folder, _ = prepared
    made_by = "python -m rsft_jax.experiments.applications.maths"
    for name in ("policy.path", "data.path"):
        wrong = [s for s in settings(folder) if not s.startswith(name)]
        with pytest.raises(ConfigError, match=f"{name}: .*; it is made by: {made_by}") as caught:
            run(tmp_path / name, f"{name}={tmp_path / 'nothing'}", settings=wrong)
        assert "\n" not in str(caught.value)


def test_an_answer_that_is_no_number_ends_the_run_before_it_begins(tmp_path, prepared):
    folder, _ = prepared
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    others = [s for s in settings(folder) if not s.startswith("data.path")]
    for change, told in (
        ({"answer": "many"}, "column answer must be a number, got 'many'"),
        ({"answer": None}, "column answer must be a number, got None"),
    ):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps(row | change) + "\n" for row in rows[:1] + rows[-1:]))
        with pytest.raises(
            ConfigError, match=f"prompt {rows[0]['id']}.*: {told}".replace("+", ".")
        ):
            run(tmp_path / str(change), f"data.path={path}", settings=others)


def test_what_is_no_run_of_maths_is_told_in_a_line(tmp_path, capsys):
    assert evaluate.main([str(tmp_path)]) == ExitCode.USAGE
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert maths.main(["--seed", "-1"]) == ExitCode.USAGE


def record(texts, reward, steps, ids=("a", "b")):
    shape = np.shape(reward)
    return Record(
        prompt_ids=list(ids),
        prompts=list(ids),
        places=np.arange(len(ids)),
        texts=texts,
        tokens=None,
        log_probs=None,
        log_prob=np.full(shape, np.nan),
        drawn=np.ones(shape, bool),
        failed=np.zeros(shape, bool),
        finished=np.ones(shape, bool),
        reward=np.array(reward, float),
        judge=np.array(steps, float),
        terms={"answer": np.array(reward, float)},
        verdict=None,
        asked=None,
        visits=None,
        lines=None,
        left_out=[],
        round=1,
        arm="policy",
    )


TEXTS = [["1+1=2", "1+1=3", "3", "1+2=2"], ["5", "5", "6", "x"]]


def test_figures_of_stored_answers_are_those_by_hand():
    """Prompt a: 2 of 4 right, a vote of two 2s and two 3s: half. Prompt b: 1 of 4, outvoted."""
    found = judge(record(TEXTS, [[1, 0, 0, 1], [0, 0, 1, 0]], [[1, 0, 0, 0], [0, 0, 0, 0]]))
    assert found.figures["pass@1"].tolist() == [0.5, 0.25]
    assert found.figures["pass@4"].tolist() == [1, 1]
    assert found.figures["maj@4"].tolist() == [0.5, 0]
    assert found.figures["steps"].tolist() == [0.25, 0]
    assert found.figures["texts"].tolist() == [4, 3]
    assert found.wrong_steps == pytest.approx(2 / 3)
    other = judge(record(TEXTS, [[0, 0, 0, 0], [0, 0, 1, 0]], np.zeros((2, 4))))
    every = np.ones(2, bool)
    assert differences(found, other, every)["pass@1"].mean == 0.25
    assert differences(found, other, ~every | [True, False])["pass@1"].mean == 0.5
    assert intervals(found, np.array([False, True]))["pass@1"].mean == 0.25


def test_partial_credit_is_no_right_answer_and_other_prompts_are_refused():
    found = judge(record(TEXTS, [[0.99, 0, 0, 1], [0, 0, 0, 0]], np.zeros((2, 4))))
    assert found.figures["pass@1"].tolist() == [0.25, 0]
    other = judge(record(TEXTS, np.zeros((2, 4)), np.zeros((2, 4)), ids=("b", "a")))
    with pytest.raises(ValueError, match="same prompts in the same order"):
        differences(found, other, np.ones(2, bool))
    with pytest.raises(ValueError, match="no verdict for some"):
        judge(record(TEXTS, np.full((2, 4), np.nan), np.zeros((2, 4))))
