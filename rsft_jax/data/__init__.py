"""Prompt sets, tokenizers and chat templates.

Only what needs nothing but NumPy is exported here. Tokenizers and templates are imported from their
own modules: `rsft_jax.data.tokenizer`, `rsft_jax.data.chat`.
"""

from rsft_jax.data.cursor import PromptCursor, epoch_order, take
from rsft_jax.data.groups import group_labels, group_numbers
from rsft_jax.data.prompts import (
    MAX_LINE_BYTES,
    Prompt,
    PromptFile,
    SkippedRow,
    fields_by_text,
    fingerprint,
    load_prompts,
    read_prompts,
)
from rsft_jax.data.sources import RandomAccessSource, prompts_from

__all__ = [
    "MAX_LINE_BYTES",
    "Prompt",
    "PromptCursor",
    "PromptFile",
    "RandomAccessSource",
    "SkippedRow",
    "epoch_order",
    "fields_by_text",
    "fingerprint",
    "group_labels",
    "group_numbers",
    "load_prompts",
    "prompts_from",
    "read_prompts",
    "take",
]
