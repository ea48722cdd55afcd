"""Many small runs as one compiled program: hyperparameters and seeds are one axis, R.

    keys [R], settings [R]  ->  jit(vmap(run))  ->  results [R, ...]
                                R over the devices of a mesh

A small run is bound by what each operation costs to start, not by what it computes. A thousand of
them in one program start each operation once. `population` does that for any pure function of a
key and a tree of settings; `tabular_run` is such a function: rounds of rejection sampling
fine-tuning of a policy that is a table, of which everything can be known.

Shapes: R runs, P prompts, V answers, N candidates, T rounds.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rsft_jax.numerics.checks import check_integer
from rsft_jax.numerics.counting import running_count
from rsft_jax.rounds import run_round
from rsft_jax.selection import (
    Candidates,
    Decision,
    Law,
    SelectionRule,
    chain,
    make_rule,
    statistical_rejection,
)
from rsft_jax.sharding import BATCH_AXES
from rsft_jax.types import Array, Numeric, PRNGKey, record


class RunFn(Protocol):
    """One run as a pure function: `(key, settings) -> results`, both any tree of arrays."""

    def __call__(self, key: PRNGKey, settings: Any) -> Any:
        """Runs from a key, consumed, and a tree of settings."""
        ...


@record
class Hyperparameters:
    """What may differ between the runs of a population; each a scalar, or `[R]` for R runs.

    Attributes:
      learning_rate: of the optimizer, > 0.
      beta: temperature of the target q exp(reward / beta), in units of the reward, > 0.
      temperature: of the proposal softmax(logits / temperature), > 0.
      max_reward: the envelope: A = exp((reward - max_reward) / beta), so log M = max_reward / beta
        up to the target's constant. Below the largest reward the law needs its weights.
      k: accepted candidates of each prompt at most, an integer >= 1.
    """

    learning_rate: Numeric
    beta: Numeric
    temperature: Numeric
    max_reward: Numeric
    k: Numeric


@record
class TabularRun:
    """What a run of a tabular policy gave. All exact, by summing over the answers.

    Attributes:
      reward: `[T]` expected reward under the policy after each round, mean over the prompts.
      kl: `[T]` KL(policy, policy at the start) in nats, mean over the prompts.
      acceptance_rate: `[T]` share of the N P candidates that was accepted in each round.
      logits: `[P, V]` after the last round.
    """

    reward: Array
    kl: Array
    acceptance_rate: Array
    logits: Array


def population(run: RunFn, *, mesh: Mesh | None = None) -> Callable[[PRNGKey, Any], Any]:
    """Makes one compiled program of R runs.

    Law: run i draws from `keys[i]` alone, so that its result is that of `run(keys[i],
    settings[i])`, whatever the others are; the last bits of a float may differ, where XLA orders a
    sum otherwise.

    Args:
      run: the function of one run; traced once.
      mesh: lays the runs over the batch axes of its devices. Nothing is communicated: no run knows
        of another. An R that the devices cannot share evenly is filled up with repeats of the last
        run, which are cut off again.

    Returns:
      `(keys[R], settings) -> results`: every leaf of the settings has R on its leading axis, and
      so has every leaf of the results. Compiled at the first call for each R.

    Raises:
      AssertionError: if leading axes differ; on calling.
      ValueError: if R = 0; on calling.

    Example:
      >>> def steps(key, settings):
      ...     return settings["step"] * jax.random.normal(key, (100,)).sum()
      >>> keys = jax.random.split(jax.random.key(0), 4)
      >>> together = population(steps)(keys, {"step": jnp.array([0.1, 0.1, 1.0, 1.0])})
      >>> alone = steps(keys[2], {"step": 1.0})
      >>> together.shape, bool(abs(together[2] - alone) < 1e-4)
      ((4,), True)
    """
    whole = jax.vmap(run)
    ways = 1
    if mesh is None:
        compiled = jax.jit(whole)
    else:
        ways = math.prod(mesh.shape[name] for name in BATCH_AXES)
        rows = PartitionSpec(BATCH_AXES)
        # Not a sharding constraint alone: each device runs its own loop and waits for nobody.
        compiled = jax.jit(
            jax.shard_map(whole, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False),
            in_shardings=NamedSharding(mesh, rows),
        )

    def run_all(keys: PRNGKey, settings: Any) -> Any:
        num = keys.shape[0]
        if not num:
            raise ValueError("keys must be of at least one run, got 0")
        leaves = jax.tree.leaves(settings)
        chex.assert_equal_shape_prefix([keys, *leaves], 1)
        missing = -num % ways
        if not missing:
            return compiled(keys, settings)
        places = jnp.minimum(jnp.arange(num + missing), num - 1)
        filled = jax.tree.map(lambda leaf: jnp.asarray(leaf)[places], settings)
        return jax.tree.map(lambda leaf: leaf[:num], compiled(keys[places], filled))

    return run_all


def tilted_rule(settings: Hyperparameters) -> SelectionRule:
    """Statistical rejection towards q exp(reward / beta), then the first k that it accepted.

    Law: q exp(reward / beta) / Z where `max_reward` bounds the reward (EXACT), as of
    `selection.statistical_rejection`; the cap does not change it, as the candidates are
    exchangeable. All of beta, max_reward and k may be traced.
    """

    def decide(key: PRNGKey, candidates: Candidates, scored: Array) -> Decision:
        return Decision(running_count(scored) <= settings.k)

    first_k = make_rule("first_k", decide, law=Law.EXACT, places={"first"})
    return chain(statistical_rejection(settings.beta, settings.max_reward), first_k)


def tabular_run(
    key: PRNGKey,
    settings: Hyperparameters,
    rewards: Array,
    *,
    num_rounds: int,
    num_candidates: int,
    rule: Callable[[Hyperparameters], SelectionRule] = tilted_rule,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.sgd,
    steps_per_round: int = 1,
) -> TabularRun:
    """Runs T rounds of rejection sampling fine-tuning of softmax(logits), from logits of 0. Pure.

    In each round N answers y a prompt are drawn from softmax(logits / temperature), accepted by the
    rule, and the logits take steps on the mean of -w log softmax(logits)[y] over the accepted.

    Args:
      key: random key, consumed; round t uses `fold_in(key, t)`, t from 1, as `run_rounds` does.
      settings: of this run, scalars; may be traced.
      rewards: `[P, V]` reward of each answer. Their dtype is that of the run.
      num_rounds: T. Static.
      num_candidates: N. Static.
      rule: makes the selection rule of the settings.
      optimizer: makes the optimizer of a learning rate.
      steps_per_round: gradient steps on the accepted answers of a round. Static.

    Returns:
      A `TabularRun`.

    Raises:
      ValueError: if a count is no integer of at least 1.

    Example:
      >>> rewards = jnp.array([[0.0, 0.5, 1.0]])
      >>> settings = Hyperparameters(learning_rate=0.3, beta=0.2, temperature=1.0, max_reward=1.0,
      ...                            k=4)
      >>> run = tabular_run(jax.random.key(0), settings, rewards, num_rounds=20, num_candidates=8)
      >>> bool(run.reward[-1] > 0.8), run.logits.shape
      (True, (1, 3))

    References:
      Liu et al. 2023, "RSO", https://arxiv.org/abs/2309.06657, theorem 1.
      Dong et al. 2023, "RAFT", https://arxiv.org/abs/2304.06767, algorithm 1.
    """
    num_rounds = check_integer("num_rounds", num_rounds)
    num_candidates = check_integer("num_candidates", num_candidates)
    steps_per_round = check_integer("steps_per_round", steps_per_round)
    rewards = jnp.asarray(rewards)
    chex.assert_rank(rewards, 2)
    num_prompts, num_answers = rewards.shape
    dtype = rewards.dtype
    temperature = jnp.asarray(settings.temperature, dtype)
    transform = optimizer(jnp.asarray(settings.learning_rate, dtype))

    def propose(key: PRNGKey, state: Any, prompts: Any) -> Array:
        uniform = jax.random.uniform(key, (num_prompts, num_candidates), dtype)
        return _draw(uniform, jax.nn.softmax(state[0] / temperature, axis=-1))

    def score(prompts: Any, answers: Array) -> Array:
        chosen = answers[:, None] == jnp.arange(num_answers)[None, :, None]
        return jnp.sum(jnp.where(chosen, rewards[..., None], 0), axis=1)

    def improve(
        key: PRNGKey, state: Any, prompts: Any, completions: Array, weights: Array
    ) -> tuple[Any, dict[str, Array]]:
        chosen = completions[..., None] == jnp.arange(num_answers)[None, None]
        mass = jnp.sum(jnp.where(chosen, weights.astype(dtype)[..., None], 0), axis=1)
        mass = mass / jnp.maximum(mass.sum(), jnp.finfo(dtype).tiny)

        def step(state: Any, _: None) -> tuple[Any, None]:
            logits, optimizer_state = state
            # The gradient of -sum mass log softmax(logits), in closed form.
            policy = jax.nn.softmax(logits, axis=-1)
            gradient = policy * mass.sum(axis=-1, keepdims=True) - mass
            updates, optimizer_state = transform.update(gradient, optimizer_state, logits)
            return (optax.apply_updates(logits, updates), optimizer_state), None

        return jax.lax.scan(step, state, None, length=steps_per_round, unroll=True)[0], {}

    def round_(state: Any, number: Array) -> tuple[Any, tuple[Array, Array]]:
        done = run_round(
            jax.random.fold_in(key, number),
            state,
            None,
            propose=propose,
            score=score,
            rule=rule(settings),
            improve=improve,
        )
        return done.state, (done.state[0], jnp.sum(done.collected.selection.accepted))

    start = jnp.zeros(rewards.shape, dtype)
    numbers = jnp.arange(1, num_rounds + 1)
    _, (logits, accepted) = jax.lax.scan(round_, (start, transform.init(start)), numbers)
    # Of all rounds at once: in the loop each of these small sums would cost its start.
    log_policy = jax.nn.log_softmax(logits, axis=-1)
    policy = jnp.exp(log_policy)
    # 0 log 0 = 0. The policy at the start is uniform.
    entropy = -jnp.sum(jnp.where(policy > 0, policy * log_policy, 0), axis=-1).mean(axis=-1)
    return TabularRun(
        reward=jnp.sum(policy * rewards[None], axis=-1).mean(axis=-1),
        kl=math.log(num_answers) - entropy,
        acceptance_rate=accepted.astype(dtype) / (num_prompts * num_candidates),
        logits=logits[-1],
    )


def _draw(uniform: Array, probs: Array) -> Array:
    """Draws answers `[P, N]` from `[P, V]` probabilities by inversion.

    `sampling.sample_categorical` is for vocabularies and takes logits for each draw; here all N
    draws of a prompt share a few. The answers are not the last axis: sums over it do not vectorise
    on a CPU.
    """
    edges = jnp.cumsum(probs, axis=-1)
    below = edges[:, :-1] / edges[:, -1:]  # the last answer has the rest, whatever the rounding
    return jnp.sum((uniform[:, None] >= below[..., None]).astype(jnp.int32), axis=1)
