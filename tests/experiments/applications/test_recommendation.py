"""The recommendation application end to end on made-up ratings, and the law of what it accepts."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rsft_jax.experiments.applications.recommendation.__main__ import prepare
from rsft_jax.experiments.applications.recommendation.evaluate import evaluate_run
from rsft_jax.experiments.applications.recommendation.groups import group_of
from rsft_jax.experiments.applications.recommendation.judging import (
    expected_reward,
    film_log_probs,
    known_share,
    users_of,
)
from rsft_jax.experiments.applications.recommendation.prompts import Split
from rsft_jax.experiments.terminal.console import Console
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.generation import SamplingParams, pad_prompts
from rsft_jax.interop import load_pretrained
from rsft_jax.models import logits_fn
from rsft_jax.policies import encode_prompts, language_policy, score_texts
from rsft_jax.rewards import Term, among
from rsft_jax.rollouts import read_rollouts
from rsft_jax.selection import Candidates, statistical_rejection, threshold
from rsft_jax.training import all_parameters, make_optimizer
from tests.experiments.applications.synthetic_ratings import synthetic_ratings
from tests.experiments.smoke import run
from tests.gates import assert_law, assert_rate, assert_rejects, count_cells

SPLIT = Split(periods=(0.4, 0.7), train_cuts=(0.5,), fewest=4, longest=10)
SMALL = ("d_model", 16), ("num_layers", 1), ("epochs", 1), ("patience", 1)


@pytest.fixture(scope="module")
def ratings():
    return synthetic_ratings()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, ratings):
    """The folder that the experiment reads, and what was said."""
    folder, said = tmp_path_factory.mktemp("prepared"), []
    prepare(ratings, folder, split=SPLIT, tell=said.append, **dict(SMALL))
    return folder, said


def settings(folder):
    return [
        "experiment=recommendation",
        f"policy.path={folder / 'policy'}",
        f"data.path={folder / 'prompts.jsonl'}",
        "sampling.num_candidates=8",
        "sampling.batch_size=32",
        "rounds.num_rounds=1",
        "rounds.prompts_per_round=12",
        "training.batch_size=8",
        "evaluation.num_prompts=6",
        "evaluation.num_candidates=2",
        "evaluation.kl_prompts=4",
        "evaluation.bootstrap_samples=20",
    ]


def test_smoke_end_to_end(tmp_path, prepared, ratings, capsys):
    folder, said = prepared
    assert any("histories to pre-train on" in line for line in said)
    code, made = run(tmp_path / "run", settings=settings(folder))
    assert code == ExitCode.OK
    seen = {row["id"]: row["seen"] for row in _rows(folder)}
    for rows in map(read_rollouts, made.path.glob("**/*.parquet")):
        assert rows.num_rows > 0
        drawn = zip(rows["prompt_id"], rows["completion"])
        assert not [film for prompt, film in drawn if film in seen[prompt]]
    result = evaluate_run(made, ratings, SPLIT, Console())
    shown = capsys.readouterr().out
    assert "tuned policy less the others" in shown
    assert "factorisation" in shown
    written = json.loads((made.path / "recommendation.json").read_text())
    assert set(written["figures"]) == {"policy", "base", "control", "popular", "factors"}
    for figures in written["figures"].values():
        assert 0 <= figures["ndcg"]["mean"] <= figures["hit"]["mean"] <= 1
        assert 0 < figures["coverage"] <= 1
    assert written["policy_less"]["base"]["ndcg"]["mean"] == pytest.approx(
        written["figures"]["policy"]["ndcg"]["mean"] - written["figures"]["base"]["ndcg"]["mean"]
    )
    assert set(written["groups"]) == {"age", "gender", "activity"}
    assert "accepted of policy" in written["groups"]["gender"]
    # Lists show no film that the user knows.
    assert result["users"] == len(
        {row["user"] for row in _rows(folder) if row["split"] == "heldout"}
    )


def _rows(folder):
    return [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]


def test_what_is_missing_says_how_it_is_made(tmp_path, prepared):
    folder, _ = prepared
    made_by = "python -m rsft_jax.experiments.applications.recommendation"
    for name in ("policy.path", "data.path"):
        wrong = [s for s in settings(folder) if not s.startswith(name)]
        with pytest.raises(ConfigError, match=f"{name}: .*; it is made by: {made_by}") as caught:
            run(tmp_path / name, f"{name}={tmp_path / 'nothing'}", settings=wrong)
        assert "\n" not in str(caught.value)


def test_a_user_without_later_ratings_ends_the_run_before_it_begins(tmp_path, prepared):
    folder, _ = prepared
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    rows[0]["liked"] = []
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    others = [s for s in settings(folder) if not s.startswith("data.path")]
    with pytest.raises(ConfigError, match=f"prompt {rows[0]['id']}: column liked is an empty list"):
        run(tmp_path / "run", f"data.path={path}", settings=others)


def test_ratings_of_which_nothing_is_left_are_refused(tmp_path, ratings):
    none = dataclasses.replace(SPLIT, fewest=1000)
    with pytest.raises(ConfigError, match="no prompt of the split train is left"):
        prepare(ratings, tmp_path / "o", split=none, tell=lambda text: None)
    assert not (tmp_path / "o").exists()


BETA = 0.7
PROMPT = "Film 3 (1973) | Film 5 (1975)"
LIKED = ["Film 7 (1977)", "Film 9 (1979)", "Film 11 (1981)", "Film 13 (1983)", "Film 15 (1985)"]


@pytest.fixture(scope="module")
def drawn(prepared):
    """Many candidates of one history, their rewards, and the policy's law by enumeration."""
    pretrained = load_pretrained(prepared[0] / "policy")
    # Logits of a fresh model are nearly equal: sharpened, films differ in probability.
    params = jax.tree.map(lambda leaf: 3.0 * leaf, pretrained.params)
    pretrained = pretrained._replace(params=params)
    policy, state = language_policy(
        pretrained,
        sampling=SamplingParams(max_new_tokens=1),
        part=all_parameters(),
        optimizer=make_optimizer("sgd", learning_rate=0.1),
        slots=4096,
    )
    batch = encode_prompts([PROMPT], pretrained.tokenizer, room=10)
    completions = policy.propose(jax.random.key(3), state, batch, num_candidates=40_000)
    prompts = [dataclasses.replace(batch.prompts[0], fields={"liked": LIKED})]
    scored = score_texts(
        batch._replace(prompts=prompts),
        completions,
        reward=Term("liked", among("liked")),
        tokenizer=pretrained.tokenizer,
    )
    tokens = np.asarray(completions.tokens)[0, :, 0]
    ids = pretrained.tokenizer.encode_prompt(PROMPT)
    logits, _ = logits_fn(pretrained.model)(
        params, np.array([ids]), np.arange(len(ids))[None], None
    )
    law = np.exp(np.asarray(jax.nn.log_softmax(logits[0, -1]), np.float64))
    liked = np.zeros(law.size, bool)
    liked[[pretrained.tokenizer.token_to_id(title) for title in LIKED]] = True
    return tokens, np.asarray(scored.rewards), law / law.sum(), liked


