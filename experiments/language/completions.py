"""Completions of a policy for prompts of one's own, batch by batch, as rows of JSON Lines."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rsft_jax.data import Prompt
from rsft_jax.generation import Completions, check_completions, generate, stop_strings
from rsft_jax.models import cache_fn, logits_fn
from rsft_jax.policies import PromptBatch, encode_prompts

from ..terminal.errors import ConfigError, one_line
from .opened import Opened

WRITTEN = ("id", "prompt", "candidate", "completion", "finished", "log_prob", "num_tokens")
"""The columns of a row, before those of the prompt."""


def encoded(policy: Opened, prompts: Sequence[Prompt]) -> PromptBatch:
    """The prompts as the policy sees them.

    Raises:
      ConfigError: one of them is too long, or no chat for the policy's template, or has a column
        that a row of completions has for something else.
    """
    for prompt in prompts:
        if taken := [name for name in WRITTEN if name in prompt.fields]:
            raise ConfigError(
                f"--prompts: prompt {prompt.id} (line {prompt.line}) has a column {taken[0]!r}, "
                "which is written here; rename it"
            )
    room = policy.max_length - policy.sampling.max_new_tokens
    try:
        return encode_prompts(
            prompts, policy.tokenizer, room=room, assistant_last=policy.assistant_last
        )
    except ValueError as error:
        text = one_line(error).replace("assistant_last=", "--assistant-last ")
        raise ConfigError(f"--prompts: {text}") from None


def batch_sizes(total: int, largest: int) -> list[int]:
    """Sizes of as few batches as will do, all but the last the same.

    >>> batch_sizes(10, 8), batch_sizes(7, 3), batch_sizes(2, 8)
    ([5, 5], [3, 3, 1], [2])
    """
    count = -(-total // largest)
    size = -(-total // count)
    count = -(-total // size)
    return [size] * (count - 1) + [total - size * (count - 1)]


def draw_rows(
    policy: Opened, prompts: PromptBatch, *, num: int, seed: int
) -> Iterator[list[dict[str, Any]]]:
    """Draws N completions for each prompt and gives the rows of a batch when it is drawn.

    A completion depends on the seed, the place of its prompt in the file and its number, and not on
    the batch: candidate j of the prompt at place i has the key that `generate` gives it.

    Args:
      policy: what is drawn from; `sampling.batch_size` completions decode at the same time.
      prompts: P prompts.
      num: N, completions for each.
      seed: of all randomness.

    Raises:
      ValueError: if the policy gives no distribution, naming prompt and position.
    """
    logits = logits_fn(policy.model)
    prepare = getattr(logits, "prepare", lambda params: params)
    params = prepare(policy.params)  # once for all batches
    strings = policy.sampling.stop_strings
    slots = policy.sampling.batch_size
    sizes = batch_sizes(len(prompts.prompts), max(1, slots // num))
    first = 0
    for size in sizes:
        # The last batch repeats a prompt rather than change its shape and compile again.
        places = np.minimum(first + np.arange(sizes[0]), len(prompts.prompts) - 1)
        some = prompts.take(places)
        completions = generate(
            jax.random.key(seed),
            logits,
            params,
            some.tokens,
            num_candidates=num,
            sampling=policy.law,
            init_cache=cache_fn(policy.model),
            prompt_ids=places.tolist(),
            slots=slots,
            max_length=policy.max_length,
            stop=stop_strings(policy.tokenizer.readings, strings) if strings else None,
        )
        drawn = jax.tree.map(lambda leaf, n=size: np.asarray(leaf)[:n], completions)
        check_completions(drawn)
        yield _rows(policy, some.prompts[:size], drawn)
        first += size


def _rows(
    policy: Opened, prompts: Sequence[Prompt], completions: Completions
) -> list[dict[str, Any]]:
    rows = []
    for i, prompt in enumerate(prompts):
        lengths = np.asarray(completions.lengths[i])
        tokens = [row[:length].tolist() for row, length in zip(completions.tokens[i], lengths)]
        for j, text in enumerate(policy.tokenizer.decode_completions(tokens)):
            values = (
                prompt.id,
                _as_written(prompt),
                j,
                text,
                bool(completions.finished[i, j]),
                float(np.asarray(completions.log_probs[i, j], np.float64).sum()),
                int(lengths[j]),
            )
            rows.append({**dict(zip(WRITTEN, values)), **prompt.fields})
    return rows


def _as_written(prompt: Prompt) -> Any:
    """A prompt as its file has it: a text, or a chat."""
    if len(prompt.messages) == 1 and prompt.messages[0]["role"] == "user":
        return prompt.text
    return [dict(message) for message in prompt.messages]
