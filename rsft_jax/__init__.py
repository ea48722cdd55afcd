"""Rejection sampling fine-tuning of language models in JAX.

Nothing is imported here, so that a part can be used without what the others need:
`rsft_jax.sampling`, `rsft_jax.selection` and `rsft_jax.generation` need jax, numpy and chex alone.
"""