def test_a_candidate_is_a_film_by_the_policys_law_and_its_reward_the_users(drawn):
    tokens, rewards, law, liked = drawn
    assert_law(count_cells(tokens, law.size), law)
    np.testing.assert_array_equal(rewards[0], liked[tokens])
    assert 0.05 < (law * liked).sum() < 0.6


def test_statistical_rejection_accepts_the_tilted_law_of_the_catalogue(drawn):
    """q exp(r / beta), enumerated over all films; the largest reward is known to be 1."""
    tokens, rewards, law, liked = drawn
    candidates = Candidates(rewards=rewards.astype(np.float32), valid=np.ones(rewards.shape, bool))
    rule = statistical_rejection(BETA, max_reward=1.0)
    accepted = np.asarray(rule.select(jax.random.key(0), candidates).accepted)[0]
    tilted = law * np.exp(liked / BETA)
    tilted /= tilted.sum()
    counts = count_cells(tokens[accepted], law.size)
    assert_law(counts, tilted)
    rate = (law * np.exp((liked - 1) / BETA)).sum()
    assert_rate(accepted.sum(), accepted.size, rate)
    only_liked = np.asarray(threshold(1.0).select(jax.random.key(0), candidates).accepted)[0]
    assert_rejects(count_cells(tokens[only_liked], law.size), tilted)
    assert_law(count_cells(tokens[only_liked], law.size), law * liked / (law * liked).sum())
    assert_rejects(counts, law)


def test_log_probs_of_films_are_the_policys_without_the_token_that_begins(drawn, prepared, ratings):
    pretrained = load_pretrained(prepared[0] / "policy")
    params = jax.tree.map(lambda leaf: 3.0 * leaf, pretrained.params)
    _, _, law, _ = drawn
    ids = pretrained.tokenizer.encode_prompt(PROMPT)
    found = film_log_probs(pretrained.model, params, pad_prompts([ids, ids[:2]], width=16))
    np.testing.assert_allclose(np.exp(found[0]), law[1:] / law[1:].sum(), rtol=1e-4)
    rows = [{"seen": ["Film 3 (1973)", "Film 5 (1975)"], "liked": LIKED}]
    known = np.zeros((3, 24), bool)
    users = users_of(rows, ratings.titles, known)
    films = [ratings.titles.index(title) for title in LIKED]
    np.testing.assert_allclose(expected_reward(found[:1], users), np.exp(found[0][films]).sum())
    np.testing.assert_allclose(known_share(found[:1], users), np.exp(found[0][[3, 5]]).sum())


def test_groups_divide_users():
    rows = [{"age": a, "gender": "F", "activity": a} for a in (24, 25, 34, 35, 50)]
    names = ["under 25", "25 to 34", "25 to 34", "35 to 49", "50 and more"]
    assert [group_of(row, "age") for row in rows] == names
    assert group_of(rows[0], "gender") == "F"
    active = ["under 25", *["25 to 74"] * 4]
    assert [group_of(row, "activity") for row in rows] == active
