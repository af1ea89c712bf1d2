"""Two images and their targets as one. Pure functions; each image is mixed with the one before it.

The order of examples is random, so the one before is as good as one drawn, and none meets itself.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

Scalar = Float[Array, ""]


def mixed(
    images: Float[Array, "B H W C"], targets: Float[Array, "B K"], keep: Float[Array, "B #H #W"]
) -> tuple[Float[Array, "B H W C"], Float[Array, "B K"]]:
    """keep x_i + (1 - keep) x_(i-1), pixel by pixel, and targets by the mean of `keep`.

    A `keep` of one share for all pixels is mixup (arXiv 1710.09412); of a mask, cutmix.
    """
    share = keep.mean((1, 2))[:, None]
    before, targets_before = jnp.roll(images, 1, axis=0), jnp.roll(targets, 1, axis=0)
    keep = keep[..., None]
    return keep * images + (1 - keep) * before, share * targets + (1 - share) * targets_before


def cut_mask(
    share: Scalar, row: Integer[Array, ""], column: Integer[Array, ""], height: int, width: int
) -> Bool[Array, "H W"]:
    """True where cutmix keeps the image (arXiv 1905.04899): outside of a window around a pixel.

    Its sides are sqrt(1 - share) of the image's, rounded down to even numbers as the authors do;
    what of it lies outside of the image is lost, so that more than `share` may be kept.
    """
    side = jnp.sqrt(1 - share)
    half_height = (height * side).astype(jnp.int32) // 2
    half_width = (width * side).astype(jnp.int32) // 2
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    cut = (rows >= row - half_height) & (rows < row + half_height)
    return ~(cut & (columns >= column - half_width) & (columns < column + half_width))
