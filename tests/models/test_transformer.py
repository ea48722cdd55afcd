import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import jaxprs_in_params
from jax.test_util import check_grads

from rsft_jax.models import (
    LayerKind,
    Rope,
    Transformer,
    TransformerConfig,
    cache_fn,
    logits_fn,
    stack_layers,
    unstack_layers,
)
from rsft_jax.models.config import REMAT
from rsft_jax.models.layers import Dense
from rsft_jax.models.products import head_product, product

CONFIG = TransformerConfig(
    vocab_size=41, d_model=24, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=4, d_ff=20,
    kinds=(LayerKind(rope=Rope(100.0)),),
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 41, (3, 11)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(11, dtype=np.int32), TOKENS.shape)


def _init(config, dtype=jnp.float32):
    variables = Transformer(config).init(jax.random.key(3), TOKENS, POSITIONS)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), nn.unbox(variables)["params"])


def _numpy_forward(params, tokens, config, rope_base=None):
    """The same network written out for one sequence in float64, with loops over heads."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    base = rope_base or config.kinds[0].rope.base
    c = config.head_dim
    frequency = base ** (-np.arange(c // 2) / (c // 2))

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale

    def rope(x):
        angle = np.arange(len(x))[:, None] * frequency
        a, b = x[:, : c // 2], x[:, c // 2 :]
        return np.concatenate(
            [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1
        )

    x = p["embedder"]["embedding"][tokens]
    for i in range(config.num_layers):
        layer = p[f"layers_{i}"]
        y = norm(x, layer["attention_norm"]["scale"])
        q, k, v = (y @ layer["attention"][n]["kernel"] for n in ("query", "key", "value"))
        heads = []
        for h in range(config.num_heads):
            g = h // (config.num_heads // config.num_kv_heads)
            qh, kh, vh = rope(q[:, h * c : h * c + c]), rope(k[:, g * c : g * c + c]), v[:, g * c :]
            scores = qh @ kh.T / np.sqrt(c)
            scores[np.triu_indices(len(x), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ vh[:, :c])
        x = x + np.concatenate(heads, -1) @ layer["attention"]["output"]["kernel"]
        y = norm(x, layer["mlp_norm"]["scale"])
        gate, up = y @ layer["mlp"]["gate"]["kernel"], y @ layer["mlp"]["up"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer["mlp"]["down"]["kernel"]
    x = norm(x, p["final_norm"]["scale"])
    head = p["head"]["kernel"] if "head" in p else p["embedder"]["embedding"].T
    return x @ head


@pytest.mark.parametrize("tied", [True, False])
def test_transformer_equals_a_numpy_forward_pass(tied):
    config = dataclasses.replace(CONFIG, tie_embeddings=tied)
    params = _init(config)
    logits, cache = Transformer(config).apply({"params": params}, TOKENS, POSITIONS)
    assert cache is None
    assert logits.shape == (3, 11, 41)
    expected = np.stack([_numpy_forward(params, row, config) for row in TOKENS])
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    # The comparison can fail: another rotary base is another network.
    wrong = np.stack([_numpy_forward(params, row, config, rope_base=101.0) for row in TOKENS])
    assert np.abs(wrong - logits).max() > 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-10)])
def test_cache_gives_the_logits_of_whole_sequences_at_every_position(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        config = dataclasses.replace(CONFIG, dtype=jnp.dtype(dtype))
        params, model = _init(config, dtype), Transformer(config)
        whole, _ = model.apply({"params": params}, TOKENS, POSITIONS)
        assert whole.dtype == dtype
        apply = jax.jit(logits_fn(model))
        cache = cache_fn(model)(3, 14)
        # Rows of different lengths: each is prefilled to its own place, padding at -1.
        lengths = np.array([1, 4, 7])
        positions = np.where(POSITIONS[:, :7] < lengths[:, None], POSITIONS[:, :7], -1)
        logits, cache = apply(params, TOKENS[:, :7], positions, cache)
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(
                logits[row, :length], whole[row, :length], atol=tolerance, rtol=0
            )
        rows = np.arange(3)
        for step in range(4):
            place = lengths + step
            logits, cache = apply(
                params, TOKENS[rows, place][:, None], place[:, None].astype(np.int32), cache
            )
            np.testing.assert_allclose(logits[:, 0], whole[rows, place], atol=tolerance, rtol=0)
        # Rolled back: what stands in the later columns must not be seen again.
        back = np.full((3, 1), 1, np.int32)
        logits, _ = apply(params, TOKENS[:, 1:2], back, cache)
        np.testing.assert_allclose(logits[:, 0], whole[:, 1], atol=tolerance, rtol=0)


def test_cache_rows_do_not_see_each_other():
    model, params = Transformer(CONFIG), _init(CONFIG)
    apply = logits_fn(model)
    other = TOKENS.copy()
    other[1:] = (other[1:] + 1) % 41
    first, _ = apply(params, TOKENS, POSITIONS, cache_fn(model)(3, 11))
    second, _ = apply(params, other, POSITIONS, cache_fn(model)(3, 11))
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.allclose(first[1], second[1])


@pytest.mark.parametrize("frozen", [0, 1, 3])
@pytest.mark.parametrize("remat", REMAT)
def test_scanned_layers_equal_unrolled_layers(frozen, remat):
    params = _init(CONFIG)
    expected, _ = Transformer(CONFIG).apply({"params": params}, TOKENS, POSITIONS)
    config = dataclasses.replace(CONFIG, scan_layers=True, frozen_layers=frozen, remat=remat)
    model, stacked = Transformer(config), stack_layers(params, frozen)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS, POSITIONS)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, nn.unbox(shapes)["params"])
    logits, _ = model.apply({"params": stacked}, TOKENS, POSITIONS)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    back = unstack_layers(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_stacking_keeps_the_order_of_more_than_ten_layers():
    params = {f"layers_{i}": {"w": jnp.array([float(i)])} for i in range(12)}
    np.testing.assert_array_equal(stack_layers(params)["layers"]["w"][:, 0], np.arange(12.0))
    assert unstack_layers(stack_layers(params, 5)) == params


def test_frozen_layers_get_no_gradient_and_the_others_do():
    config = dataclasses.replace(CONFIG, scan_layers=True, frozen_layers=2)
    model, params = Transformer(config), stack_layers(_init(CONFIG), 2)

    def loss(params):
        hidden = model.apply({"params": params}, TOKENS, POSITIONS, method="hidden")
        return jnp.square(hidden).sum() + hidden[..., 0].sum()

    gradient = jax.grad(loss)(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient["frozen_layers"]))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient["layers"]))


def test_hidden_and_head_give_the_logits():
    model, params = Transformer(CONFIG), _init(CONFIG)
    hidden = model.apply({"params": params}, TOKENS, POSITIONS, method="hidden")
    logits = model.apply({"params": params}, hidden, method="head")
    expected, _ = model.apply({"params": params}, TOKENS, POSITIONS)
    np.testing.assert_array_equal(logits, expected)


def test_gradient_of_a_dense_layer_is_that_of_a_matrix_product():
    with jax.enable_x64(True):
        draw = np.random.default_rng(1).normal
        x, kernel, dy = draw(size=(2, 3, 4)), draw(size=(4, 5)), draw(size=(2, 3, 5))
        module = Dense(5, ("embed", "mlp"), jnp.float64)

        def product(kernel, x):
            return module.apply({"params": {"kernel": kernel}}, x)

        y, pull = jax.vjp(product, jnp.asarray(kernel), jnp.asarray(x))
        grad_kernel, grad_x = pull(jnp.asarray(dy))
        np.testing.assert_allclose(y, x @ kernel, rtol=1e-12)
        np.testing.assert_allclose(grad_kernel, np.einsum("abi,abo->io", x, dy), rtol=1e-12)
        np.testing.assert_allclose(grad_x, dy @ kernel.T, rtol=1e-12)
        check_grads(product, (jnp.asarray(kernel), jnp.asarray(x)), order=2, modes=("rev",))
        # Seeds of a sweep are a vmapped axis of the same step.
        kernels = jnp.stack([jnp.asarray(kernel), 2 * jnp.asarray(kernel)])
        both = jax.vmap(jax.grad(lambda k: jnp.sum(product(k, jnp.asarray(x)) ** 2)))(kernels)
        np.testing.assert_allclose(both[1], 2 * both[0], rtol=1e-12)


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (256, 64)])
def test_gradient_of_a_half_precision_product_is_that_of_the_wide_one(shape):
    draw = np.random.default_rng(1).integers
    rows, (features_in, features_out) = (2, 64), shape
    # Small integers: every sum is exact, and rounded once.
    x, kernel, dy = (
        draw(-3, 4, size) for size in ((*rows, features_in), shape, (*rows, features_out))
    )

    @jax.jit
    def value_and_gradients(x, kernel, dy):
        y, pull = jax.vjp(product, x, kernel)
        return y, *pull(dy)

    ours = value_and_gradients(*(jnp.asarray(a, jnp.bfloat16) for a in (x, kernel, dy)))
    exact = (x @ kernel, dy @ kernel.T, np.einsum("abi,abo->io", x, dy))
    for half, right in zip(ours, exact):
        np.testing.assert_array_equal(half, jnp.asarray(right, jnp.bfloat16))


@pytest.mark.parametrize(
    "remat", [pytest.param(r, marks=() if r == "layers" else pytest.mark.variant) for r in REMAT]
)
def test_half_precision_in_scanned_layers_is_that_in_unrolled_ones(remat):
    """A scan holds the residual stream and what it keeps in other dtypes, and rounds alike."""
    config = dataclasses.replace(CONFIG, dtype=jnp.bfloat16)
    scanned = dataclasses.replace(config, scan_layers=True, remat=remat)
    params = _init(CONFIG)

    def loss(config, params):
        hidden = Transformer(config).apply({"params": params}, TOKENS, POSITIONS, method="hidden")
        assert hidden.dtype == jnp.bfloat16
        return jnp.mean(jnp.square(hidden[..., :2].astype(jnp.float32)))

    scan = jax.jit(jax.value_and_grad(lambda p: loss(scanned, stack_layers(p))))
    value, gradient = scan(params)
    expected, right = jax.jit(jax.value_and_grad(lambda p: loss(config, p)))(params)
    np.testing.assert_allclose(value, expected, rtol=2**-7)
    for ours, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(right)):
        scale = np.abs(other).max()
        np.testing.assert_allclose(ours, other, atol=0.05 * scale)


@pytest.mark.parametrize("scan", [False, True])
def test_every_parameter_names_its_logical_axes(scan):
    config = dataclasses.replace(CONFIG, scan_layers=scan, tie_embeddings=False)
    boxed = jax.eval_shape(Transformer(config).init, jax.random.key(0), TOKENS, POSITIONS)
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    known = {"vocab", "embed", "heads", "kv_heads", "mlp", "norm", "layers"}
    for leaf in leaves:
        assert isinstance(leaf, nn.LogicallyPartitioned)
        assert len(leaf.names) == leaf.value.ndim
        assert set(leaf.names) <= known
    assert any("layers" in leaf.names for leaf in leaves) == scan


def test_equal_models_share_one_compilation():
    traces = []
    model = Transformer(CONFIG)

    @jax.jit
    def run(params):
        traces.append(None)
        return logits_fn(model)(params, TOKENS, POSITIONS, None)[0]

    run(_init(CONFIG))
    run(_init(CONFIG))
    assert len(traces) == 1
    assert logits_fn(Transformer(CONFIG)) == logits_fn(Transformer(CONFIG))
    assert hash(logits_fn(Transformer(CONFIG))) == hash(logits_fn(Transformer(CONFIG)))
    assert cache_fn(Transformer(CONFIG)) == cache_fn(Transformer(CONFIG))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 4}, "num_kv_heads must divide num_heads = 6, got 4"),
        ({"head_dim": 5}, "head_dim must be even"),
        ({"num_layers": 0}, "num_layers must be an integer >= 1, got 0"),
        ({"frozen_layers": 1}, "frozen_layers needs scan_layers"),
        ({"remat": "some"}, r"remat must be one of .* got 'some'"),
        ({"scan_layers": True, "frozen_layers": 4}, r"frozen_layers must be in \[0, 3\], got 4"),
    ],
)
def test_config_refuses_impossible_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_scanned_model_refuses_a_cache():
    config = dataclasses.replace(CONFIG, scan_layers=True)
    with pytest.raises(ValueError, match="unstack_layers"):
        Transformer(config).apply(
            {"params": stack_layers(_init(CONFIG))},
            TOKENS, POSITIONS, cache_fn(Transformer(CONFIG))(3, 11),
        )  # fmt: skip


def _products(jaxpr):
    """The types that the matrix products of a program are added up in."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0].aval.dtype
        for inner in jaxprs_in_params(equation.params):
            yield from _products(inner)


