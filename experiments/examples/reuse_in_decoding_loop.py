"""The samplers inside somebody else's decoding loop: a draft model, verified by a target.

    python -m rsft_jax.experiments.examples.reuse_in_decoding_loop

Both models here are tables of bigram logits; any function from tokens to logits will do. The text
that comes out follows the target exactly, while most of its tokens were drafted.
"""

import jax
import jax.numpy as jnp

from rsft_jax.sampling import sample_categorical, speculative_sample, temperature, top_p

VOCAB, ROWS, DRAFTS, LENGTH = 50, 64, 4, 40


def law(table, tokens):
    """Next-token logits, with the transforms that decoding uses: one law for draft and check."""
    return top_p(temperature(table[tokens], 0.9), 0.95)


@jax.jit
def one_block(key, target_table, draft_table, last):
    """Drafts some tokens after `last` and returns what became of them, -1 for none."""
    draft_key, verify_key = jax.random.split(key)

    def draft(token, step_key):
        logits = law(draft_table, token)
        token = sample_categorical(jax.random.uniform(step_key, (ROWS, 2)), logits)
        return token, (token, logits)

    _, (tokens, logits) = jax.lax.scan(draft, last, jax.random.split(draft_key, DRAFTS))
    tokens, logits = tokens.T, jnp.swapaxes(logits, 0, 1)
    seen = jnp.concatenate([last[:, None], tokens], axis=1)
    return speculative_sample(
        verify_key, tokens, logits, law(target_table, seen), verification="block"
    )


def main():
    """Decodes until every row is long enough; returns tokens per call of the target."""
    key, target_key, noise_key = jax.random.split(jax.random.key(0), 3)
    target = 2 * jax.random.normal(target_key, (VOCAB, VOCAB))
    draft = target + jax.random.normal(noise_key, (VOCAB, VOCAB))
    texts = [[0] for _ in range(ROWS)]
    blocks = 0
    while min(map(len, texts)) < LENGTH:
        last = jnp.array([text[-1] for text in texts])
        out = one_block(jax.random.fold_in(key, blocks), target, draft, last)
        for text, new in zip(texts, out.tokens.tolist()):
            text.extend(token for token in new if token >= 0)
        blocks += 1
    per_call = (sum(map(len, texts)) / ROWS - 1) / blocks
    print(f"{per_call:.2f} tokens for each call of the target (1 without drafts)")
    return per_call


if __name__ == "__main__":
    main()
