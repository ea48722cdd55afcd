"""Many runs as one program, against each run alone and against exact rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rsft_jax.populations import Hyperparameters, population, tabular_run, tilted_rule
from rsft_jax.rounds import run_round, run_rounds
from rsft_jax.selection import Candidates, best_of_n, threshold
from rsft_jax.sharding import collectives, make_mesh

REWARDS = np.array([[0.0, 0.3, 0.6, 1.0], [1.0, 0.2, 0.2, 0.9]])
RUNS = 32


def _settings(num=RUNS, dtype=np.float32, **fixed):
    rng = np.random.default_rng(0)
    ranges = {
        "learning_rate": rng.uniform(0.05, 1.0, num),
        "beta": rng.uniform(0.05, 1.0, num),
        "temperature": rng.uniform(0.5, 2.0, num),
        "max_reward": rng.uniform(0.8, 1.2, num),
        "k": rng.integers(1, 5, num),
    }
    made = {name: np.asarray(fixed.get(name, value)) for name, value in ranges.items()}
    return Hyperparameters(**{
        name: np.broadcast_to(value, (num,)).astype(np.int32 if name == "k" else dtype)
        for name, value in made.items()
    })  # fmt: skip


def _one(settings, i):
    return jax.tree.map(lambda leaf: leaf[i], settings)


def _run(key, settings, dtype=np.float32, rounds=6, **options):
    rewards = jnp.asarray(REWARDS.astype(dtype))
    return tabular_run(key, settings, rewards, num_rounds=rounds, num_candidates=8, **options)


@pytest.mark.multi_device
@pytest.mark.parametrize(("devices", "num"), [(1, RUNS), (8, RUNS - 2)])
def test_each_run_of_a_population_is_its_own_single_run(num, devices):
    # optax's Adam adds integers to floats.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        run = functools.partial(_run, dtype=np.float64, optimizer=optax.adam, steps_per_round=2)
        keys = jax.random.split(jax.random.key(1), num)
        settings = _settings(num, np.float64)
        mesh = None if devices == 1 else make_mesh(devices=jax.devices()[:devices])
        together = population(run, mesh=mesh)(keys, settings)
        single = jax.jit(run)
        for i in range(num):
            alone = single(keys[i], _one(settings, i))
            for name in ("reward", "kl", "acceptance_rate", "logits"):
                ours, theirs = getattr(together, name)[i], getattr(alone, name)
                assert ours.dtype == np.float64
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    # The settings do something: no two runs end alike.
    assert len(np.unique(np.asarray(together.reward)[:, -1])) == num


@pytest.mark.multi_device
def test_runs_are_laid_over_the_devices_and_do_not_communicate():
    mesh = make_mesh()
    keys, settings = jax.random.split(jax.random.key(1), RUNS), _settings()
    run_all = population(_run, mesh=mesh)
    assert len(run_all(keys, settings).reward.sharding.device_set) == 8
    assert collectives(jax.jit(run_all).lower(keys, settings).compile().as_text()) == {}


def test_population_is_compiled_once():
    traced = []

    def run(key, settings):
        traced.append(1)
        return _run(key, settings)

    run_all = population(run)
    for seed in range(3):
        run_all(jax.random.split(jax.random.key(seed), RUNS), _settings(beta=0.1 + seed))
    assert len(traced) == 1


def test_acceptance_rate_is_that_of_the_tilt_and_of_its_cap():
    """Of N draws each is accepted with probability a, and then only the first k count."""
    beta, num = 0.5, 4000
    keys = jax.random.split(jax.random.key(2), num)
    run_all = population(functools.partial(_run, rounds=1))
    accept = np.exp((REWARDS - 1.0) / beta).mean(axis=1)
    for k in (8, 2):
        settings = _settings(num, beta=beta, temperature=1.0, max_reward=1.0, k=k)
        rates = np.asarray(run_all(keys, settings).acceptance_rate)[:, 0]
        counts = np.arange(9)
        law = [_binomial(8, a) for a in accept]
        exact = np.mean([(np.minimum(counts, k) * p).sum() for p in law]) / 8
        error = rates.std() / np.sqrt(num)
        assert abs(rates.mean() - exact) < 6 * error
        wrong = np.exp((REWARDS - 1.0) / (1.1 * beta)).mean() if k == 8 else exact * 8 / 7
        assert abs(rates.mean() - wrong) > 6 * error


def _binomial(n, p):
    from math import comb

    return np.array([comb(n, m) * p**m * (1 - p) ** (n - m) for m in range(n + 1)])


def test_proposal_has_the_temperature_and_reward_and_kl_are_exact():
    keys = jax.random.split(jax.random.key(3), 64)
    settings = _settings(64)
    run = population(_run)(keys, settings)
    logits = np.asarray(run.logits, np.float64)
    policy = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(run.reward[:, -1], (policy * REWARDS).sum(-1).mean(-1), atol=1e-5)
    kl = (policy * np.log(policy * 4)).sum(-1).mean(-1)
    np.testing.assert_allclose(run.kl[:, -1], kl, atol=1e-5)

    # A hot proposal keeps drawing what the policy has left, so that less of it is accepted.
    temperatures = np.repeat([0.5, 1.0, 4.0], 200)
    late = _settings(
        600, temperature=temperatures, beta=0.1, learning_rate=1.0, max_reward=1.0, k=8
    )
    many = jax.random.split(jax.random.key(4), 600)
    rates = population(functools.partial(_run, rounds=20))(many, late).acceptance_rate[:, -1]
    cold, plain, hot = np.asarray(rates).reshape(3, 200).mean(axis=1)
    assert cold > plain + 0.05 > hot + 0.1


def test_rounds_in_a_scan_are_those_of_the_loop():
    def propose(key, mean, prompts):
        return mean + jax.random.normal(key, (prompts, 8))

    def score(prompts, x):
        return -jnp.abs(x - 3.0)

    def improve(key, mean, prompts, x, weights):
        noise = 0.01 * jax.random.normal(key)
        return (x * weights).sum() / weights.sum() + noise, {}

    parts = {"propose": propose, "score": score, "rule": best_of_n(), "improve": improve}
    key = jax.random.key(5)
    loop = [float(r.state) for r in run_rounds(
        key, jnp.float32(0), prompts=lambda t: 4, num_rounds=3, **parts
    )]  # fmt: skip

    def step(mean, number):
        after = run_round(jax.random.fold_in(key, number), mean, 4, **parts).state
        return after, after

    _, scanned = jax.lax.scan(step, jnp.float32(0), jnp.arange(1, 4))
    np.testing.assert_allclose(scanned, loop, rtol=1e-6)


def test_a_round_that_accepts_nothing_leaves_the_state_as_it_was():
    def improve(key, state, prompts, x, weights):
        return {"mean": state["mean"] + x.sum() / weights.sum(), "step": state["step"] + 1}, {}

    state = {"mean": jnp.float32(0.1), "step": jnp.int32(7)}
    for bound, expected in ((10.0, state), (-10.0, None)):
        done = jax.jit(functools.partial(
            run_round, propose=lambda key, *_: jax.random.normal(key, (2, 4)),
            score=lambda _, x: x, rule=threshold(bound), improve=improve,
        ))(jax.random.key(0), state, None)  # fmt: skip
        same = jax.tree.map(lambda a, b: bool(a == b), done.state, state)
        assert all(jax.tree.leaves(same)) == (expected is not None)
    # Nor does the momentum of an optimizer move a table that accepts nothing.
    heavy = functools.partial(optax.sgd, momentum=0.9)
    run = _run(jax.random.key(0), _one(_settings(max_reward=1e4), 0), optimizer=heavy)
    np.testing.assert_array_equal(run.logits, 0)
    np.testing.assert_array_equal(run.acceptance_rate, 0)


def test_traced_cap_keeps_the_first_accepted():
    candidates = Candidates(rewards=jnp.ones((2, 4)), valid=jnp.ones((2, 4), bool))

    def accepted(k):
        settings = Hyperparameters(
            learning_rate=0.1, beta=0.5, temperature=1.0, max_reward=1.0, k=k
        )
        return tilted_rule(settings).select(jax.random.key(0), candidates).accepted

    counts = jax.jit(jax.vmap(accepted))(jnp.arange(1, 6)).sum(axis=-1)
    np.testing.assert_array_equal(counts, [[1, 1], [2, 2], [3, 3], [4, 4], [4, 4]])


def test_wrong_axes_and_counts_are_refused():
    keys, settings = jax.random.split(jax.random.key(0), 4), _settings(4)
    with pytest.raises(ValueError, match="at least one run, got 0"):
        population(_run)(keys[:0], settings)
    with pytest.raises(AssertionError):
        population(_run)(keys[:3], settings)
    with pytest.raises(ValueError, match="num_rounds must be an integer >= 1"):
        _run(keys[0], _one(settings, 0), rounds=0)
