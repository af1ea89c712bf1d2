"""Dropout whose mask is a function of (key, row, position), and of nothing else.

So it does not change where rows lie, whichever micro-batch or device has them.
"""

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from lmjax.models.base import ROWS


class RowDropout(nn.Module):
    """nn.Dropout with a key for each row, from the stream `ROWS`."""

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *s"], rows: Integer[Array, "B"] | None
    ) -> Float[Array, "B *s"]:
        """x with some elements 0 and the others larger; rows = None leaves x as it is."""
        if rows is None or not self.rate:
            return x
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng(ROWS), rows)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jax.lax.select(keep, x / (1 - self.rate), jax.numpy.zeros_like(x))
