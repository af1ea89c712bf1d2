"""Newton-Schulz: singular values are moved to near 1 by products of matrices alone.

    y = x / (safety |x| + eps)
    y <- (a + b y y' + c (y y')^2) y     for each quintic (a, b, c)

on the shorter side, |x| being the Frobenius norm of each matrix. Of a zero matrix it is zero.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax.errors import check_choice
from lmjax.placement import constrain, shares
from lmjax.roles import AXES, Leaf

Dtype = Literal["bfloat16", "float32", "float64"]  # of the products
Quintic = tuple[float, float, float]

# Keller Jordan's, applied at every step: of the fastest rise at zero, so that singular values end
# between about .7 and 1.2 (KellerJordan/Muon@857d1ad, muon.py).
FASTEST: Quintic = (3.4445, -4.7750, 2.0315)
EPS = 1e-7  # his guard of the division by the norm

# Polar Express (Amsel et al., arXiv 2505.16932): each step has the best polynomial for what the
# steps before it left (microsoft/dion@0a059a4, dion/polar_express.py).
POLAR_EXPRESS: tuple[Quintic, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
POLAR_SAFETY = 1.02  # keeps singular values that rounding has raised inside the polynomials' range


def check_dtype(field: str, value: str) -> None:
    check_choice(field, value, get_args(Dtype))


def orthogonalize(
    x: Float[Array, "*s i o"],
    quintics: Sequence[Quintic],
    dtype: jnp.dtype,
    eps: float = EPS,
    safety: float = 1.0,
) -> Float[Array, "*s i o"]:
    """Towards the nearest semi-orthogonal matrix of each; the products are in `dtype`.

    Their sums are float32 at least, and are rounded once: what accelerators do anyway, and what
    lets XLA use a CPU's instructions for bfloat16. It has none there for a product that contracts
    the first axis of both, and then computes all that is near it in float32 too, at less than half
    the speed. So y y' contracts the last axis of both, and a loop keeps y' of a tall matrix, which
    XLA would else undo, out of its products.
    """
    wide = jnp.promote_types(dtype, jnp.float32)

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, preferred_element_type=wide).astype(dtype)

    def step(y: Array, quintic: Array) -> tuple[Array, None]:
        a, b, c = quintic
        gram = jnp.einsum("...ik,...jk->...ij", y, y, preferred_element_type=wide).astype(dtype)
        return a * y + product(b * gram + c * product(gram, gram), y), None

    tall = x.shape[-2] > x.shape[-1]
    y = jnp.swapaxes(x, -1, -2) if tall else x
    y = y.astype(dtype)
    y = y / (safety * jnp.linalg.norm(y, axis=(-2, -1), keepdims=True) + eps)
    dealt = stack_of(y)
    y = y if dealt is None else cut(y, dealt)
    y, _ = jax.lax.scan(step, y, jnp.asarray(quintics, dtype))
    return (jnp.swapaxes(y, -1, -2) if tall else y).astype(x.dtype)


def orthogonal(
    leaf: Leaf, x: Array, quintics: Sequence[Quintic], dtype: jnp.dtype
) -> Float[Array, "*s i o"]:
    """The matrices of an array of this leaf, orthogonalized.

    Under FSDP whole matrices are dealt out to the devices, where a stacked axis can be cut: as the
    parameter is cut, each product would gather both of its factors. They are then cut again as the
    parameter is, before a side of several axes is split into them.
    """
    y = orthogonalize(leaf.to_matrices(x), quintics, dtype)
    for side, group in zip(leaf.own_axes, leaf.groups, strict=True):
        as_leaf = len(group) == 1 and AXES[leaf.axes[group[0]]].along == "fsdp"
        if stack_of(y) is not None and as_leaf and divides(y, side):
            return cut(y, side)
    return y


def stack_of(y: Float[Array, "*s m n"]) -> int | None:
    """The stacked axis over which matrices can be dealt out to devices; None = there is none."""
    return next((axis for axis in range(y.ndim - 2) if divides(y, axis)), None)


def divides(y: Array, axis: int) -> bool:
    """Whether several devices share a parameter, and their number divides the axis."""
    return shares("turned") > 1 and y.shape[axis] % shares("turned") == 0


def cut(y: Array, axis: int) -> Array:
    """y, of which each of those devices has its part along the axis."""
    names = ["whole"] * y.ndim
    names[axis] = "turned"
    return constrain(y, *names)
