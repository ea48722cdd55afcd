"""Early stop in a run: the same is accepted, and less is drawn."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language import arms, make
from rsft_jax.experiments.language.candidates import read_candidates
from rsft_jax.experiments.language.reselect import select_again
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.generation import Completions
from rsft_jax.policies import LanguagePolicy, Memo, tokens_saved
from rsft_jax.rewards import WeightedSum
from rsft_jax.rollouts import read_rollouts
from rsft_jax.selection import top_k
from tests.experiments import smoke

# About one in four is accepted; two are wanted of at most eight.
RUN = [
    *smoke.SMOKE, "evaluation.num_prompts=2",
    "sampling.num_candidates=8", "selection=statistical_rejection", "selection.beta=0.4",
    "selection.max_reward=0.3", "selection.budget=2",
]  # fmt: skip
EARLY = [*RUN, "sampling.early_stop=true"]


def run(path, settings, *overrides, resume=False):
    code, folder = smoke.run(path, *overrides, settings=settings, resume=resume)
    assert code == ExitCode.OK
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "run", RUN)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    path = tmp_path_factory.mktemp("stopped")
    return run(path / "run", EARLY, f"store={path / 'store'}"), path / "store"


@pytest.fixture
def asked(monkeypatch):
    """The prompts that each call of drawing in a training round is for."""
    counts = []
    real = LanguagePolicy.propose_accepted

    def propose(self, key, state, prompts, **options):
        counts.append(len(prompts.prompts))
        return real(self, key, state, prompts, **options)

    monkeypatch.setattr(LanguagePolicy, "propose_accepted", propose)
    return counts


def events(folder, kind, arm):
    return [e for e in folder.events() if e["event"] == kind and e["arm"] == arm]


def accepted_texts(folder, round_):
    rows = read_rollouts(folder.rollout_path(round_, "policy"))
    return [
        (prompt, candidate, text)
        for prompt, candidate, text, accepted in zip(
            rows["prompt_id"], rows["candidate"], rows["completion"], rows["accepted"]
        )
        if accepted
    ]


def test_the_policy_accepts_trains_and_becomes_what_it_does_without(whole, stopped):
    stopped, _ = stopped
    for round_ in (1, 2):
        ours = accepted_texts(stopped, round_)
        assert ours == accepted_texts(whole, round_)
        assert len(ours) > 4
    for ours, theirs in zip(events(stopped, "round", "policy"), events(whole, "round", "policy")):
        for name in ("num_accepted", "loss_first", "loss_last", "grad_norm", "trained_tokens"):
            assert ours[name] == theirs[name]
        assert ours["num_candidates"] < theirs["num_candidates"] == 48
    for ours, theirs in zip(
        events(stopped, "evaluation", "policy"), events(whole, "evaluation", "policy")
    ):
        for name in ("reward_mean", "kl_mean", "judge_mean", "generated_tokens"):
            assert ours[name] == theirs[name]


def test_what_lies_behind_the_last_accepted_one_is_not_kept(whole, stopped):
    stopped, _ = stopped
    for arm, round_ in (("policy", 1), ("policy", 2), ("control", 2)):
        rows = read_rollouts(stopped.rollout_path(round_, arm))
        all_rows = read_rollouts(whole.rollout_path(round_, "policy"))
        counts = {}
        for row, prompt in enumerate(rows["prompt_id"]):
            counts.setdefault(prompt, []).append(row)
        sizes = [len(found) for found in counts.values()]
        assert min(sizes) < max(sizes) <= 8
        assert sum(sizes) == events(stopped, "round", arm)[round_ - 1]["num_candidates"]
        assert (np.array([len(ids) for ids in rows["tokens"]]) > 0).all()
        if arm == "policy":
            for found in counts.values():
                if len(found) < 8:  # ends with the second accepted one
                    accepted = rows["accepted"][found]
                    assert accepted.sum() == 2
                    assert accepted[-1]
            known = set(zip(all_rows["prompt_id"], all_rows["candidate"], all_rows["completion"]))
            assert set(zip(rows["prompt_id"], rows["candidate"], rows["completion"])) <= known
        else:  # the first ones
            for found in counts.values():
                accepted = rows["accepted"][found]
                assert (np.flatnonzero(accepted) == np.arange(accepted.sum())).all()


def test_figures_of_the_round(whole, stopped):
    stopped, _ = stopped
    (first, _), (every, _) = (events(f, "round", "policy") for f in (stopped, whole))
    figures = first["generation"]
    rows = read_rollouts(stopped.rollout_path(1, "policy"))
    assert first["generated_tokens"] == sum(len(ids) for ids in rows["tokens"])
    assert first["generated_tokens"] <= figures["tokens"] <= every["generated_tokens"]
    mean = first["generated_tokens"] / first["num_candidates"]
    assert figures["tokens_saved"] == round(48 * mean) - figures["tokens"] >= 0
    # The mean over prompts of (m - 1) / (tried - 1), or accepted / tried where all were drawn.
    rates = []
    for prompt in dict.fromkeys(rows["prompt_id"]):
        accepted = rows["accepted"][np.array(rows["prompt_id"]) == prompt]
        enough = accepted.sum() == 2
        rates.append(1 / (accepted.size - 1) if enough else accepted.sum() / accepted.size)
    assert first["rule_rate"] == pytest.approx(np.mean(rates))
    assert first["rule_rate_low"] <= first["rule_rate"] <= first["rule_rate_high"]
    for name in ("acceptance_rate", "acceptance_low", "acceptance_high"):
        assert first[name] == every[name]
    # What is proposed is averaged over those that are drawn whatever their rewards.
    all_rows = read_rollouts(whole.rollout_path(1, "policy"))
    fair = [r for r, number in zip(all_rows["reward"], all_rows["candidate"]) if number < 2]
    assert first["reward_proposed"] == pytest.approx(np.mean(fair))
    assert not {"tokens_saved"} & set(every["generation"])
    assert "rule_rate" not in every


@pytest.mark.slow
def test_stored_candidates_are_judged_first_and_drawn_only_where_they_are_not_enough(
    stopped, asked, tmp_path
):
    _, store = stopped
    one = [f"store={store}", "rounds.num_rounds=1", "control=false"]
    run(tmp_path / "same", EARLY, *one)
    assert asked == []
    again = run(tmp_path / "fewer", EARLY, *one, "selection.budget=1")
    assert asked == []
    assert events(again, "round", "policy")[0]["generation"] is None
    rows = read_rollouts(again.rollout_path(1, "policy"))
    for prompt in dict.fromkeys(rows["prompt_id"]):  # kept behind the first accepted one: not tried
        accepted = rows["accepted"][np.array(rows["prompt_id"]) == prompt]
        assert accepted.sum() == accepted[-1] or accepted.size == 8
        assert accepted.sum() <= 1
    more = run(tmp_path / "more", EARLY, *one, "selection.budget=3")
    assert len(asked) == 1
    assert 0 < asked[0] < 6  # some prompts have used up their eight, and need no more
    fresh = run(tmp_path / "fresh", EARLY, "selection.budget=3", *one[1:])
    assert accepted_texts(more, 1) == accepted_texts(fresh, 1)
    # All candidates of a run without early stop answer too.
    del asked[:]
    full = tmp_path / "full"
    run(tmp_path / "all", RUN, f"store={full}", *one[1:])
    run(tmp_path / "early", EARLY, f"store={full}", *one[1:])
    assert asked == []


@pytest.mark.slow
def test_a_run_interrupted_after_drawing_goes_on_as_if_it_had_not_been(
    stopped, asked, tmp_path, monkeypatch
):
    folder, _ = stopped
    real = arms.improve

    def improve(key, state, *arguments, **options):
        if int(state.step):  # of round 2
            raise KeyboardInterrupt
        return real(key, state, *arguments, **options)

    monkeypatch.setattr(arms, "improve", improve)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", EARLY)
    assert len(asked) == 2  # both arms share the first round's
    monkeypatch.setattr(arms, "improve", real)
    resumed = run(tmp_path / "run", EARLY, resume=True)
    assert len(asked) == 3  # the control's second round; the policy's was kept
    for kind in ("evaluation", "round"):
        for arm in ("policy", "control"):
            ours, theirs = events(resumed, kind, arm), events(folder, kind, arm)
            assert len(ours) == len(theirs)
            for a, b in zip(ours, theirs):
                for drop in ("seconds", "generation"):
                    a.pop(drop, None), b.pop(drop, None)
                assert a == b


def test_no_completion_is_scored_twice(tmp_path, monkeypatch):
    scored = []
    real = WeightedSum.terms

    def terms(self, prompts, completions):
        if len(self.members) > 1:  # and not the judge
            scored.extend(zip(prompts, [tuple(row) for row in completions]))
        return real(self, prompts, completions)

    made = []
    whole = Memo.__init__

    def memo(self, *arguments):
        whole(self, *arguments)
        made.append(self)

    monkeypatch.setattr(WeightedSum, "terms", terms)
    monkeypatch.setattr(Memo, "__init__", memo)
    run(tmp_path / "run", EARLY, "rounds.num_rounds=1", "control=false")
    singles = [pair for pair in scored if len(pair[1]) == 1]
    rows = read_rollouts(tmp_path / "run" / "rollouts" / "round-001-policy.parquet")
    different = {(p, ids.tobytes()) for p, ids in zip(rows["prompt_id"], rows["tokens"])}
    (memo_of_the_round,) = made
    assert len(singles) == len(memo_of_the_round._terms)
    assert len(different) <= len(singles) <= 48  # some in flight are dropped at the end
    assert rows.num_rows > 20


def test_reselecting_a_stopped_run_gives_its_own_selection_and_warns(stopped, capsys):
    folder, _ = stopped
    groups, _ = read_candidates(folder.path)
    (group, *_) = [g for g in groups if (g.arm, g.round) == ("policy", 1)]
    rule = load_config(EARLY).selection.whole()
    rows = read_rollouts(folder.rollout_path(1, "policy"))
    again = np.asarray(select_again(group, rule, 0).accepted)
    assert again[group.valid].tolist() == rows["accepted"].tolist()
    assert main(["reselect", str(folder.path), "selection=best_of_n"]) == ExitCode.OK
    assert "drawn with sampling.early_stop" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["selection.max_reward=null"], "statistical_rejection must see all candidates"),
        (["selection.budget=null"], "needs selection.budget, the number of accepted"),
        (["selection=best_of_n"], "selection.rule: best_of_n must see all candidates of a prompt"),
        (["candidates=."], "nothing is drawn where candidates are given"),
        (["mesh.distributed=true", "output_dir=x"], "not with mesh.distributed=true"),
    ],
)
def test_what_cannot_stop_early_is_refused_before_anything_is_loaded(overrides, message):
    given = overrides[0].partition("=")[0]
    settings = [s for s in EARLY if given != "selection" or not s.startswith("selection")]
    with pytest.raises(ConfigError, match=r"sampling\.early_stop: true; .*") as found:
        load_config(smoke.settings_with(settings, *overrides))
    assert message in str(found.value)


def test_a_rule_of_ones_own_must_be_separable(monkeypatch):
    config = load_config(EARLY)
    monkeypatch.setattr(type(config.selection), "build", lambda *_: top_k(2))
    with pytest.raises(ConfigError, match=r"sampling\.early_stop: true; the rule of .* separable"):
        make.make_early_stop(config)


def test_training_on_the_candidates_of_a_stopped_run_says_what_they_are(stopped, tmp_path, capsys):
    folder, _ = stopped
    one = ["control=false", "rounds.num_rounds=1"]
    run(tmp_path / "run", RUN, f"candidates={folder.path}", *one)
    assert "drawn with sampling.early_stop" in capsys.readouterr().out


def test_tokens_saved_takes_the_mean_length_for_what_was_not_drawn():
    lengths = jnp.array([[4, 2, 0, 0], [3, 3, 3, 0]])
    zeros = jnp.zeros((2, 4), bool)
    completions = Completions(
        tokens=jnp.zeros((2, 4, 4), jnp.int32), lengths=lengths, log_probs=jnp.zeros((2, 4, 4)),
        finished=zeros, failed=zeros,
    )  # fmt: skip
    assert tokens_saved(completions, 17) == 8 * 3 - 17
    assert tokens_saved(completions, 30) == 0
    blank = dataclasses.replace(completions, lengths=jnp.zeros((2, 4), jnp.int32))
    assert tokens_saved(blank, 0) == 0
