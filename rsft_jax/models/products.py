"""Matrix products with weights, and their gradients, in forms that XLA:CPU has fast kernels for.

Every product adds up in float32 or wider. The gradients are rules of our own, whose price is
forward-mode differentiation: a rule for the cotangent alone does not have it.
"""

import jax
import jax.numpy as jnp
from jax import lax

from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.types import Array


def dot(left: Array, right: Array, dimensions: lax.DotDimensionNumbers) -> Array:
    """A matrix product added up in float32 or wider, which it returns.

    XLA:CPU has a fast bfloat16 product into float32 and none into bfloat16: the head of a 135M
    model takes 2 ms with eight rows this way and 32 ms the other.
    """
    return lax.dot_general(left, right, dimensions, preferred_element_type=wide_dtype(left.dtype))


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
    """`x @ kernel`, with the gradient of the kernel laid out for XLA:CPU.

    JAX's own rule forms it as (dy^T x)^T, for which XLA:CPU writes out a transposed copy of dy, and
    computes what fuses into dy a second time, in strided order. Here it is x^T dy, unless x is the
    wider of the two.
    """
    y = dot(_two_rows(x), kernel, (((x.ndim - 1,), (0,)), ((), ())))
    return y[: x.shape[0]].astype(x.dtype)


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel), (x, kernel)


def _product_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dx = dot(dy, kernel, (((dy.ndim - 1,), (1,)), ((), ()))).astype(x.dtype)
    rows = tuple(range(x.ndim - 1))
    if x.shape[-1] > dy.shape[-1]:
        # One operand is written out transposed: the narrower one, so that what fuses into the wide
        # one, SwiGLU before `down`, is not computed in strided order (5 % of a step of a 135M
        # model). Rounded first: a product into float32 that is transposed at once XLA:CPU turns
        # into one that it cannot run in half precision.
        return dx, dot(dy, x, ((rows, rows), ((), ()))).astype(kernel.dtype).T
    return dx, dot(x, dy, ((rows, rows), ((), ()))).astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def head_product(x: Array, head: Array) -> Array:
    """`x @ head^T` of `[..., D]` and `[V, D]`, in float32 or wider, of which logits are made.

    In bfloat16 its gradient is rounded before it is multiplied, as that of every other product is.
    JAX's own rule widens the operands to it, and both backward products of the head, the largest
    of such a model, then run in float32.
    """
    # As a product of two matrices: with more axes XLA:CPU writes out the head transposed.
    rows = x.reshape(-1, x.shape[-1])
    logits = dot(_two_rows(rows), head, (((1,), (1,)), ((), ())))[: rows.shape[0]]
    return logits.reshape(*x.shape[:-1], head.shape[0])


def _head_product_forward(x: Array, head: Array) -> tuple[Array, tuple[Array, Array]]:
    return head_product(x, head), (x, head)


def _head_product_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, head = saved
    if x.dtype == jnp.bfloat16:  # float16 has no room for most gradients of logits
        dy = dy.astype(x.dtype)
    rows = tuple(range(x.ndim - 1))
    dx = dot(dy, head.astype(dy.dtype), (((dy.ndim - 1,), (0,)), ((), ())))
    dhead = dot(dy, x.astype(dy.dtype), ((rows, rows), ((), ())))
    return dx.astype(x.dtype), dhead.astype(head.dtype)


head_product.defvjp(_head_product_forward, _head_product_backward)


def _two_rows(x: Array) -> Array:
    """A single row of half precision, twice: XLA:CPU has a fast product for two, none for one.

    One row of a 135M model in bfloat16: 59 tokens a second, and 39 without this.
    """
    single = x.size == x.shape[-1] and x.dtype.itemsize == 2
    return jnp.concatenate([x, x]) if single and jax.default_backend() == "cpu" else x
