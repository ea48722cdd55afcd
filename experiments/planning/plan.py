"""A plan: a round for a machine that is not here, and whether it fits."""

import argparse
import itertools
from typing import Any

import jax
from jax.sharding import Mesh

from rsft_jax.models import TransformerConfig
from rsft_jax.sharding import make_mesh

from ..settings.typed import nearest
from ..terminal.errors import ConfigError, ExitCode, one_line, shown
from .machine import SLICES, Chip, find_devices
from .programs import Program, decode_program, train_program
from .shapes import SHAPES, num_parameters
from .sizes import USABLE, Work, forward_flops, smallest_slice, suggestions, ways
from .text import show

_NUM_SUGGESTIONS = 3


def plan(arguments: argparse.Namespace) -> ExitCode:
    """Prints a plan for each topology, as text or as JSON; the exit code is 1 if none fits."""
    config = _model(arguments.model)
    work = Work(
        part=arguments.part,
        optimizer=arguments.optimizer,
        train_rows=arguments.rows,
        length=arguments.length,
        candidates=arguments.candidates,
        prompts=arguments.prompts,
        prompt_length=arguments.prompt_length,
        new_tokens=arguments.new_tokens,
        frozen_bytes=2 if arguments.params_dtype == "checkpoint" else 4,
    )
    if arguments.params_dtype == "checkpoint" and work.part == "all":
        raise ConfigError(
            "--params-dtype: 'checkpoint'; must be float32 with --part all, whose parameters are "
            "all trained, in float32"
        )
    for name, value in work._asdict().items():
        if isinstance(value, int) and value < 1:
            raise ConfigError(
                f"--{name.removeprefix('train_').replace('_', '-')}: {value} is not at least 1"
            )
    any_fits = False
    for topology in arguments.topology.split(","):
        fits = _plan_one(config, work, topology, arguments)
        any_fits = any_fits or fits
    return ExitCode.OK if any_fits else ExitCode.FAILED


def _plan_one(
    config: TransformerConfig, work: Work, topology: str, arguments: argparse.Namespace
) -> bool:
    topology = smallest_slice(config, work, topology) if topology in SLICES else topology
    devices, chip = find_devices(topology)
    if arguments.mesh:
        sizes = _mesh_sizes(arguments.mesh)
    else:
        sizes = next(iter(suggestions(config, work, len(devices), chip)), None)
        if sizes is None:
            report: dict[str, Any] = {"topology": topology, "devices": len(devices), "fits": False}
            report["reason"] = "by the sizes of its arrays no mesh of these devices holds the round"
            show(report, arguments.json)
            return False
    try:
        mesh = make_mesh(**sizes, devices=devices)
    except ValueError as error:
        raise ConfigError(f"--mesh: {one_line(error)}") from None
    report = {
        "model": arguments.model,
        "parameters": num_parameters(config),
        "topology": topology,
        "devices": len(devices),
        "device": devices[0].device_kind,
        "mesh": dict(mesh.shape),
        "suggestions": list(
            itertools.islice(suggestions(config, work, len(devices), chip), _NUM_SUGGESTIONS)
        ),
        "memory": chip.memory,
    }
    limit = chip.memory * USABLE if chip.memory else float("inf")
    try:
        programs = [train_program(config, work, mesh, chip)]
        state = programs[0].memory["parameters"] + programs[0].memory["optimizer"]
        programs.append(decode_program(config, work, mesh, chip, state))
        report["programs"] = [program._asdict() | {"total": program.total} for program in programs]
        report["fits"] = all(program.total <= limit for program in programs)
        report["round"] = round_seconds(config, work, mesh, chip, programs)
    except jax.errors.JaxRuntimeError as error:  # the compiler itself refuses
        report |= {"fits": False, "reason": one_line(error, 300)}
    show(report, arguments.json)
    return bool(report["fits"])


def round_seconds(
    config: TransformerConfig, work: Work, mesh: Mesh, chip: Chip, programs: list[Program]
) -> dict[str, float]:
    """What one wave of prompts takes at best: prefill, decoding, and training on one in N."""
    if chip.flops is None:
        return {}
    train, decode = (max(program.seconds.values()) for program in programs)
    prompts = work.prompts * ways(mesh)
    flops = prompts * work.prompt_length * forward_flops(config, work.prompt_length)
    return {
        "prefill": flops / (chip.flops * mesh.devices.size),
        "decode": work.new_tokens * decode,
        "train": train * prompts / (work.train_rows * ways(mesh)),
    }


def _model(name: str) -> TransformerConfig:
    if name not in SHAPES:
        raise ConfigError(f"{shown(name)}: unknown model{nearest(name, SHAPES)}; there are: "
                          f"{', '.join(SHAPES)}")  # fmt: skip
    return SHAPES[name]


def _mesh_sizes(text: str) -> dict[str, int]:
    sizes = {"data": 1, "fsdp": 1, "tensor": 1}
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if name not in sizes or not equals or not value.lstrip("-").isdigit():
            raise ConfigError(f"--mesh: {shown(item)} is not data=N, fsdp=N or tensor=N")
        sizes[name] = int(value)
    return sizes
