"""Tensors of PyTorch as JAX arrays and back: copies, whose values are the same or an error.

DLPack would share the memory: an optimizer's step there, which writes in place, would change the
array here. And JAX without `jax_enable_x64` makes int32 of int64 without a look at the values.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.types import Array


def to_jax(tensor: Any, name: str = "tensor") -> Array:
    """Copies a tensor of any device, stride and `requires_grad` into a JAX array.

    The shape stays, and so does the dtype, but for what JAX does not have without
    `jax_enable_x64`: integers of 64 bits become int32 if every value fits, and float64 is rounded
    to float32. For all parameters of a module: `{k: to_jax(v, k) for k, v in
    module.state_dict().items()}`.

    Args:
      tensor: a dense `torch.Tensor`.
      name: what messages call it.

    Returns:
      An array with memory of its own.

    Raises:
      ValueError: an integer does not fit into int32.

    Example:
      >>> import torch  # doctest: +SKIP
      >>> to_jax(torch.arange(3)).dtype  # doctest: +SKIP
      dtype('int32')
    """
    return jnp.asarray(_narrowed(to_numpy(tensor), name))


def to_numpy(tensor: Any) -> np.ndarray:
    """Copies a tensor to the host; bfloat16, which NumPy lacks, as that of JAX."""
    import torch  # pyright: ignore[reportMissingImports]

    # A copy by name: `cpu()` and `numpy()` alone share the memory of a tensor that is there.
    host = tensor.detach().to("cpu", copy=True).contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(jnp.dtype(jnp.bfloat16))
    return host.resolve_conj().resolve_neg().numpy()


def to_torch(array: Any, device: Any = "cpu") -> Any:
    """Copies a JAX or NumPy array into a tensor of the same dtype.

    Args:
      array: any dtype that both have.
      device: where the tensor shall be.

    Example:
      >>> to_torch(jnp.arange(3)).dtype  # doctest: +SKIP
      torch.int32
    """
    import torch  # pyright: ignore[reportMissingImports]

    host = np.array(array)
    if host.dtype == jnp.bfloat16:
        return torch.from_numpy(host.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(host).to(device)


def _narrowed(values: np.ndarray, name: str) -> np.ndarray:
    """Integers of 64 bits as int32 where JAX has no others.

    >>> _narrowed(np.array([2**31 - 1]), "ids").dtype
    dtype('int32')
    >>> _narrowed(np.array([5, 2**31]), "ids")
    Traceback (most recent call last):
    ...
    ValueError: ids must be in [-2147483648, 2147483647] to become int32, got 2147483648
    """
    wide = values.dtype in (np.int64, np.uint64)
    if not wide or jax.dtypes.canonicalize_dtype(values.dtype) == values.dtype:
        return values
    limits = np.iinfo(np.int32)
    for value in (values.min(), values.max()) if values.size else ():
        if not limits.min <= int(value) <= limits.max:
            raise ValueError(
                f"{name} must be in [{limits.min}, {limits.max}] to become int32, got {value}"
            )
    return values.astype(np.int32)
