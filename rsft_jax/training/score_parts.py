"""Which part of a classifier is trained: its head alone, or its head and a part of the model."""

import dataclasses

import jax
import jax.numpy as jnp

from rsft_jax.models.score_head import SCORE
from rsft_jax.models.transformer import stack_layers, unstack_layers
from rsft_jax.training.parts import Part
from rsft_jax.types import Params


def head_alone() -> Part:
    """Trains the score head; the model below it gets no backward pass.

    Returns:
      The part; its trainable tree is `{"score": ...}`.
    """
    return with_head(
        Part(
            split=lambda params: ({}, stack_layers(params, _num_layers(params))),
            variables=lambda _, frozen: {"params": frozen},
            export=lambda _, frozen: unstack_layers(frozen),
            model=lambda config: dataclasses.replace(
                config, scan_layers=True, frozen_layers=config.num_layers, remat="none"
            ),
        )
    )


def with_head(part: Part) -> Part:
    """Trains the score head besides what a part trains of the model.

    Args:
      part: such as `lora` or `last_layers` make it.

    Returns:
      The part; its trainable tree is `{"score": ..., "part": that of the part}`. Its `split` raises
      a ValueError for parameters without a head (see `rsft_jax.models.with_score_head`).
    """

    def split(params: Params) -> tuple[Params, Params]:
        if SCORE not in params:
            raise ValueError(f"params must hold a head, {SCORE!r}, got {sorted(params)}")
        rest = {name: tree for name, tree in params.items() if name != SCORE}
        trainable, frozen = part.split(rest)
        return {SCORE: params[SCORE], "part": trainable}, frozen

    def variables(trainable: Params, frozen: Params) -> Params:
        found = part.variables(trainable["part"], frozen)
        return {**found, "params": {**found["params"], SCORE: trainable[SCORE]}}

    def export(trainable: Params, frozen: Params) -> Params:
        head = jax.tree.map(jnp.copy, trainable[SCORE])
        return {**part.export(trainable["part"], frozen), SCORE: head}

    return Part(split=split, variables=variables, export=export, model=part.model)


def _num_layers(params: Params) -> int:
    return sum(name.startswith("layers_") for name in params)
