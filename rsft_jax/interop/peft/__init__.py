"""Low-rank adapters as PEFT keeps them: a folder with adapter_config.json and safetensors."""

from rsft_jax.interop.peft.combine import join_lora, largest_change
from rsft_jax.interop.peft.read import load_adapter
from rsft_jax.interop.peft.write import save_adapter

__all__ = ["join_lora", "largest_change", "load_adapter", "save_adapter"]
