"""What a module of PyTorch is asked, and how many threads it may take."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

from rsft_jax.interop.pytorch.tensors import to_numpy, to_torch
from rsft_jax.numerics.checks import check_integer

TorchModule = Any
"""A `torch.nn.Module`: PyTorch need not be installed to read this."""


@contextlib.contextmanager
def torch_threads(num: int | None) -> Iterator[None]:
    """Lets PyTorch take so many threads inside, and as many as before afterwards.

    JAX and PyTorch each have a pool with a thread for every core. They take turns here, so that
    neither waits for the other; but where JAX works in another thread at the same time, the two
    pools share the cores, and half of them for each is faster.

    Args:
      num: threads inside one operation, at least 1; None changes nothing. It holds for the calling
        thread, and for those that first use PyTorch later.

    Raises:
      ValueError: if `num` is no integer of 1 or more.

    Example:
      >>> with torch_threads(None):
      ...     pass
    """
    if num is None:
        yield
        return
    check_integer("num", num, note="or None")
    import torch  # pyright: ignore[reportMissingImports]

    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_evaluated(module: TorchModule) -> None:
    """Raises ValueError for a module in training mode: dropout would make it another at each call.

    It is not switched here, as somebody else may be training it.
    """
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        raise ValueError(
            "module must be in evaluation mode (module.eval()), got one whose part "
            f"{training[0] or 'as a whole'!r} is in training mode"
        )


def check_ids(module: TorchModule, ids: np.ndarray) -> None:
    """Raises ValueError for ids that have no embedding: on a GPU they would end the process."""
    embeddings = getattr(module, "get_input_embeddings", lambda: None)()
    size = getattr(embeddings, "num_embeddings", None)
    if size is not None and ids.size and not 0 <= ids.min() <= ids.max() < size:
        raise ValueError(
            f"token ids must be in [0, {size}), the module's vocabulary, got {ids.min()} to "
            f"{ids.max()}"
        )


def last_logits(module: TorchModule, ids: np.ndarray, count: int) -> np.ndarray:
    """`[B, count, V]` float32 logits at the last columns of `[B, S]` ids, without a cache."""
    logits, _ = _call(module, ids, count)
    return logits


class Reader:
    """Reads B rows of one length, token by token, and says the logits behind them.

    Args:
      module: gives logits, as `torch_generate` says.
      cached: whether it keeps what it has read in `cache`, as transformers do (before version 5.24
        in `past_key_values`); otherwise it reads all again at every token.
    """

    def __init__(self, module: TorchModule, cached: bool):
        self._module, self._cached = module, cached
        known = inspect.signature(module.forward).parameters
        self._name = "cache" if "cache" in known else "past_key_values"
        self._past: Any = None
        self._read: np.ndarray | None = None

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Reads `[B, S]` ids more; `[B, V]` float32 logits of what comes next."""
        if self._cached:
            options = {self._name: self._past, "use_cache": True}
            logits, output = _call(self._module, ids, 1, **options)
            self._past = getattr(output, self._name, None)
            if self._past is None:
                raise ValueError(
                    f"cached must be False for a module that gives no {self._name}, got True"
                )
            return logits[:, 0]
        read = ids if self._read is None else np.concatenate([self._read, ids], axis=1)
        self._read = read
        return last_logits(self._module, read, 1)[:, 0]


def device_of(module: TorchModule) -> Any:
    """Where the first parameter of a module is; the host for one without."""
    return next((parameter.device for parameter in module.parameters()), "cpu")


def _call(
    module: TorchModule, ids: np.ndarray, count: int, **options: Any
) -> tuple[np.ndarray, Any]:
    import torch  # pyright: ignore[reportMissingImports]

    # Those of all columns would be [B, S, V]; transformers can leave out what nobody reads.
    known = inspect.signature(module.forward).parameters
    if "logits_to_keep" in known:
        options["logits_to_keep"] = count
    if "use_cache" in known:
        options.setdefault("use_cache", False)
    # Not inference mode: what a module keeps from a call must stay usable when it is trained.
    with torch.no_grad():
        output = module(to_torch(ids.astype(np.int64), device_of(module)), **options)
        logits = getattr(output, "logits", output)
        if getattr(logits, "ndim", 0) != 3 or logits.shape[0] != ids.shape[0]:
            raise ValueError(
                f"the module must give logits [B, S, V] for ids of shape {ids.shape}, got "
                f"{getattr(logits, 'shape', type(logits).__name__)}"
            )
        return to_numpy(logits[:, -count:].float()), output
