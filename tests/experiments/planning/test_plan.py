import dataclasses
import json

import jax
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.planning import machine as plan_machine
from rsft_jax.experiments.planning import plan, sizes
from rsft_jax.experiments.planning.machine import Chip
from rsft_jax.experiments.planning.programs import decode_program, train_program
from rsft_jax.experiments.planning.shapes import SHAPES, num_parameters
from rsft_jax.sharding import make_mesh
from tests.training.toys import CONFIG, make_params

WORK = sizes.Work(
    part="all",
    optimizer="adamw",
    train_rows=1,
    length=2048,
    candidates=16,
    prompts=1,
    prompt_length=512,
    new_tokens=1024,
)
V5E = Chip(16 * 2**30)
SMALL = ["--length", "32", "--prompt-length", "16", "--new-tokens", "16", "--candidates", "2"]


def test_parameters_are_counted_as_the_model_declares_them():
    for config in (CONFIG, dataclasses.replace(CONFIG, tie_embeddings=False)):
        declared = sum(leaf.size for leaf in jax.tree.leaves(make_params(config)))
        assert num_parameters(config) == declared
    # The published totals, in millions (Qwen2.5's without its biases).
    totals = {
        "smollm2-135m": 134.5, "llama-3.2-1b": 1235.8, "llama-3.1-8b": 8030.3,
        "llama-3.1-70b": 70553.7, "qwen2.5-7b": 7615.4, "qwen3-8b": 8190.4,
    }  # fmt: skip
    for name, millions in totals.items():
        assert abs(num_parameters(SHAPES[name]) / 1e6 - millions) < 0.5, name


def test_suggestions_take_as_little_tensor_as_fits():
    tight = next(iter(sizes.suggestions(SHAPES["llama-3.1-8b"], WORK, 16, V5E)))
    assert tight == {"data": 1, "fsdp": 8, "tensor": 2}
    roomy = next(iter(sizes.suggestions(SHAPES["llama-3.1-8b"], WORK, 16, Chip(95 * 2**30))))
    assert roomy == {"data": 1, "fsdp": 16, "tensor": 1}
    assert not list(sizes.suggestions(SHAPES["llama-3.1-70b"], WORK, 4, V5E))


def test_operations_of_a_step_are_those_of_its_matrix_products():
    width, tokens = CONFIG.num_heads * CONFIG.head_dim, 5
    weights = num_parameters(CONFIG)  # tied: the head's weights are the embedding's
    forward = 2 * weights + 4 * CONFIG.num_layers * width * 7
    assert sizes.train_flops(CONFIG, "all", tokens, 7) == 4 * tokens * forward
    assert sizes.train_flops(CONFIG, "lora", tokens, 7) == 3 * tokens * forward


def test_frozen_parameters_that_keep_bfloat16_are_counted_so(capsys):
    small = {"part": "lora", "length": 32, "prompt_length": 16, "new_tokens": 16}
    work = WORK._replace(**small, frozen_bytes=2)
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    program = train_program(CONFIG, work, mesh, Chip(None))
    adapters = program.memory["parameters"] - 2 * num_parameters(CONFIG)
    widths = [CONFIG.d_model, 32, 16, 16, CONFIG.d_ff]  # of query and output, key, value, mlp
    rows = 2 * (widths[0] + widths[1]) + 2 * (widths[0] + widths[2]) + 3 * (widths[0] + widths[4])
    assert adapters == 4 * 16 * CONFIG.num_layers * rows
    assert program.memory["optimizer"] == pytest.approx(2 * adapters, abs=64)
    for sizes_of, of_wide in zip(
        sizes.estimated_bytes(CONFIG, work, 2, 1),
        sizes.estimated_bytes(CONFIG, work._replace(frozen_bytes=4), 2, 1),
    ):
        assert of_wide - sizes_of == pytest.approx(2 * num_parameters(CONFIG) / 2)
    assert main(["plan", "smollm2-135m", "--params-dtype", "checkpoint"]) == 2
    assert "--params-dtype: 'checkpoint'; must be float32 with" in capsys.readouterr().err


