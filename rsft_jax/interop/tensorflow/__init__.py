"""A model as a TensorFlow SavedModel or a LiteRT file, which serve without JAX."""

from rsft_jax.interop.tensorflow.litert import save_litert
from rsft_jax.interop.tensorflow.save import free_batch_works, save_tensorflow

__all__ = ["free_batch_works", "save_litert", "save_tensorflow"]
