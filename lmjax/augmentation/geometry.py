"""One image [H, W, C], moved: turned, enlarged, shifted, cut out. Pure functions.

A pixel's value lies at its centre, (row, column) from 0. Between centres values are linear.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

Image = Float[Array, "H W C"]
Number = float | int | Float[Array, ""]

EDGE = 1e-4  # pixels beyond the outermost centres that still count as on them: float32 rounds


def turned(image: Image, degrees: Number, factor: Number = 1.0) -> Image:
    """The image turned counter-clockwise and enlarged about its middle; 0 where nothing was.

    scipy.ndimage.rotate(image, degrees, reshape=False, order=1) where factor is 1. Multiples of 90
    degrees move pixels without changing them.
    """
    height, width, _ = image.shape
    cosine, sine = _cosine_and_sine(degrees)
    middle, centre = (height - 1) / 2, (width - 1) / 2
    down = (jnp.arange(height)[:, None] - middle) / factor
    right = (jnp.arange(width)[None] - centre) / factor
    # Products of numbers and not of matrices, which some devices round to bfloat16.
    rows = cosine * down + sine * right + middle
    columns = cosine * right - sine * down + centre
    inside = (rows >= -EDGE) & (rows <= height - 1 + EDGE)
    inside &= (columns >= -EDGE) & (columns <= width - 1 + EDGE)
    return jnp.where(inside[..., None], sampled(image, rows, columns), 0)


def _cosine_and_sine(degrees: Number) -> tuple[Array, Array]:
    """Of degrees; exactly 0, 1 and -1 at the multiples of 90."""
    quarters = jnp.round(jnp.asarray(degrees) / 90)
    rest = jnp.deg2rad(degrees - 90 * quarters)
    cosine, sine = jnp.cos(rest), jnp.sin(rest)
    turn = quarters.astype(jnp.int32) % 4
    return (
        jnp.stack([cosine, -sine, -cosine, sine])[turn],
        jnp.stack([sine, cosine, -sine, -cosine])[turn],
    )


def shifted(image: Image, down: Integer[Array, ""], right: Integer[Array, ""], most: int) -> Image:
    """The image moved by whole pixels, at most `most` either way; zeros come in.

    The same as a random crop of the image padded with `most` zeros.
    """
    padded = jnp.pad(image, ((most, most), (most, most), (0, 0)))
    return jax.lax.dynamic_slice(padded, (most - down, most - right, 0), image.shape)


def cut_out(image: Image, top: Number, left: Number, height: Number, width: Number) -> Image:
    """The window [top, top + height] x [left, left + width], in pixels, enlarged to the image.

    Of whole pixels: scipy.ndimage.zoom(window, order=1, mode="nearest", grid_mode=True).
    """
    rows = _within(top, height, image.shape[0])[:, None]
    columns = _within(left, width, image.shape[1])[None]
    return sampled(image, rows, columns)


def _within(start: Number, length: Number, size: int) -> Float[Array, "size"]:
    """Coordinates of `size` centres, spread evenly over a window that starts at the edge `start`.

    Those beyond the centres of its outermost pixels are moved onto them.
    """
    places = start - 0.5 + (jnp.arange(size) + 0.5) * (length / size)
    return jnp.clip(places, start, start + length - 1)


def sampled(
    image: Image, rows: Float[Array, "#h #w"], columns: Float[Array, "#h #w"]
) -> Float[Array, "h w C"]:
    """The image at coordinates, by linear interpolation; beyond its centres, the nearest value."""
    height, width, _ = image.shape
    rows, columns = jnp.broadcast_arrays(
        jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    )
    top, left = jnp.floor(rows).astype(jnp.int32), jnp.floor(columns).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    below, beside = (rows - top)[..., None], (columns - left)[..., None]
    upper = image[top, left] * (1 - beside) + image[top, right] * beside
    lower = image[bottom, left] * (1 - beside) + image[bottom, right] * beside
    return upper * (1 - below) + lower * below
