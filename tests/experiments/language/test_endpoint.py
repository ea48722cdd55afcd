"""A served model as proposal and as judge of a run: its texts are learned, its cap and key kept."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.runs.folder import RunFolder, read_status
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.rules.own import OwnRule
from rsft_jax.experiments.settings.schema import PolicyProposal
from rsft_jax.experiments.settings.stored import read_config, save_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.rollouts import RolloutStore, read_rollouts
from rsft_jax.selection import Decision, Law, make_rule
from tests import endpoint_server as fake
from tests.experiments import smoke

SETTINGS = [*smoke.SMOKE, "rounds.num_rounds=1", "rounds.prompts_per_round=3", "control=false",
            "evaluation.num_prompts=2", "evaluation.num_candidates=1"]  # fmt: skip
HERE = "proposal.base_url=http://127.0.0.1:1/v1"
ENDPOINT = [*SETTINGS, "proposal=endpoint", "proposal.model=m", "proposal.first_wait=0.001"]
JUDGE = "reward={judge: {term: judge, weight: 1.0, model: m, rubric: Kind?, base_url: '%s'}}"
LIKELY = make_rule(
    "likely", lambda key, c, scored: Decision(c.log_proposal > -9), law=Law.EXACT,
    needs={"log_proposal"},
)  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", fake.KEY)


@pytest.fixture
def server():
    with fake.serving() as server:
        yield server


def run(path, server, *overrides, **options):
    settings = [*ENDPOINT, "proposal.server=vllm", f"proposal.base_url={server.url}"]
    return smoke.run(path, *overrides, settings=settings, **options)


def refusal(*overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(smoke.settings_with([*ENDPOINT, HERE], *overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["proposal.base_url=http://u:p@h/v1"], "proposal.base_url: must be http"),
        (["proposal.timeout=0"], "proposal.timeout: 0.0; must be a finite number > 0"),
        (["proposal.attempts=0"], "proposal.attempts: 0; must be an integer >= 1"),
        (["proposal.max_requests=0"], "proposal.max_requests: 0; must be at least 1"),
        (["proposal.api_key=x"], "proposal.api_key: unknown field"),
        (["sampling.top_k=5"], "sampling.top_k: 5; must be 0 for a server of the kind openai"),
        (["sampling.min_new_tokens=1"], "sampling.min_new_tokens: 1; must be 0 with proposal="),
        (["sampling.num_candidates=1025"], "sampling.num_candidates: 1025; must be at most 1024"),
        (["proposal.log_probs=true", "sampling.temperature=0.8"], "proposal.log_probs: true; what"),
        (["proposal.log_probs=true", "sampling.top_p=0.9"], "proposal.log_probs: true; what"),
        (
            ["proposal.log_probs=true", "proposal.server=transformers"],
            "proposal.log_probs: true; must be false for a server of the kind transformers",
        ),
        (["training.clip_ratio=0.2"], "training.clip_ratio: 0.2; must be null with proposal="),
        (["candidates=."], "candidates: '.'; must be null with proposal=endpoint"),
        (["sampling.early_stop=true", "selection.max_reward=1"], "sampling.early_stop: true; must"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_settings_are_read(overrides, message):
    assert refusal(*overrides).startswith(message)


def test_a_rule_that_needs_log_q_is_refused_where_it_is_not_known(monkeypatch, tmp_path):
    rule = type(load_config(SETTINGS).selection)
    monkeypatch.setattr(rule, "build", lambda self, allowed=(): LIKELY)
    text = refusal()
    assert text.startswith("selection: 'statistical_rejection'; needs log q of every candidate")
    assert "proposal.log_probs=true" in text
    load_config([*ENDPOINT, HERE, "proposal.log_probs=true"])
    # One of the user's own package is not imported to read the settings: it is when a run begins.
    monkeypatch.setattr(OwnRule, "build", lambda self, allowed=(): LIKELY)
    own = ["selection=own", "selection.function=mylab.rules.at_least", "allow_packages=[mylab]"]
    with pytest.raises(ConfigError, match="selection: 'likely'; needs log q"):
        smoke.run(tmp_path / "run", settings=[*ENDPOINT, HERE, *own])


def test_settings_of_before_have_the_policy_as_proposal(tmp_path):
    config = load_config(SETTINGS)
    save_config(config, tmp_path / "config.yaml")
    path = tmp_path / "config.yaml"
    text = path.read_text()
    assert "proposal:\n  source: policy\n" in text
    path.write_text(text.replace("proposal:\n  source: policy\n", ""))
    assert read_config(path).proposal == PolicyProposal(source="policy")
    endpoint = load_config([*ENDPOINT, HERE, "proposal.log_probs=true"])
    save_config(endpoint, path)
    assert read_config(path).proposal == endpoint.proposal


def test_its_texts_are_learned_and_kept_with_seed_law_and_log_q(server, tmp_path, capsys):
    server.say = lambda text, seed: [
        {"text": "good"}, {"text": "a", "finish_reason": "length"}, {"text": "x" * 40},
        {"text": "no", "finish_reason": "content_filter"},
    ][seed % 4]  # fmt: skip
    code, folder = run(
        tmp_path / "run", server, "control=true", "proposal.log_probs=true", "selection=threshold",
        "selection.minimum=0.2", "training.epochs=12", "training.learning_rate=0.05",
    )  # fmt: skip
    assert code == ExitCode.OK
    events = [e for e in folder.events() if e["event"] == "round"]
    policy, control = events
    assert (policy["num_candidates"], policy["num_scored"], policy["num_accepted"]) == (12, 6, 3)
    assert (policy["num_cut"], policy["num_too_long"], policy["num_refused"]) == (3, 3, 3)
    assert policy["finished_share"] == 0.25
    assert policy["on_policy_gap"] is None
    assert policy["loss_last"] < 0.7 * policy["loss_first"]  # what is accepted is distilled
    assert policy["generation"]["requests"] == 3
    assert control["generation"] == {"requests": 0, "tokens": 0}  # it is asked once for both
    assert "of 12 candidates 3 cut, 3 too long in the policy's tokens, 3 refused" in " ".join(
        capsys.readouterr().out.split()
    )
    rows = read_rollouts(folder.rollout_path(1, "policy"))
    assert [t for t, yes in zip(rows["completion"], rows["accepted"]) if yes] == ["good"] * 3
    assert all(np.isnan(v).all() for v in rows["log_probs"])
    np.testing.assert_array_equal(rows["log_prob"], [-2.0, -0.5, np.nan, np.nan] * 3)
    seeds = np.array(list(map(int, rows["key"])))
    assert set(seeds % 1024) == {0, 1, 2, 3}
    assert len({body["seed"] for body in server.asked}) == 3
    assert set(rows["policy"]) == {f"m at {server.url}"}
    stored = RolloutStore(folder.draws / "answers").read()
    assert set(rows["draw"]) == set(stored["draw"])
    for body in server.asked:
        assert (body["temperature"], body["top_k"], body["min_p"], body["n"]) == (1, 0, 0, 4)
        assert body["max_tokens"] == 12


def test_the_cap_ends_a_run_cleanly_and_it_goes_on_without_asking_twice(server, tmp_path, capsys):
    server.say = lambda text, seed: f"w{seed % 4}"
    path, settings = tmp_path / "run", [*ENDPOINT, f"proposal.base_url={server.url}"]
    settings += ["proposal.max_requests=2", "selection=best_of_n", "proposal.concurrency=1"]
    assert main(["run", *settings, f"output_dir={path}"]) == ExitCode.CAPPED
    assert "max_requests: all 2 are spent; resume=true goes on" in " ".join(
        capsys.readouterr().out.split()
    )
    assert read_status(path)["status"] == "interrupted"
    assert not (path / "error.log").exists()
    assert len(server.asked) == 2
    assert main(["run", f"output_dir={path}", "resume=true"]) == ExitCode.OK
    assert len(server.asked) == 3
    again = tmp_path / "again"
    assert main(["run", *settings, f"output_dir={again}", f"store={path / 'draws'}"]) == ExitCode.OK
    assert len(server.asked) == 3
    ours, theirs = (
        read_rollouts(RunFolder(path=p).rollout_path(1, "policy")) for p in (path, again)
    )
    assert ours["completion"] == theirs["completion"]
    # And the key is in nothing that any of it has written.
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.suffix != ".parquet":
            assert fake.KEY.encode() not in file.read_bytes(), file


def test_a_server_that_is_down_fails_the_run_with_one_line_and_without_the_key(
    server, tmp_path, capsys
):
    server.always = fake.status(401, text=f"wrong key {fake.KEY}")
    path = tmp_path / "run"
    settings = [*ENDPOINT, f"proposal.base_url={server.url}", f"output_dir={path}"]
    assert main(["run", *settings]) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert "status 401: " in error
    assert "***" in error
    assert fake.KEY not in error + (path / "error.log").read_text()


def test_without_a_key_a_run_is_refused_before_anything_is_drawn(
    server, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY")
    path = tmp_path / "run"
    settings = [*SETTINGS, JUDGE % server.url, f"output_dir={path}"]
    assert main(["run", *settings]) == ExitCode.USAGE
    assert "endpoint: the environment variable OPENAI_API_KEY is not set" in capsys.readouterr().err
    assert not path.exists()


def test_a_judge_scores_what_training_does_not_see_and_is_asked_once(server, tmp_path):
    scores = itertools.count()
    server.say = lambda text, seed: ["Score: 4", "Score: 6", "No."][next(scores) % 3]
    judge = JUDGE % server.url
    code, folder = smoke.run(tmp_path / "run", judge, settings=SETTINGS)
    assert code == ExitCode.OK
    rows = read_rollouts(folder.rollout_path(1, "policy"))
    values = np.asarray(rows["judge"])
    assert set(values[np.isfinite(values)]) <= {4.0, 6.0}
    assert np.isnan(values).any()
    count = len(server.asked)
    assert count > 0
    code, _ = smoke.run(tmp_path / "b", judge, f"store={folder.draws}", settings=SETTINGS)
    assert (code, len(server.asked)) == (ExitCode.OK, count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("low: 10", r"reward\.judge\.low: 10\.0, 10\.0; must be below high"),
        ("template: nothing", r"reward\.judge\.template: 'nothing'; must have \{completion\}"),
        ("temperature: -1", r"reward\.judge\.temperature: -1\.0; must be in"),
        ("base_url: 'http://k@h'", r"reward\.judge\.base_url: must be http"),
        ("max_requests: 0", r"reward\.judge\.max_requests: 0; must be at least 1"),
    ],
)
def test_settings_of_a_judge_are_checked(change, message):
    base = {"term": "judge", "weight": 1.0, "model": "m", "rubric": "a", "base_url": "'http://h'"}
    name, _, value = change.partition(": ")
    text = ", ".join(f"{k}: {v}" for k, v in {**base, name: value}.items())
    with pytest.raises(ConfigError, match=message):
        load_config([*SETTINGS, f"reward={{judge: {{{text}}}}}"])


def test_the_cap_of_a_judge_ends_a_run_cleanly(server, tmp_path):
    server.say = lambda text, seed: "Score: 4"
    judge = (JUDGE % server.url).replace("rubric", "max_requests: 1, rubric")
    code, _ = smoke.run(tmp_path / "run", judge, settings=SETTINGS)
    assert code == ExitCode.CAPPED
    assert len(server.asked) == 1


def test_settings_are_read_without_the_package_openai():
    program = (
        "import sys; sys.modules['openai'] = None\n"
        "from rsft_jax.experiments.settings.compose import load_config\n"
        f"print(load_config({[*ENDPOINT, HERE]!r}).proposal.model)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "m\n", done.stderr
