"""PyTorch modules as policy, as target and as reward, beside JAX in one process.

    tensors.py   memory from there to here and back, always copied
    modules.py   what a module is asked: logits, scores; how many threads it may take
    causal.py    a causal language model: `torch_generate`, `torch_score`
    rewards.py   a module that scores: texts, or token ids

PyTorch is imported when something is asked, and comes with none of the extras: install the build
that suits the machine. Nothing here runs inside `jit`: JAX and PyTorch take turns on the host.
"""

from rsft_jax.interop.pytorch.causal import torch_generate, torch_score
from rsft_jax.interop.pytorch.modules import TorchModule, torch_threads
from rsft_jax.interop.pytorch.rewards import TextReward, TokenReward
from rsft_jax.interop.pytorch.tensors import to_jax, to_torch

__all__ = [
    "TextReward",
    "TokenReward",
    "TorchModule",
    "to_jax",
    "to_torch",
    "torch_generate",
    "torch_score",
    "torch_threads",
]
