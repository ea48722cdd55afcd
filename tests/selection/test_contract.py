"""One contract for every rule: shapes, masks, keys, transformations, independence of prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rsft_jax.selection import (
    Candidates,
    Law,
    at_most,
    balanced,
    best_of_n,
    chain,
    correct,
    density_ratio,
    finished,
    first_control,
    group_filter,
    importance_resample,
    quantile,
    random_control,
    rso_finite,
    stage_names,
    statistical_rejection,
    threshold,
    top_fraction,
    top_k,
    unique,
)

KEY = jax.random.key(7)
P, N = 16, 6

DETERMINISTIC = {
    "best_of_n": best_of_n(),
    "top_1": top_k(1),
    "top_2": top_k(2),
    "top_n": top_k(N),
    "top_fraction": top_fraction(0.4),
    "quantile": quantile(0.5),
    "threshold": threshold(0.25),
    "threshold_each": threshold(np.linspace(-1, 1, P).astype(np.float32)),
    "correct": correct(),
    "finished": finished(),
    "group_filter": group_filter(-0.5, 0.5),
    "unique": unique(),
    "at_most": at_most(2),
    "first_control": first_control(threshold(0.25)),
}
DRAWING = {
    "statistical_rejection": statistical_rejection(0.5),
    "statistical_rejection_bound": statistical_rejection(0.5, max_reward=1.0),
    "statistical_rejection_each": statistical_rejection(np.linspace(0.3, 2, P), max_reward=2.5),
    "rso_finite": rso_finite(0.5, 2),
    "density_ratio": density_ratio(log_envelope=0.5),
    "density_ratio_rate": density_ratio(rate=0.4),
    "importance_resample": importance_resample(2, 1.0),
    "importance_resample_replace": importance_resample(3, 1.0, replace=True),
    "random_control": random_control(top_k(2)),
    "chain": chain(
        threshold(-1.0), statistical_rejection(1.0, max_reward=1.5), chain(unique(), at_most(2))
    ),
    "chain_control": random_control(chain(statistical_rejection(0.5), at_most(2))),
}
BATCH = {
    "top_fraction_batch": top_fraction(0.3, "batch"),
    "quantile_batch": quantile(0.7, "batch"),
    "density_ratio_batch": density_ratio(rate=0.4, scope="batch"),
    "balanced": balanced(threshold(0.0), 0.05),
}
PER_PROMPT = DETERMINISTIC | DRAWING
RULES = PER_PROMPT | BATCH
# An array of settings goes with its P prompts: no fewer, no others.
ANY_PROMPTS = {name: rule for name, rule in PER_PROMPT.items() if not name.endswith("_each")}


# One of each kind of computation. What compiles anew for every rule tries the others when slow.
QUICK = {
    "best_of_n",
    "top_2",
    "quantile",
    "unique",
    "statistical_rejection",
    "rso_finite",
    "density_ratio_rate",
    "importance_resample",
    "chain",
    "top_fraction_batch",
}


def each(rules, quick=None):
    """Parametrises a test over rules; those not in `quick` only in the slow suite."""
    names = set(rules) if quick is None else quick
    params = [
        pytest.param(rule, id=name, marks=() if name in names else pytest.mark.slow)
        for name, rule in rules.items()
    ]
    return pytest.mark.parametrize("rule", params)


def make_candidates(seed=0, prompts=P, num=N, dtype=np.float32):
    """Rewards are multiples of 1/8 without ties; some are NaN or infinite, some are padding."""
    random = np.random.default_rng(seed)
    rewards = np.stack([random.permutation(32)[:num] for _ in range(prompts)]) / 8 - 2
    log_proposal = random.normal(-20, 1, (prompts, num))
    log_target = log_proposal + random.normal(0, 1, (prompts, num))
    valid = random.random((prompts, num)) > 0.1
    rewards[0, :3] = np.nan, np.inf, -np.inf
    rewards[1] = np.nan
    valid[2] = False
    return Candidates(
        rewards=jnp.asarray(rewards, dtype),
        valid=jnp.asarray(valid),
        log_proposal=jnp.asarray(log_proposal, dtype),
        log_target=jnp.asarray(log_target, dtype),
        fingerprint=jnp.asarray(random.integers(0, 4, (prompts, num)), jnp.uint32),
        finished=jnp.asarray(random.random((prompts, num)) > 0.3),
        group=jnp.arange(prompts, dtype=jnp.int32) % 3 - 1,
        prompt_ids=jnp.arange(prompts, dtype=jnp.int32) + 100,
    )


def scored(candidates):
    return np.asarray(candidates.valid) & np.isfinite(np.asarray(candidates.rewards))


def rows(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def assert_same(one, other, exact=True):
    assert np.array_equal(one.accepted, other.accepted)
    assert np.array_equal(one.rejected_by, other.rejected_by)
    compare = np.testing.assert_array_equal if exact else close
    compare(one.log_weight, other.log_weight)
    compare(one.accept_prob, other.accept_prob)


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-7)


@each(RULES)
def test_rule_gives_shapes_and_types(rule):
    candidates = make_candidates()
    selection = rule.select(KEY, candidates)
    for field, dtype in (
        ("accepted", bool),
        ("log_weight", np.float32),
        ("accept_prob", np.float32),
        ("rejected_by", np.int32),
    ):
        value = np.asarray(getattr(selection, field))
        assert value.shape == (P, N), field
        assert value.dtype == dtype, field
    assert isinstance(rule.law, Law)
    assert all(isinstance(name, str) and name for name in stage_names(rule))


@each(RULES)
def test_rule_accepts_only_what_is_scored_and_says_why_not(rule):
    candidates = make_candidates()
    selection = rule.select(KEY, candidates)
    known, accepted = scored(candidates), np.asarray(selection.accepted)
    stage = np.asarray(selection.rejected_by)
    assert not accepted[~known].any()
    assert accepted.any(), "a rule that accepts nothing would pass all of this"
    assert (stage[~known] == -2).all()
    assert (stage[accepted] == -1).all()
    rejected = stage[known & ~accepted]
    assert ((rejected >= 0) & (rejected < len(stage_names(rule)))).all()
    assert np.isfinite(np.asarray(selection.log_weight)[accepted]).all()
    assert (np.asarray(selection.log_weight)[~accepted] == -np.inf).all()
    prob = np.asarray(selection.accept_prob)
    assert ((prob >= 0) & (prob <= 1)).all()
    assert (prob[accepted] > 0).all()
    assert (prob[~known] == 0).all()


@each(RULES)
def test_rule_ignores_what_invalid_candidates_hold(rule):
    candidates = make_candidates()
    known = jnp.asarray(scored(candidates))
    other = candidates.replace(
        rewards=jnp.where(known, candidates.rewards, jnp.nan),
        log_target=jnp.where(known, candidates.log_target, jnp.nan),
        log_proposal=jnp.where(known, candidates.log_proposal, 1e30),
        fingerprint=jnp.where(known, candidates.fingerprint, jnp.uint32(9)),
    )
    assert_same(rule.select(KEY, candidates), rule.select(KEY, other))


@each(RULES, QUICK)
def test_rule_is_the_same_without_jit_and_within_it(rule):
    candidates = make_candidates()
    selection = rule.select(KEY, candidates)
    assert_same(selection, jax.jit(rule.select)(KEY, candidates), exact=False)
    with jax.disable_jit():
        assert_same(selection, rule.select(KEY, candidates), exact=False)


@each(RULES, QUICK)
def test_rule_vmapped_is_a_loop(rule):
    keys = jax.random.split(KEY, 3)
    stack = [make_candidates(seed) for seed in range(3)]
    together = jax.vmap(rule.select)(keys, jax.tree.map(lambda *x: jnp.stack(x), *stack))
    for i, candidates in enumerate(stack):
        assert_same(rows(together, i), rule.select(keys[i], candidates), exact=False)


@each(RULES, QUICK)
def test_rule_scans(rule):
    candidates = make_candidates()

    def step(key, _):
        key, now = jax.random.split(key)
        return key, rule.select(now, candidates).accepted

    accepted = jax.lax.scan(step, KEY, length=2)[1]
    assert np.array_equal(accepted[0], rule.select(jax.random.split(KEY)[1], candidates).accepted)


_traces = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: _traces.append(name))


@each(RULES)
def test_rule_is_not_traced_again_on_a_second_call(rule):
    rule.select(KEY, make_candidates(0))
    other_key, others = jax.random.key(1), make_candidates(1)
    before = len(_traces)
    rule.select(other_key, others)
    assert not [name for name in _traces[before:] if "trace" in name or "compile" in name]


def test_trace_counter_sees_a_trace():
    before = len(_traces)
    jax.jit(lambda x: x * 3)(jnp.ones(3))
    assert [name for name in _traces[before:] if "trace" in name]


@each(RULES, QUICK)
def test_rule_takes_numpy_arrays_and_integer_rewards(rule):
    candidates = jax.tree.map(np.asarray, make_candidates())
    whole = np.round(np.nan_to_num(candidates.rewards, posinf=1, neginf=0)).astype(np.int32)
    as_floats = rule.select(KEY, candidates.replace(rewards=whole.astype(np.float32)))
    assert_same(rule.select(KEY, candidates.replace(rewards=whole)), as_floats)


@each(RULES, QUICK)
def test_rule_works_in_double_precision(rule):
    with jax.enable_x64(True):
        selection = rule.select(jax.random.key(7), make_candidates(dtype=np.float64))
        assert selection.log_weight.dtype == selection.accept_prob.dtype == jnp.float32
        accepted = np.asarray(selection.accepted)
    assert np.array_equal(accepted, rule.select(KEY, make_candidates()).accepted)


@each(DETERMINISTIC)
def test_rule_that_does_not_draw_ignores_the_key(rule):
    candidates = make_candidates()
    selection = rule.select(KEY, candidates)
    assert_same(selection, rule.select(jax.random.key(8), candidates))
    assert np.array_equal(selection.accept_prob, selection.accepted)


@each(DRAWING | {"density_ratio_batch": BATCH["density_ratio_batch"]})
def test_rule_that_draws_repeats_with_the_key_and_varies_with_it(rule):
    candidates = make_candidates()
    one, again = rule.select(KEY, candidates), rule.select(KEY, candidates)
    assert_same(one, again)
    others = [rule.select(jax.random.key(i), candidates).accepted for i in range(5)]
    assert any(not np.array_equal(one.accepted, other) for other in others)


@each(RULES)
def test_rule_refuses_a_raw_key(rule):
    with pytest.raises(ValueError, match="typed key"):
        rule.select(jax.random.PRNGKey(0), make_candidates())


@each({name: rule for name, rule in RULES.items() if rule.needs})
def test_rule_refuses_candidates_without_what_it_needs(rule):
    for field in rule.needs:
        without = make_candidates().replace(**{field: None})
        before = len(_traces)
        with pytest.raises(ValueError, match=f"needs {field}"):
            rule.select(KEY, without)
        assert not [name for name in _traces[before:] if "backend_compile" in name]


@each({name: rule for name, rule in RULES.items() if not rule.needs})
def test_rule_reads_nothing_that_it_does_not_need(rule):
    candidates = make_candidates()
    optional = ("log_proposal", "log_target", "fingerprint", "finished", "group")
    bare = candidates.replace(**dict.fromkeys(optional))
    assert_same(rule.select(KEY, candidates), rule.select(KEY, bare))


@each(ANY_PROMPTS)
def test_prompt_is_independent_of_other_prompts(rule):
    candidates = make_candidates()
    part = np.array([9, 3, 5, 12])
    alone = rule.select(KEY, rows(candidates, part))
    # What is accepted is the same; the last bit of an exp may depend on the shape (jax 0.12).
    assert_same(alone, rows(rule.select(KEY, candidates), part), exact=False)


@each(PER_PROMPT)
def test_prompts_are_numbered_in_order_by_default(rule):
    candidates = make_candidates()
    numbered = candidates.replace(prompt_ids=jnp.arange(P))
    assert_same(rule.select(KEY, numbered), rule.select(KEY, candidates.replace(prompt_ids=None)))


@each({k: r for k, r in RULES.items() if k != "top_n"}, QUICK)
def test_padding_of_candidates_changes_nothing(rule):
    candidates = make_candidates()

    def pad(x):
        return jnp.pad(x, ((0, 0), (0, 3)), constant_values=0) if x.ndim == 2 else x

    padded = rule.select(KEY, jax.tree.map(pad, candidates))
    short = jax.tree.map(lambda x: x[:, :N], padded)
    assert_same(rule.select(KEY, candidates), short, exact=False)
    assert not padded.accepted[:, N:].any()


@each(
    {
        k: r
        for k, r in (DETERMINISTIC | BATCH).items()
        if k not in {"unique", "at_most", "first_control"}
    }
)
def test_permuting_candidates_permutes_what_is_accepted(rule):
    candidates = make_candidates()
    if "density_ratio" in stage_names(rule)[0] or "balanced" in stage_names(rule)[-1]:
        pytest.skip("its coins belong to places")
    order = np.random.default_rng(0).permutation(N)
    if "batch" in stage_names(rule)[0]:
        # Over the batch the rewards of the sample tie; make them differ.
        rewards = jax.random.normal(KEY, (P, N))
        candidates = candidates.replace(rewards=rewards)
    permuted = jax.tree.map(lambda x: x[:, order] if x.ndim == 2 else x, candidates)
    accepted = rule.select(KEY, candidates).accepted
    assert np.array_equal(rule.select(KEY, permuted).accepted, accepted[:, order])


SHIFTLESS = (
    "best_of_n",
    "top_2",
    "top_fraction",
    "quantile",
    "statistical_rejection",
    "rso_finite",
    "importance_resample",
    "importance_resample_replace",
    "top_fraction_batch",
    "quantile_batch",
    "unique",
)


@each({name: RULES[name] for name in SHIFTLESS})
@pytest.mark.parametrize("shift", [1024.0, -1_000_000.0])
def test_adding_a_constant_to_rewards_changes_nothing(rule, shift):
    candidates = make_candidates()  # multiples of 1/8: the sum is exact in float32
    shifted = candidates.replace(rewards=candidates.rewards + shift)
    assert_same(rule.select(KEY, candidates), rule.select(KEY, shifted))


def test_shifting_bound_and_rewards_together_changes_nothing():
    candidates = make_candidates()
    shifted = candidates.replace(rewards=candidates.rewards + 1e6)
    one = statistical_rejection(0.5, max_reward=1.0).select(KEY, candidates)
    assert_same(one, statistical_rejection(0.5, max_reward=1.0 + 1e6).select(KEY, shifted))


@pytest.mark.parametrize("shift", [100.0, -3000.0])
def test_shifting_log_probabilities_together_changes_nothing(shift):
    candidates = make_candidates()
    eighth = candidates.replace(
        log_proposal=jnp.round(8 * candidates.log_proposal) / 8,
        log_target=jnp.round(8 * candidates.log_target) / 8,
    )
    shifted = eighth.replace(
        log_proposal=eighth.log_proposal + shift, log_target=eighth.log_target + shift
    )
    for rule in (density_ratio(log_envelope=0.5), density_ratio(rate=0.4)):
        assert_same(rule.select(KEY, eighth), rule.select(KEY, shifted))


@each(RULES)
@pytest.mark.parametrize("value", [0.0, 1e30, -1e30])
def test_equal_rewards_are_well_defined(rule, value):
    candidates = make_candidates().replace(rewards=jnp.full((P, N), value))
    selection = rule.select(KEY, candidates)
    assert np.isfinite(selection.accept_prob).all()
    assert np.isfinite(np.asarray(selection.log_weight)[np.asarray(selection.accepted)]).all()


@each(RULES)
def test_huge_rewards_give_finite_probabilities(rule):
    random = np.random.default_rng(0)
    rewards = random.choice([-1e30, -1.0, 0.0, 1.0, 1e30], (P, N)).astype(np.float32)
    selection = rule.select(KEY, make_candidates().replace(rewards=jnp.asarray(rewards)))
    accepted = np.asarray(selection.accepted)
    assert np.isfinite(selection.accept_prob).all()
    assert np.isfinite(np.asarray(selection.log_weight)[accepted]).all()


@each(RULES)
def test_no_candidate_scored_anywhere_accepts_nothing(rule):
    candidates = make_candidates()
    for empty in (
        candidates.replace(valid=jnp.zeros((P, N), bool)),
        candidates.replace(rewards=jnp.full((P, N), jnp.nan)),
        candidates.replace(rewards=jnp.full((P, N), -jnp.inf)),
    ):
        selection = rule.select(KEY, empty)
        assert not selection.accepted.any()
        assert not selection.accept_prob.any()
        assert (np.asarray(selection.rejected_by) == -2).all()


@each(RULES)
def test_rule_refuses_wrong_shapes(rule):
    candidates = make_candidates()
    with pytest.raises((ValueError, AssertionError)):
        rule.select(KEY, candidates.replace(valid=candidates.valid[:, :1]))
    with pytest.raises((ValueError, AssertionError)):
        rule.select(KEY, candidates.replace(rewards=candidates.rewards[0]))
    with pytest.raises(ValueError, match="N"):
        rule.select(KEY, jax.tree.map(lambda x: x[:, :0] if x.ndim == 2 else x, candidates))


@pytest.mark.multi_device
@each(ANY_PROMPTS, QUICK)
def test_rule_sharded_over_prompts_is_the_rule(rule):
    candidates = make_candidates()
    sharded = sharded_select(rule)(KEY, candidates)
    assert_same(sharded, rule.select(KEY, candidates), exact=False)


@pytest.mark.multi_device
@pytest.mark.parametrize(
    "rule",
    [
        lambda axis: top_fraction(0.3, "batch", axis_name=axis),
        lambda axis: quantile(0.7, "batch", axis_name=axis),
        lambda axis: density_ratio(rate=0.4, scope="batch", axis_name=axis),
        lambda axis: balanced(threshold(0.0), 0.05, axis_name=axis),
    ],
    ids=["top_fraction", "quantile", "density_ratio", "balanced"],
)
def test_batch_rule_sharded_over_prompts_sees_the_whole_batch(rule):
    candidates = make_candidates()
    sharded = sharded_select(rule("prompts"))(KEY, candidates)
    assert_same(sharded, rule(None).select(KEY, candidates), exact=False)


def sharded_select(rule):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    mesh = Mesh(np.array(jax.devices()[:8]), ("prompts",))
    split = PartitionSpec("prompts")
    return jax.jit(
        jax.shard_map(rule.select, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split)
    )


def test_laws_are_ordered_from_weak_to_strong():
    assert Law.HEURISTIC < Law.CONSISTENT < Law.EXACT


def test_tiny_beta_is_the_limit_of_best_of_n():
    rewards = jnp.array([[0.0, 1.0, 1.0 - 1e-6, 1.0], [-1e30, 1e30, 0.0, 0.0]])
    candidates = Candidates(rewards=rewards, valid=jnp.ones((2, 4), bool))
    for beta in (1e-30, 1e-45, 1e-300):
        selection = statistical_rejection(beta).select(KEY, candidates)
        assert selection.accepted.astype(int).tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]
        assert selection.accept_prob.tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]


@each(RULES)
def test_a_rule_is_separable_exactly_if_the_others_do_not_change_a_verdict(rule):
    # Candidates are hidden one after the other; the verdict on those left must stay.
    candidates = make_candidates()
    whole = rule.select(KEY, candidates)
    same = True
    for hidden in range(N):
        valid = np.array(candidates.valid)
        valid[:, hidden] = False
        part = rule.select(KEY, candidates.replace(valid=valid))
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part)):
            same &= bool((np.asarray(a)[valid] == np.asarray(b)[valid]).all())
    everything = stage_names(rule) == (f"top_k({N})",)  # all of them, whichever are hidden
    assert same == (rule.separable or everything)
