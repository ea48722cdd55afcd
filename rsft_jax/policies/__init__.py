"""The round of a language model: propose, score, improve, early stop, and a store to draw through.

    prompts = encode_prompts(texts, tokenizer, room=...)
    policy, state = language_policy(pretrained, sampling=law, part=part, optimizer=optimizer)
    run_rounds(key, state, prompts=lambda t: prompts,
               propose=partial(policy.propose, num_candidates=8),
               score=partial(score_texts, reward=reward, tokenizer=tokenizer), rule=best_of_n(),
               improve=partial(improve, policy=policy, step=policy.train_step(), batch_size=8), ...)

Nothing here reads a setting, prints, or knows a folder. `experiments/examples` has the whole of it
as a program.
"""

from rsft_jax.policies.early_stop import (
    EarlyStop,
    Memo,
    Stopped,
    collect_until_accepted,
    tokens_saved,
)
from rsft_jax.policies.foreign import TextEncoder
from rsft_jax.policies.improve import (
    Replay,
    Sequences,
    accepted_before,
    accepted_sequences,
    improve,
    mix,
)
from rsft_jax.policies.kept import KeptDraws, PolicyNames, Source, padded_completions
from rsft_jax.policies.language import (
    LanguagePolicy,
    TrainerLogits,
    first_candidates,
    language_policy,
)
from rsft_jax.policies.prompts import PromptBatch, encode_prompts, same_width
from rsft_jax.policies.proposals import EndpointProposal, Proposal, Told, check_rule
from rsft_jax.policies.scoring import (
    completion_tokens,
    reasons,
    record_of,
    score_texts,
    verdict_of,
    without_failed,
)
from rsft_jax.policies.torch_proposal import TorchProposal

__all__ = [
    "EarlyStop",
    "EndpointProposal",
    "KeptDraws",
    "LanguagePolicy",
    "Memo",
    "PolicyNames",
    "PromptBatch",
    "Proposal",
    "Replay",
    "Sequences",
    "Source",
    "Stopped",
    "TextEncoder",
    "Told",
    "TorchProposal",
    "TrainerLogits",
    "accepted_before",
    "accepted_sequences",
    "check_rule",
    "collect_until_accepted",
    "completion_tokens",
    "encode_prompts",
    "first_candidates",
    "improve",
    "language_policy",
    "mix",
    "padded_completions",
    "reasons",
    "record_of",
    "same_width",
    "score_texts",
    "tokens_saved",
    "verdict_of",
    "without_failed",
]
