"""Autoregressive decoding for any `LogitsFn`: generate, score, and their parts."""

from rsft_jax.generation.decode import DecodeState, decode, decode_step, init_state, insert, prefill
from rsft_jax.generation.generate import GenerationProgress, generate
from rsft_jax.generation.law import log_prob, sampling_logits
from rsft_jax.generation.scoring import score
from rsft_jax.generation.types import Completions, Prompts, SamplingParams, as_prompts, pad_prompts

__all__ = [
    "Completions",
    "DecodeState",
    "GenerationProgress",
    "Prompts",
    "SamplingParams",
    "as_prompts",
    "decode",
    "decode_step",
    "generate",
    "init_state",
    "insert",
    "log_prob",
    "pad_prompts",
    "prefill",
    "sampling_logits",
    "score",
]
