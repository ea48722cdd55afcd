"""The safety application end to end at its smallest, and the figures of stored completions."""

import itertools
import json

import numpy as np
import pytest

from rsft_jax.data import Prompt
from rsft_jax.experiments.applications.safety import evaluate
from rsft_jax.experiments.applications.safety.judging import (
    Judged,
    by_group,
    by_template,
    differences,
    has_group,
    intervals,
    judge,
    pair_differences,
    spread,
    swapped_scores,
)
from rsft_jax.experiments.applications.safety.prompts import GROUPS, prompt_rows
from rsft_jax.experiments.cli import main
from rsft_jax.experiments.runs.folder import open_run_folder
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ExitCode
from rsft_jax.metrics import bootstrap_interval
from rsft_jax.rewards import offensive
from rsft_jax.rollouts import Record
from tests.experiments.smoke import run

KEPT = ("train-heated-01", "train-everyday-01", "heldout-heated-01", "heldout-heated-02",
        "heldout-everyday-01", "heldout-everyday-02", "heldout-control-01",
        "heldout-control-02")  # fmt: skip
SETTINGS = (
    "experiment=safety",
    "rounds.num_rounds=1",
    "policy=tiny_random",
    "sampling.num_candidates=2",
    "sampling.max_new_tokens=4",
    "sampling.batch_size=32",
    "rounds.prompts_per_round=16",
    "selection.minimum=-9.0",  # of a random model nothing is long enough
    "training.batch_size=32",
    "training.epochs=1",
    "evaluation.num_candidates=2",
    "evaluation.kl_prompts=2",
    "evaluation.bootstrap_samples=20",
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run of a few templates."""
    folder = tmp_path_factory.mktemp("safety")
    data = folder / "prompts.jsonl"
    rows = [json.dumps(row) for row in prompt_rows() if row["template"] in KEPT]
    data.write_text("\n".join(rows) + "\n")
    code, made = run(folder / "run", f"data.path={data}", settings=SETTINGS)
    assert code == ExitCode.OK
    return made


def test_smoke_end_to_end(stored, capsys):
    assert evaluate.main([str(stored.path), str(stored.path)]) == ExitCode.OK
    shown = capsys.readouterr().out
    for part in ("tuned policy less the others", "between groups", "mean over seeds 0, 0, and"):
        assert part in shown
    written = json.loads((stored.path / "safety.json").read_text())
    assert written["templates"] == {"heated": 2, "everyday": 2, "controls": 2}
    assert list(written["figures"]["controls"]["policy"])[-1] == "to the point"
    assert list(written["groups"]) == ["reward", "accepted", "score", "sentiment"]
    for arm in ("policy", "base", "control"):
        found = written["groups"]["reward"][arm]
        assert [one["group"] for one in found["slices"]["groups"]] == sorted(GROUPS)
        assert list(found["pairs"]) == ["gender", "age", "profession", "origin"]
    assert [one["num_prompts"] for one in written["training"]["policy"]["groups"]] == [2] * 8
    assert written["cost"]["policy"]["num_candidates"] == 32
    events = stored.events()
    policy = next(e for e in events if e["event"] == "round" and e["arm"] == "policy")
    assert policy["num_accepted"] == 32


def test_acceptance_of_groups_is_balanced_on_stored_candidates(stored, capsys):
    arguments = ["reselect", str(stored.path), "slices=[group]", "selection=balanced"]
    arguments += ["selection.by=group", "selection.max_gap=0.25"]
    # Half of the candidates of a template: the rate of a group is then a matter of luck.
    arguments += ["selection.inner={rule: threshold, minimum: -0.9, budget: null}"]
    assert main(arguments) == ExitCode.OK
    assert "balanced(0.25) by group" in capsys.readouterr().out


def test_what_is_no_run_of_safety_is_told_in_a_line(tmp_path, capsys):
    assert evaluate.main([str(tmp_path)]) == ExitCode.USAGE
    for settings, why in (
        (["experiment=smoke"], "is no run of safety: its rule has no minimum"),
        (["experiment=gaussian"], "is no run of safety"),
        (["experiment=safety"], "has no evaluations"),
    ):
        capsys.readouterr()
        folder = tmp_path / settings[0]
        with open_run_folder(folder, load_config(settings), resume=False):
            pass
        assert evaluate.main([str(folder)]) == ExitCode.USAGE
        (told,) = capsys.readouterr().err.strip().splitlines()
        assert why in told


def test_the_rule_is_a_threshold_over_every_template_with_every_word():
    config = load_config(["experiment=safety"])
    assert config.selection.rule == "threshold"
    assert config.selection.budget is None
    assert config.rounds.prompts_per_round == 160
    assert set(config.reward.terms) == {"offensive", "refusal", "repetition", "length"}
    assert config.reward.judge.term == "sentiment"
    inner = "selection.inner={rule: threshold, minimum: -0.03, budget: null}"
    balanced = load_config(["experiment=safety", "selection=balanced", "selection.by=group", inner])
    assert balanced.selection.group_column() == "group"


def prompts_of(templates, groups=GROUPS, kind="heated", **columns):
    return [
        Prompt(
            id=f"{template}-{group}",
            text="",
            messages=(),
            fields={"template": template, "group": group, "kind": kind, **columns},
        )
        for template in templates
        for group in groups
    ]


def record_of(prompts, texts, **values):
    shape = (len(prompts), len(texts[0]))
    full = {name: np.broadcast_to(np.asarray(v, float), shape) for name, v in values.items()}
    terms = {name: full[name] for name in ("offensive", "refusal") if name in full}
    return Record(
        prompt_ids=[prompt.id for prompt in prompts],
        prompts=[prompt.text for prompt in prompts],
        places=np.arange(len(prompts)),
        texts=texts,
        tokens=None,
        log_probs=None,
        log_prob=np.full(shape, np.nan),
        drawn=np.ones(shape, bool),
        failed=np.zeros(shape, bool),
        finished=np.ones(shape, bool),
        reward=full["reward"],
        judge=full["judge"],
        terms=terms,
    )


def test_figures_of_stored_completions_are_those_by_hand():
    prompts = prompts_of("a", ["nurse"]) + prompts_of("b", ["none"], "control", words=["wax"])
    texts = [["x", "y", "z"], ["Waxes melt.", "I can't help, wax.", "Ice."]]
    found = judge(
        record_of(
            prompts,
            texts,
            offensive=[[0.5, 0.49, 0.9], [0, 0, 0]],
            refusal=[[0, 0, 0], [0, 1, 0]],
            reward=[[-0.5, -0.02, np.nan], [0, -1, -0.021]],
            judge=[[0.5, 0, 0], [0, 0, 0]],
        ),
        prompts,
        -0.02,
    )
    nan = np.nan
    expected = {
        "offensive": [[1, 0, 1], [0, 0, 0]],
        "score": [[0.5, 0.49, 0.9], [0, 0, 0]],
        "accepted": [[0, 1, nan], [1, 0, 0]],
        "refused": [[0, 0, 0], [0, 1, 0]],
        "to the point": [[nan] * 3, [1, 0, 0]],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found.figures[name], values, name)
    assert has_group(found).tolist() == [True, False]
    chosen = found.of_kind("control")
    assert intervals(found, chosen)["to the point"].mean == pytest.approx(1 / 3)
    assert "to the point" not in intervals(found, ~chosen)
    assert found.distinct(chosen) == 1.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"terms": {}}, "the reward has no term offensive; its terms: none"),
        ({"column": "group"}, "prompt a-woman has no column group"),
        ({"column": "template"}, "prompt a-woman has no column template"),
    ],
)
def test_what_the_figures_need_is_asked_for(change, told):
    prompts = prompts_of("a")
    record = record_of(prompts, [["x"]] * 8, offensive=0, refusal=0, reward=0, judge=0)
    if "terms" in change:
        record.terms.clear()
    prompts[0].fields.pop(change.get("column"), None)
    with pytest.raises(ValueError, match=told):
        judge(record, prompts, -0.02)


def judged_of(cube):
    """A figure "x" of templates a, b, ... with every group word: `[T, G, N]`."""
    cube = np.asarray(cube, float)
    prompts = prompts_of([f"t{number}" for number in range(len(cube))])
    texts = [["x"] * cube.shape[2]] * len(prompts)
    return Judged(prompts=prompts, texts=texts, figures={"x": cube.reshape(-1, cube.shape[2])})


def every(judged):
    return np.ones(len(judged.prompts), bool)


def test_templates_are_the_unit_of_intervals():
    rng = np.random.default_rng(0)
    cube = rng.normal(size=(5, 8, 2)) + 10 * rng.normal(size=(5, 1, 1))
    found = judged_of(cube)
    of_templates = bootstrap_interval(cube.reshape(5, 16))
    assert intervals(found, every(found))["x"] == of_templates
    over_prompts = bootstrap_interval(cube.reshape(40, 2))
    assert of_templates.high - of_templates.low > 2 * (over_prompts.high - over_prompts.low)
    less = differences(judged_of(cube + 1), found, every(found))["x"]
    assert less == pytest.approx((1, 1, 1))
    assert by_template(np.array([[1.0], [2.0], [3.0]]), ["a", "b", "a"]).shape == (2, 2)
    other = judged_of(cube[:4])
    with pytest.raises(ValueError, match="same prompts in the same order"):
        differences(found, other, every(found))


def test_pairs_of_words_differ_as_by_hand_and_so_does_what_training_changes():
    """The first word of each pair has 1 more than the second, in whatever template; then 3 more."""
    cube = np.zeros((6, 8, 1)) + np.arange(6)[:, None, None] ** 2
    before, after = cube.copy(), cube.copy()
    before[:, ::2] += 1
    after[:, ::2] += 3
    base, policy = judged_of(before), judged_of(after)
    for one in pair_differences(base, "x", every(base)).values():
        assert one == pytest.approx((1, 1, 1))
    for one in pair_differences(policy, "x", every(policy), base).values():
        assert one == pytest.approx((2, 2, 2))
    gap = by_group(policy, "x", every(policy)).gap
    assert gap.difference.mean == pytest.approx(3)
    assert {gap.first, gap.second} < set(GROUPS)


def test_intervals_of_pairs_hold_together():
    rng = np.random.default_rng(1)
    cube = rng.normal(size=(30, 8, 1))
    found = judged_of(cube)
    together = pair_differences(found, "x", every(found))["gender"]
    assert together == bootstrap_interval(cube[:, 0, 0] - cube[:, 1, 0], 0.9875)


def test_spread_is_on_average_the_variance_between_words():
    """All 4 ** 2 outcomes of two completions for each of two coins, the other words at 1/2."""
    chances = [0.2, 0.9]
    mean = 0.0
    for draws in itertools.product((0.0, 1.0), repeat=4):
        first, second = draws[:2], draws[2:]
        weight = np.prod(
            [p if x else 1 - p for p, some in zip(chances, (first, second)) for x in some]
        )
        cube = np.full((1, 8, 2), 0.5)
        cube[0, 0], cube[0, 1] = first, second
        found = judged_of(cube)
        mean += weight * spread(found, "x", every(found))[0]
    truth = np.var([*chances, *[0.5] * 6], ddof=1)
    assert mean == pytest.approx(truth)
    alone = judged_of(np.zeros((2, 8, 1)))
    assert np.isnan(spread(alone, "x", every(alone))).all()


def test_the_classifier_is_asked_of_one_text_with_every_word():
    prompts = prompts_of("ab", ["nurse", "man"])
    texts = [
        ["A nurse is a nurse.", "No word of it."],
        ["The MAN sat.", "x"],
        ["x", "Man!"],
        ["", ""],
    ]
    found = Judged(prompts=prompts, texts=texts, figures={})
    slices = swapped_scores(found, np.array([True, True, True, False]))
    for one in slices.groups:
        word = one.group
        rows = [[f"A {word} is a {word}.", f"The {word} sat.", f"{word}!"]]
        first, second, other = offensive()([""], rows)[0]
        assert one.interval.mean == pytest.approx(((first + second) / 2 + other) / 2)
        assert one.num_prompts == 3
    assert swapped_scores(found, np.zeros(4, bool)).gap is None
