"""The textbook algorithm on a problem whose every answer is known: Gaussian proposal, linear model.

Inputs are drawn from a Gaussian proposal, accepted by one of three rules (`laws.py`), and a linear
model is fitted to what was accepted. Labels are y = beta . x + curvature z^2 + noise. No linear
model fits them everywhere, so the inputs on which it is trained decide where it fits: on the target
only if it saw the target.

Shapes: D inputs, B samples of a batch, K bins.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from rsft_jax.sampling import acceptance_rate
from rsft_jax.types import Array, PRNGKey

from ..runs.folder import RunFolder
from ..settings.schema import GaussianConfig, GaussianTrainingConfig, ProblemConfig
from ..terminal.console import Console
from ..terminal.errors import ExitCode
from . import laws
from .laws import ARMS, Draws, ExactLaw, along

_NORMAL_95 = 1.96
_NUM_TEST = 20_000
_COLUMNS = ("arm", "law", "accepted", "TV to own law", "to target", "gate", "loss on target")


def run_gaussian(config: GaussianConfig, folder: RunFolder) -> ExitCode:
    """Trains the three arms and compares their laws with the target. Takes seconds.

    Writes "round" and "law" events. An interrupted run is simply made again: the same seed gives
    the same figures.

    Returns:
      `NO_DATA` if a rule accepted nothing in a whole round, else `OK`.
    """
    console = Console()
    folder.rewind(-1)
    exact = laws.exact_laws(config.problem, config.law.num_bins)
    key = jax.random.key(config.seed)
    key_test, *arm_keys = jax.random.split(key, 1 + len(ARMS))
    test = target_data(key_test, config.problem, _NUM_TEST)
    rows = []
    total = len(ARMS) * config.training.num_rounds
    with console.progress("three arms", total, "rounds") as advance:
        for arm, arm_key in zip(ARMS, arm_keys):
            key_train, key_law = jax.random.split(arm_key)
            event: dict[str, Any] = {}
            for event in train_arm(key_train, arm, config, test):
                event["loss_target_best"] = exact[arm].best_loss
                folder.log(event)
                rate, loss = event["acceptance_rate"], event["loss_target"]
                advance(note=f"{arm}: accepted {rate:.0%}, loss on the target {loss:.3f}")
                if not event["num_accepted"]:
                    console.say(f"{arm}: nothing accepted in {event['num_attempts']:,} proposals")
                    return ExitCode.NO_DATA
            law = compare_law(key_law, arm, config, exact)
            folder.log(law)
            rows.append(_row(event, law))
    folder.update(rounds_done=config.training.num_rounds)
    console.table("Laws and fitted models (in brackets: the exact value)", _COLUMNS, rows)
    return ExitCode.OK


def label(key: PRNGKey, inputs: Array, problem: ProblemConfig) -> Array:
    """Draws y `[B]` for inputs `[B, D]`; the key is consumed."""
    slopes = jnp.cos(jnp.arange(problem.num_inputs, dtype=jnp.float32))
    linear = inputs @ slopes / math.sqrt(problem.num_inputs)
    noise = problem.noise * jax.random.normal(key, linear.shape)
    return linear + problem.curvature * jnp.square(along(inputs)) + noise


def target_data(key: PRNGKey, problem: ProblemConfig, num: int) -> tuple[Array, Array]:
    """Draws x `[num, D]` from the target itself, in closed form, and its labels `[num]`."""
    key_inputs, key_labels = jax.random.split(key)
    white = jax.random.normal(key_inputs, (num, problem.num_inputs))
    z = along(white)
    shift = problem.mean + (problem.deviation - 1) * z
    inputs = white + shift[:, None] / math.sqrt(problem.num_inputs)
    return inputs, label(key_labels, inputs, problem)


def train_arm(
    key: PRNGKey, arm: str, config: GaussianConfig, test: tuple[Array, Array]
) -> Iterator[dict[str, Any]]:
    """Fits a linear model by one MSE step a batch; yields one "round" event a round.

    theta <- theta - eta grad mean (w . x + b - y)^2 over the accepted samples of the batch.
    """
    training = config.training
    state = init_state(training, config.problem.num_inputs)
    draw = laws.make_draw(
        arm,
        config.problem,
        num_samples=training.batch_size,
        max_attempts=training.max_attempts,
    )
    run_round = jax.jit(functools.partial(_round, draw, config.problem, training.steps_per_round))
    for number in range(1, training.num_rounds + 1):
        start = time.monotonic()
        state, (losses, accepted, attempts) = run_round(jax.random.fold_in(key, number), state)
        num_accepted, num_attempts = int(accepted.sum()), int(attempts.sum())
        errors = np.asarray(jnp.square(state.apply_fn(state.params, test[0]) - test[1]))
        yield {
            "event": "round",
            "arm": arm,
            "round": number,
            **_acceptance(num_accepted, num_attempts),
            "loss_train": float(losses.mean()),
            **_interval("loss_target", errors, "loss_target"),
            "seconds": time.monotonic() - start,
        }


def init_state(training: GaussianTrainingConfig, num_inputs: int) -> TrainState:
    """Makes the linear model, at zero, with plain gradient descent."""
    model = nn.Dense(1, kernel_init=nn.initializers.zeros_init())
    params = model.init(jax.random.key(0), jnp.zeros((1, num_inputs)))

    def apply(params: Any, inputs: Array) -> Array:
        return model.apply(params, inputs)[:, 0]  # type: ignore[index]

    return TrainState.create(apply_fn=apply, params=params, tx=optax.sgd(training.learning_rate))


def compare_law(
    key: PRNGKey, arm: str, config: GaussianConfig, exact: dict[str, ExactLaw]
) -> dict[str, Any]:
    """Draws N samples and compares them with the target and with the arm's own law: a "law" event.

    Both distances are total variation over K bins. The gate, sqrt(K / N) / 2 + sqrt(ln(1 / a) /
    (2 N)), is passed by samples of the right law but for a probability of a = 5e-9 (McDiarmid).
    """
    z, num_attempts = _law_samples(key, arm, config)
    num = len(z)
    edges = laws.bin_edges(config.problem, config.law.num_bins)
    observed = np.bincount(np.searchsorted(edges, z), minlength=len(edges) + 1) / max(num, 1)
    own, target = exact[arm], exact["exact"]
    acceptance = _acceptance(num, num_attempts)
    return {
        "event": "law",
        "arm": arm,
        "law": ARMS[arm],
        "num_samples": num,
        "tv_target": laws.total_variation(observed, target.shares),
        "tv_target_exact": laws.total_variation(own.shares, target.shares),
        "tv_own": laws.total_variation(observed, own.shares),
        "tv_gate": laws.tv_gate(len(observed), num),
        "kl_target": laws.kl_divergence(observed, target.shares),
        "kl_target_exact": laws.kl_divergence(own.shares, target.shares),
        **{name: acceptance[name] for name in acceptance if name.startswith("acceptance")},
        "acceptance_exact": own.acceptance,
        **_interval("mean", z, "mean"),
        "mean_exact": own.mean,
        "mean_target": target.mean,
        "variance": float(z.var()),
        "variance_exact": own.variance,
        "variance_target": target.variance,
        "bin_edges": edges,
        "observed": observed,
        "own": own.shares,
        "target": target.shares,
    }


def _round(
    draw: Callable[[PRNGKey], Draws],
    problem: ProblemConfig,
    num_steps: int,
    key: PRNGKey,
    state: TrainState,
) -> tuple[TrainState, tuple[Array, Array, Array]]:
    def step(state: TrainState, key: PRNGKey) -> tuple[TrainState, tuple[Array, Array, Array]]:
        key_draw, key_label = jax.random.split(key)
        draws = draw(key_draw)
        labels = label(key_label, draws.inputs, problem)

        def loss_fn(params: Any) -> Array:
            # A sample that was not accepted has no say, and none at all makes no step.
            errors = jnp.square(state.apply_fn(params, draws.inputs) - labels)
            count = jnp.maximum(jnp.sum(draws.accepted.astype(jnp.float32)), 1.0)
            return jnp.sum(jnp.where(draws.accepted, errors, 0.0)) / count

        loss, gradients = jax.value_and_grad(loss_fn)(state.params)
        facts = (loss, jnp.sum(draws.accepted.astype(jnp.int32)), draws.num_attempts)
        return state.apply_gradients(grads=gradients), facts

    return jax.lax.scan(step, state, jax.random.split(key, num_steps))


def _law_samples(key: PRNGKey, arm: str, config: GaussianConfig) -> tuple[np.ndarray, int]:
    """Draws z of accepted samples, a batch at a time: x as a whole would not fit everywhere."""
    size = config.training.batch_size
    draw = laws.make_draw(
        arm, config.problem, num_samples=size, max_attempts=config.training.max_attempts
    )

    def batch(key: PRNGKey) -> tuple[Array, Array, Array]:
        draws = draw(key)
        return along(draws.inputs), draws.accepted, draws.num_attempts

    num_batches = -(-config.law.num_samples // size)
    keys = jax.random.split(key, num_batches)
    z, accepted, attempts = jax.jit(lambda keys: jax.lax.map(batch, keys))(keys)
    return np.asarray(z)[np.asarray(accepted)].astype(np.float64), int(attempts.sum())


def _interval(name: str, values: np.ndarray, prefix: str) -> dict[str, float]:
    """A mean and its normal 95 % interval."""
    mean = float(values.mean()) if values.size else math.nan
    half = _NORMAL_95 * float(values.std()) / math.sqrt(max(values.size, 1))
    return {name: mean, f"{prefix}_low": mean - half, f"{prefix}_high": mean + half}


def _acceptance(num_accepted: int, num_attempts: int) -> dict[str, Any]:
    """The rate and its 95 % interval."""
    rate = acceptance_rate(num_accepted, num_attempts)
    return {
        "num_accepted": num_accepted,
        "num_attempts": num_attempts,
        "acceptance_rate": rate.estimate,
        "acceptance_low": rate.low,
        "acceptance_high": rate.high,
    }


def _row(event: dict[str, Any], law: dict[str, Any]) -> tuple[object, ...]:
    """Figures with the exact value in brackets, where there is one."""

    def beside(value: float, exact: float) -> str:
        return f"{value:.4f} ({exact:.4f})"

    return (
        law["arm"],
        law["law"],
        beside(law["acceptance_rate"], law["acceptance_exact"]),
        f"{law['tv_own']:.4f}",
        beside(law["tv_target"], law["tv_target_exact"]),
        f"{law['tv_gate']:.4f}",
        beside(event["loss_target"], event["loss_target_best"]),
    )
