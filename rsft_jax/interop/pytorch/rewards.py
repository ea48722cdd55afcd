"""A module of PyTorch as reward, of texts or of token ids: one score for each candidate.

Rows of one length are scored together and no others, so that nothing is padded: a module needs no
attention mask, and none can leave it out.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rsft_jax.generation import Completions, Prompts, as_prompts
from rsft_jax.interop.pytorch.modules import (
    TorchModule,
    check_evaluated,
    check_ids,
    device_of,
    torch_threads,
)
from rsft_jax.interop.pytorch.tensors import to_numpy, to_torch
from rsft_jax.numerics.checks import check_integer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextReward:
    """A module that scores texts: a `RewardFn` (`rsft_jax.types`), so any term of a sum.

    Attributes:
      module: in evaluation mode; `module(ids[B, S])` gives `[B]` or `[B, 1]` scores, or something
        with such `.logits`, as a sequence classifier of transformers with one label does.
      encode: `(prompt, completion) -> ids`, with the module's own tokenizer and template, such as
        `lambda prompt, text: tokenizer(prompt + text)["input_ids"]`.
      rows_at_once: candidates of a call.
      num_threads: see `torch_threads`.
    """

    module: TorchModule
    encode: Callable[[str, str], Sequence[int]]
    rows_at_once: int = 32
    num_threads: int | None = None

    def __call__(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> np.ndarray:
        """Returns `[P, N]` float64 scores; NaN where the module says so or there is no token."""
        rows = [
            list(self.encode(prompt, text))
            for prompt, texts in zip(prompts, completions, strict=True)
            for text in texts
        ]
        scores = _scores(self.module, rows, self.rows_at_once, self.num_threads)
        return scores.reshape(len(prompts), -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenReward:
    """A module that scores token ids of the policy: a `rsft_jax.rounds.ScoreFn`.

    A row is a prompt and a completion behind it, its stop token included. A classifier of
    transformers scores at the last token that is not its `pad_token_id`: that of a module of yours
    should not be a stop token of the policy.

    Attributes:
      module: as in `TextReward`, with the policy's vocabulary.
      rows_at_once: candidates of a call.
      num_threads: see `torch_threads`.
    """

    module: TorchModule
    rows_at_once: int = 32
    num_threads: int | None = None

    def __call__(self, prompts: Any, completions: Completions) -> np.ndarray:
        """Returns `[P, N]` float64 scores; NaN for an empty completion.

        Args:
          prompts: P prompts as `rsft_jax.generation.generate` takes them, or what has such
            `tokens` and is no `Prompts`, as `rsft_jax.policies.PromptBatch`.
          completions: `[P, N, T]`.
        """
        if not isinstance(prompts, Prompts) and isinstance(tokens := _tokens(prompts), Prompts):
            prompts = tokens
        prompts = as_prompts(prompts)
        heads = [
            row[:length].tolist()
            for row, length in zip(np.asarray(prompts.tokens), np.asarray(prompts.lengths))
        ]
        tokens, lengths = np.asarray(completions.tokens), np.asarray(completions.lengths)
        rows = [
            heads[i] + tokens[i, j, : lengths[i, j]].tolist() if lengths[i, j] else []
            for i, j in np.ndindex(*lengths.shape)
        ]
        scores = _scores(self.module, rows, self.rows_at_once, self.num_threads)
        return scores.reshape(lengths.shape)


def _tokens(prompts: Any) -> Any:
    return getattr(prompts, "tokens", None)


def _scores(
    module: TorchModule, rows: Sequence[Sequence[int]], rows_at_once: int, num_threads: int | None
) -> np.ndarray:
    """`[B]` float64 scores of rows of ids; NaN for an empty row."""
    check_integer("rows_at_once", rows_at_once)
    check_evaluated(module)
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(index)
    by_length.pop(0, None)
    scores = np.full(len(rows), np.nan)
    with torch_threads(num_threads):
        for indices in by_length.values():
            for first in range(0, len(indices), rows_at_once):
                block = indices[first : first + rows_at_once]
                scores[block] = _of_block(module, np.array([rows[i] for i in block]))
    return scores


def _of_block(module: TorchModule, ids: np.ndarray) -> np.ndarray:
    import torch  # pyright: ignore[reportMissingImports]

    check_ids(module, ids)
    with torch.no_grad():
        output = module(to_torch(ids.astype(np.int64), device_of(module)))
    scores = getattr(output, "logits", output)
    if tuple(getattr(scores, "shape", ())) not in ((len(ids),), (len(ids), 1)):
        raise ValueError(
            f"the module must give one score for each of {len(ids)} rows, [B] or [B, 1], got "
            f"{getattr(scores, 'shape', type(scores).__name__)}"
        )
    return to_numpy(scores.double()).reshape(-1)
