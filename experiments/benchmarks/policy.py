"""The policy that is drawn from, SmolLM2-135M, and prompts for it."""

from typing import Any, NamedTuple


class Bench(NamedTuple):
    """The policy, and what `generate` is told about it."""

    model: Any
    params: Any
    tokenizer: Any
    dtype: str


def load(dtype: str) -> Bench:
    """SmolLM2-135M-Instruct in the given precision."""
    import jax

    from rsft_jax.interop import load_pretrained

    from ..language.assets import fetch

    pretrained = load_pretrained(fetch("smollm2-135m-instruct"), dtype=dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), pretrained.params)
    return Bench(pretrained.model, params, pretrained.tokenizer, dtype)


def draw(bench: Bench, seed: int, prompts: Any, num: int, sampling: Any, **options: Any) -> Any:
    """One call of `generate`, waited for."""
    import jax

    from rsft_jax.generation import generate
    from rsft_jax.models import cache_fn, logits_fn

    return jax.block_until_ready(
        generate(
            jax.random.key(seed), logits_fn(bench.model), bench.params, prompts,
            num_candidates=num, sampling=sampling, init_cache=cache_fn(bench.model), **options,
        )
    )  # fmt: skip


def questions(count: int) -> list[str]:
    """Short questions, half of them arithmetic."""
    topics = (
        "Name three uses of",
        "Write a sentence about",
        "Explain to a child what is",
        "Describe",
    )
    things = ("a paper clip", "the sea", "a baker", "rain", "a prime number", "bees", "a grey cat")
    asked = []
    for i in range(count):
        a, b, c = 3 + 7 * i % 23, 2 + 5 * i % 17, 1 + i % 5
        asked.append(
            f"{topics[i // 2 % 4]} {things[i // 2 % 7]}."
            if i % 2
            else f"Ana has {a} coins, gets {b} more and gives {c} away. How many are left? "
            "Think step by step, then give the number."
        )
    return asked


def chat(question: str) -> str:
    """A question as the model's chat template has it."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
