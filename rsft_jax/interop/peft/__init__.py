"""Low-rank adapters as PEFT keeps them: a folder with adapter_config.json and safetensors."""

from rsft_jax.interop.peft.write import save_adapter

__all__ = ["save_adapter"]
