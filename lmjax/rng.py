"""Keys are a function of (seed, purpose, step), never a state that is carried along."""

import zlib
from typing import Literal

import jax
from jaxtyping import Array, Integer, PRNGKeyArray

Purpose = Literal["init", "dropout", "augment", "labels", "text"]

SEED_LIMIT = 2**32  # seeds are one uint32 word, so that they can be a traced argument


def key_for(
    seed: int | Integer[Array, ""], purpose: Purpose, step: int | Integer[Array, ""] = 0
) -> PRNGKeyArray:
    """The key for one purpose at one step; seed and step may be traced.

    The generator is named, so that a changed default of JAX cannot change a run.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(purpose.encode())), step)
