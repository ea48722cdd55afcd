"""A model as a TensorFlow SavedModel, which serves without JAX."""

from rsft_jax.interop.tensorflow.save import free_batch_works, save_tensorflow

__all__ = ["free_batch_works", "save_tensorflow"]