@pytest.mark.parametrize("tied", [True, False])
def test_half_precision_products_are_added_up_in_float32(tied):
    """Products into bfloat16 round twice, and XLA:CPU has no fast kernel for them."""
    config = dataclasses.replace(CONFIG, dtype=jnp.bfloat16, tie_embeddings=tied)
    model, params = Transformer(config), _init(config, jnp.bfloat16)

    def loss(params):
        return model.apply({"params": params}, TOKENS, POSITIONS)[0].sum()

    def step(params):
        cache = cache_fn(model)(3, 11)
        return logits_fn(model)(params, TOKENS[:, :1], POSITIONS[:, :1], cache)

    for program, count in ((jax.grad(loss), 3 * 3 * 9), (step, 3 * 9)):
        dtypes = list(_products(jax.make_jaxpr(program)(params).jaxpr))
        assert len(dtypes) >= count, "the products of all layers, backward too, must be seen"
        assert set(dtypes) == {jnp.dtype(jnp.float32)}


def test_gradient_of_a_half_precision_head_multiplies_in_half_precision():
    x, head = jnp.ones((2, 3, 8), jnp.bfloat16), jnp.ones((16, 8), jnp.bfloat16)
    _, pull = jax.vjp(head_product, x, head)
    traced = jax.make_jaxpr(pull)(jnp.ones((2, 3, 16), jnp.float32))
    products = [e for e in traced.eqns if e.primitive.name == "dot_general"]
    assert len(products) == 2
    for each in products:
        assert [v.aval.dtype for v in each.invars] == [jnp.bfloat16] * 2
        assert each.outvars[0].aval.dtype == jnp.float32
