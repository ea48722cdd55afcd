"""The Gaussian experiment against what is known of it in closed form, and from end to end."""

import json
import math
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.experiments.runs.folder import open_run_folder
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ExitCode
from rsft_jax.experiments.textbook import laws as module
from rsft_jax.experiments.textbook import run as gaussian
from tests.experiments.written import not_found, renamed

SMALL = {
    "experiment": "gaussian",
    "training.num_rounds": 3,
    "training.steps_per_round": 60,
    "training.batch_size": 256,
    "law.num_samples": 50_000,
}


def overrides(**more):
    """The small experiment with other values; "__" stands for the dot."""
    settings = {**SMALL, **{name.replace("__", "."): value for name, value in more.items()}}
    return [f"{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def config():
    return load_config(overrides())


@pytest.fixture(scope="module")
def laws(config):
    return module.exact_laws(config.problem, config.law.num_bins)


def run(path, **more):
    config = load_config(overrides(**more))
    with open_run_folder(path, config, resume=False) as folder:
        code = gaussian.run_gaussian(config, folder)
    return code, folder.events()


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    code, events = run(tmp_path_factory.mktemp("gaussian") / "run")
    assert code == ExitCode.OK
    return events


def test_a_run_writes_every_figure_that_a_search_can_be_asked_for(events, tmp_path):
    assert not_found(events, "gaussian", tmp_path, last_round=3) == set()
    for name in ("loss_target", "tv_own"):
        assert not_found(renamed(events, name), "gaussian", tmp_path, last_round=3) == {name}


def test_envelope_is_the_supremum_of_the_ratio(config):
    problem = config.problem
    z = jnp.linspace(-20, 20, 400_001)
    inputs = jnp.stack([z, z], axis=-1) / math.sqrt(2)
    ratios = module.log_ratio(inputs, problem)
    assert float(ratios.max()) == pytest.approx(module.log_envelope(problem), abs=2e-5)
    # The ratio is log p - log q of the two normal densities.
    p = statistics.NormalDist(problem.mean, problem.deviation)
    q = statistics.NormalDist()
    at = inputs[205_000]
    expected = math.log(p.pdf(float(z[205_000])) / q.pdf(float(z[205_000])))
    assert float(module.log_ratio(at, problem)) == pytest.approx(expected, abs=1e-5)


def test_integrals_equal_the_closed_forms(config, laws):
    problem = config.problem
    mean, variance, noise = problem.mean, problem.deviation**2, problem.noise**2
    p, q = statistics.NormalDist(mean, problem.deviation), statistics.NormalDist()
    assert laws["plain"].acceptance == pytest.approx(p.overlap(q), abs=1e-6)  # 1 - TV(p, q)
    assert laws["exact"].acceptance == math.exp(-module.log_envelope(problem))
    assert laws["exact"].mean == pytest.approx(mean, abs=1e-6)
    assert laws["exact"].variance == pytest.approx(variance, abs=1e-6)
    np.testing.assert_allclose(laws["exact"].shares, 1 / config.law.num_bins, atol=1e-6)
    # For z ~ N(m, v), z^2 - 2 m z - (v - m^2) has mean 0 and variance 2 v^2: the best line.
    assert laws["exact"].best_loss == pytest.approx(2 * variance**2 + noise, abs=1e-5)
    # Under N(0, 1) the best line is the constant 1; on the target it leaves E (z^2 - 1)^2.
    fourth = mean**4 + 6 * mean**2 * variance + 3 * variance**2
    second = mean**2 + variance
    assert laws["proposal"].best_loss == pytest.approx(fourth - 2 * second + 1 + noise, abs=1e-5)
    for law in laws.values():
        assert law.shares.sum() == pytest.approx(1, abs=1e-9)


def test_target_data_follow_the_target(config):
    inputs, labels = gaussian.target_data(jax.random.key(3), config.problem, 40_000)
    z = np.asarray(module.along(inputs), np.float64)
    law = statistics.NormalDist(config.problem.mean, config.problem.deviation)
    assert abs(z.mean() - law.mean) < 6 * law.stdev / 200
    assert abs(z.var() - law.variance) < 6 * law.variance * math.sqrt(2) / 200
    across = np.asarray(inputs[:, 0] - inputs[:, 1], np.float64) / math.sqrt(2)
    assert abs(across.mean()) < 6 / 200
    assert abs(across.var() - 1) < 6 * math.sqrt(2) / 200
    assert labels.shape == (40_000,)


def test_exact_rule_passes_the_gate_that_the_plain_rule_fails(events, config):
    """The gate is sqrt(K/N)/2 + sqrt(ln(2e8)/2N) = 0.030 for K = 50 and N = 50,000.

    False alarm 5e-9. The plain rule lies 0.224 away from the target: the chance that N samples of
    it come out under the gate is below exp(-2 N (0.224 - 0.030)^2) < 1e-1000.
    """
    laws = {event["arm"]: event for event in events if event["event"] == "law"}
    assert set(laws) == set(module.ARMS)
    for law in laws.values():
        assert law["num_samples"] >= config.law.num_samples
        assert law["tv_gate"] < 0.031
        assert law["tv_own"] < law["tv_gate"]  # each arm samples the law that it is labelled with
        assert sum(law["observed"]) == pytest.approx(1)
        assert law["variance"] == pytest.approx(law["variance_exact"], rel=0.05)
        assert law["mean"] == pytest.approx(law["mean_exact"], abs=0.03)
    assert laws["exact"]["tv_target"] < laws["exact"]["tv_gate"]
    for arm in ("plain", "proposal"):
        assert laws[arm]["tv_target"] > 5 * laws[arm]["tv_gate"]
        assert laws[arm]["tv_target"] == pytest.approx(laws[arm]["tv_target_exact"], abs=0.03)
        assert laws[arm]["kl_target"] == pytest.approx(laws[arm]["kl_target_exact"], rel=0.1)


def test_acceptance_rates_are_the_exact_ones(events):
    for event in events:
        if event["event"] == "law":
            exact, proposals = event["acceptance_exact"], event["num_samples"]
            error = math.sqrt(exact * (1 - exact) / proposals)
            assert abs(event["acceptance_rate"] - exact) <= 6 * error + 1e-12


def test_gate_rejects_planted_mutants(config, laws, monkeypatch):
    """A sampler with an envelope a third too small, and one that returns unaccepted proposals."""
    right = module.make_draw

    def too_small(arm, problem, **sizes):
        with monkeypatch.context() as patch:
            envelope = module.log_envelope(problem) + math.log(0.65)
            patch.setattr(module, "log_envelope", lambda _: envelope)
            return right(arm, problem, **sizes)

    def never_rejects(arm, problem, **sizes):
        return right("proposal", problem, **sizes)

    for mutant in (too_small, never_rejects):
        monkeypatch.setattr(module, "make_draw", mutant)
        law = gaussian.compare_law(jax.random.key(1), "exact", config, laws)
        assert law["tv_own"] > law["tv_gate"]


def test_model_fits_the_target_only_on_inputs_from_the_target(events, laws):
    last = {event["arm"]: event for event in events if event["event"] == "round"}
    assert last["exact"]["round"] == 3
    assert last["exact"]["loss_target_high"] < last["plain"]["loss_target_low"]
    assert last["plain"]["loss_target_high"] < last["proposal"]["loss_target_low"]
    for arm, event in last.items():
        assert event["loss_target"] == pytest.approx(laws[arm].best_loss, rel=0.15)
        assert event["loss_target_best"] == laws[arm].best_loss


def test_step_is_the_plain_formula_over_accepted_samples():
    """theta <- theta - eta grad L against a gradient written out here."""
    config = load_config(overrides(problem__num_inputs=3, training__batch_size=4))
    state = gaussian.init_state(config.training, 3)
    inputs = jax.random.normal(jax.random.key(0), (4, 3))
    accepted = jnp.array([True, False, True, False])

    def draw(key):
        return module.Draws(inputs, accepted, jnp.int32(9))

    key = jax.random.key(1)
    after, (losses, counts, attempts) = gaussian._round(draw, config.problem, 1, key, state)
    _, key_label = jax.random.split(jax.random.split(key, 1)[0])
    y = np.asarray(gaussian.label(key_label, inputs, config.problem))[[0, 2]]
    x = np.asarray(inputs)[[0, 2]]
    eta = config.training.learning_rate
    np.testing.assert_allclose(
        after.params["params"]["kernel"][:, 0], eta * 2 * (y @ x) / 2, rtol=1e-5
    )
    np.testing.assert_allclose(after.params["params"]["bias"][0], eta * 2 * y.mean(), rtol=1e-5)
    assert float(losses[0]) == pytest.approx(float((y**2).mean()), rel=1e-6)
    assert (int(counts[0]), int(attempts[0])) == (2, 9)


def test_target_out_of_reach_ends_with_no_data_and_bounded_work(tmp_path):
    code, events = run(tmp_path / "run", problem__mean=30.0, training__max_attempts=4)
    assert code == ExitCode.NO_DATA
    last = events[-1]
    assert (last["arm"], last["num_accepted"]) == ("plain", 0)
    assert last["num_attempts"] <= 60 * 256 * 4  # steps, batch size, attempts
    assert all(math.isfinite(event["loss_target"]) for event in events if event["event"] == "round")


def test_run_from_the_command_line_writes_events_and_report(tmp_path):
    """The same seed gives the same figures, whatever process computes them."""
    path = tmp_path / "run"
    tiny = {"training__steps_per_round": 5, "training__num_rounds": 2, "law__num_samples": 5000}
    command = [sys.executable, "-m", "rsft_jax.experiments.cli", "run", *overrides(**tiny)]
    done = subprocess.run(
        [*command, f"output_dir={path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Laws and fitted models" in done.stdout
    assert "\x1b" not in done.stdout  # plain lines when nobody watches
    assert json.loads((path / "run.json").read_text())["status"] == "finished"
    assert "<html" in (path / "report.html").read_text()
    assert list((path / "figures").glob("*.png"))

    _, again = run(tmp_path / "again", **tiny)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    for event in (*events, *again):
        event.pop("seconds", None)
    assert events == again
