"""Autoregressive decoding for any `LogitsFn`: generate, stream, score, and their parts."""

from rsft_jax.generation.accepted import (
    REASONS,
    AcceptedCompletions,
    RewardOfTokens,
    count_tried,
    generate_accepted,
    stopped_rate,
)
from rsft_jax.generation.decode import (
    DecodeState,
    Prefix,
    decode,
    decode_step,
    gather,
    init_state,
    insert,
    prefill,
    release,
)
from rsft_jax.generation.generate import generate
from rsft_jax.generation.law import Block, Context, Frontier, log_prob, sampling_logits
from rsft_jax.generation.log_probs import score
from rsft_jax.generation.memory import GenerationMemory, generation_memory
from rsft_jax.generation.pruning import PrunedCompletions, Pruning, generate_pruned
from rsft_jax.generation.slots import GenerationProgress
from rsft_jax.generation.speculative import Draft, ModelDraft, NgramDraft, Speculative
from rsft_jax.generation.stopping import stop_strings
from rsft_jax.generation.stream import StreamedToken, stream
from rsft_jax.generation.types import (
    Completions,
    Prompts,
    SamplingParams,
    StopFn,
    as_prompts,
    check_completions,
    pad_prompts,
)

__all__ = [
    "REASONS",
    "AcceptedCompletions",
    "Block",
    "Completions",
    "Context",
    "DecodeState",
    "Draft",
    "Frontier",
    "GenerationMemory",
    "GenerationProgress",
    "ModelDraft",
    "NgramDraft",
    "Prefix",
    "Prompts",
    "PrunedCompletions",
    "Pruning",
    "RewardOfTokens",
    "SamplingParams",
    "Speculative",
    "StopFn",
    "StreamedToken",
    "as_prompts",
    "check_completions",
    "count_tried",
    "decode",
    "decode_step",
    "gather",
    "generate",
    "generate_accepted",
    "generate_pruned",
    "generation_memory",
    "init_state",
    "insert",
    "log_prob",
    "pad_prompts",
    "prefill",
    "release",
    "sampling_logits",
    "score",
    "stop_strings",
    "stopped_rate",
    "stream",
]