def test_the_dtype_that_is_asked_for_is_the_one_that_is_planned(monkeypatch):
    planned = []
    monkeypatch.setattr(plan, "_plan_one", lambda config, work, *_: planned.append(work) or True)
    for flags in (["--params-dtype", "checkpoint"], []):
        assert main(["plan", "smollm2-135m", "--part", "lora", *flags]) == 0
    assert [work.frozen_bytes for work in planned] == [2, 4]


@pytest.mark.multi_device
def test_plan_of_this_machine_fits_and_prints_json(capsys, monkeypatch):
    monkeypatch.setitem(SHAPES, "tiny", CONFIG)
    arguments = ["plan", "tiny", "--mesh", "fsdp=4,tensor=2", "--json", *SMALL]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["fits"]
    train, decode = report["programs"]
    # 3 numbers a parameter over 8 devices, and the norms' scales on each.
    size = 4 * num_parameters(CONFIG)
    assert size / 8 < train["memory"]["parameters"] < size / 8 + 4 * 8 * CONFIG.d_model
    assert train["memory"]["optimizer"] == pytest.approx(2 * train["memory"]["parameters"], abs=64)
    # Keys and values of a row, of half the heads; float32, as this machine is a CPU.
    cached = 2 * 4 * CONFIG.num_layers * CONFIG.head_dim * 2 * 32
    assert decode["memory"]["cache"] == cached
    assert "all-gather" in train["network"]
    # The compiler counts the body of a loop once, and so not all that the step does.
    assert 0 < train["compiler"]["flops"] < train["flops"] / 8
    assert report["suggestions"][0] == {"data": 1, "fsdp": 8, "tensor": 1}
    assert len(report["suggestions"]) == 2  # its two key-value heads divide by no more


@pytest.mark.multi_device
def test_counted_operations_of_decoding_are_those_of_the_compiler():
    # No layer is scanned here, and products outweigh the rest.
    config = dataclasses.replace(CONFIG, d_model=128, head_dim=32, d_ff=512, vocab_size=1024)
    work = WORK._replace(candidates=2, prompt_length=16, new_tokens=16)
    program = decode_program(config, work, make_mesh(), Chip(None), 0)
    # The compiler counts the softmax and the draw as well.
    assert 1 <= program.compiler["flops"] / (program.flops / 8) < 1.2
    weights = 2 * num_parameters(config)
    assert program.compiler["bytes"] > weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "llama-3.1-9b"], "unknown model; did you mean llama-3.1-8b?"),
        (["plan", "qwen3-8b", "--topology", "v9:4x4"], "--topology: 'v9:4x4' is not local"),
        (["plan", "qwen3-8b", "--topology", "v5e:four"], "--topology: 'v5e:four' is not local"),
        (["plan", "qwen3-8b", "--rows", "0"], "--rows: 0 is not at least 1"),
        (["plan", "qwen3-8b", "--mesh", "fdsp=8"], "--mesh: 'fdsp=8' is not data=N"),
        (["plan", "qwen3-8b", "--mesh", "fsdp=3"], "--mesh: the mesh sizes"),
        (["plan"], "the following arguments are required: model"),
    ],
)
def test_bad_plans_are_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_slices_need_the_compiler(monkeypatch, capsys):
    monkeypatch.setattr(plan_machine, "has_tpu_compiler", lambda: False)
    assert main(["plan", "qwen3-8b", "--topology", "v5e:4x4"]) == 2
    assert 'pip install "rsft_jax[plan]"' in capsys.readouterr().err


@pytest.mark.skipif(
    not plan_machine.has_tpu_compiler(),
    reason='the TPU compiler is not installed; pip install "rsft_jax[plan]"',
)
def test_small_model_is_compiled_for_a_slice_that_is_not_here(capsys, monkeypatch):
    config = dataclasses.replace(CONFIG, d_model=128, head_dim=32, d_ff=256, vocab_size=512)
    monkeypatch.setitem(SHAPES, "tiny", config)
    assert main(["plan", "tiny", "--topology", "v5e:2x2", "--json", *SMALL]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["fits"]
    assert report["device"] == "TPU v5 lite"
    assert set(report["round"]) == {"prefill", "decode", "train"}
