"""Models: (dtype) -> Pretrained."""

from rsft_jax.experiments.language.tiny import random_policy
from rsft_jax.interop import Pretrained


def small(dtype) -> Pretrained:
    """The random model of the smoke test; yours would load or make its own."""
    return random_policy(dtype)
