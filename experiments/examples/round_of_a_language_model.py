"""Rejection sampling fine-tuning of a language model: two whole rounds, from weights to figures.

    python -m rsft_jax.experiments.examples.round_of_a_language_model [MODEL]

MODEL is a GGUF file, a Hugging Face folder, or "smollm2", which fetches SmolLM2-135M-Instruct; a
tiny random model takes its place otherwise. Everything is yours to change: prompts, reward, rule.
"""

import functools
import sys
from collections.abc import Iterator

import jax
import numpy as np

from rsft_jax.generation import SamplingParams
from rsft_jax.interop import Pretrained, load_pretrained
from rsft_jax.policies import encode_prompts, improve, language_policy, score_texts
from rsft_jax.rounds import RoundReport, run_rounds
from rsft_jax.selection import top_k
from rsft_jax.training import last_layers, make_optimizer

from ..language.assets import fetch
from ..language.tiny import random_policy

QUESTIONS = ["Tell me about the sea.", "What is a friend?", "Why do we sleep?", "Describe snow."]


def short_words(prompts, completions):
    """The reward: minus the mean length of a word, in letters; NaN for a text without words."""
    words = [[text.split() for text in row] for row in completions]
    lengths = [[-np.mean([len(w) for w in ws]) if ws else np.nan for ws in row] for row in words]
    return np.array(lengths)


def load(name: str | None) -> Pretrained:
    """The module, its parameters and its tokenizer."""
    path = fetch("smollm2-135m-instruct") if name == "smollm2" else name
    return random_policy(np.dtype("float32")) if path is None else load_pretrained(path)


def tell(report: RoundReport, kl: np.ndarray) -> None:
    """Prints what a round did, and one text that it accepted; without any it made no update."""
    rewards = np.asarray(report.collected.candidates.rewards)
    accepted = np.asarray(report.collected.selection.accepted)
    print(
        f"round {report.round}: {report.num_accepted} of {rewards.size} accepted; reward drawn "
        f"{np.nanmean(rewards):.3f}, KL to the start {kl.mean():z.2f} nats a text"
    )
    for text in np.array(report.info.score.texts, object)[accepted][:1]:
        reward, loss = rewards[accepted].mean(), report.metrics["loss_last"]
        print(f"  reward accepted {reward:.3f}, loss {loss:.3f}; {text[:60]!r}")


def main(name: str | None = None) -> Iterator[RoundReport]:
    """Runs two rounds, and yields what each of them did."""
    pretrained = load(name)
    tokenizer = pretrained.tokenizer
    law = SamplingParams(max_new_tokens=32, stop_token_ids=tokenizer.stop_token_ids)
    policy, state = language_policy(
        pretrained, sampling=law, part=last_layers(1), slots=32,
        optimizer=make_optimizer("adamw", learning_rate=1e-3),
    )  # fmt: skip
    prompts = encode_prompts(QUESTIONS, tokenizer, room=128)
    rounds = run_rounds(
        jax.random.key(0), state, num_rounds=2, prompts=lambda number: prompts,
        propose=functools.partial(policy.propose, num_candidates=8),
        score=functools.partial(score_texts, reward=short_words, tokenizer=tokenizer),
        rule=top_k(2),
        improve=functools.partial(improve, policy=policy, step=policy.train_step(), batch_size=4),
        check=policy.gap,  # sampler and trainer must agree on what was drawn
    )  # fmt: skip
    for report in rounds:
        tell(report, policy.kl(prompts, report.collected.completions))
        yield report


if __name__ == "__main__":
    for _ in main(*sys.argv[1:]):
        pass
