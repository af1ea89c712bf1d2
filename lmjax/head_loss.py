"""Cross-entropy of a linear head over a large vocabulary, without all of its logits.

In float32 they are the largest array of a step: of 32 x 1,024 tokens and 50,304 ids, 6.6 GB. Here
they exist for a chunk of tokens at a time, in one of two ways:

chunked   the backward pass computes each chunk's logits again: 4 products of [n, D] and [D, V]
          where the plain loss takes 3
one-pass  the forward pass computes each chunk's gradient with its loss, since the sum of losses is
          what is differentiated: 3 products, and nothing is computed twice. Until the backward
          pass it keeps the gradient of the head, in float32 (as Liger's fused loss,
          arXiv 2410.10989)

n tokens of a chunk, D width, V vocabulary, W = V with padding.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from lmjax.losses import accuracy, cross_entropy
from lmjax.models.base import Headless
from lmjax.placement import per_device

Way = Literal["chunked", "one-pass"]


@dataclasses.dataclass(frozen=True)
class Terms:
    """What a loss is of, beside its arrays."""

    way: Way
    chunk: int  # tokens
    cap: float  # of the logits; 0 = none
    vocab_size: int  # columns of the head beyond it are padding
    z_loss: float  # factor of the squared log-normaliser (PaLM, arXiv 2204.02311, section 5)


class Sums(NamedTuple):
    """Over weighted targets, float32 []."""

    objective: Any  # what is minimised: nll + z_loss * z; the others carry no gradient
    nll: Any  # nats
    z: Any  # squares of the log-normaliser
    hits: Any  # targets whose logit is the largest


def of_logits(
    logits: Float[Array, "B T V"],
    targets: Integer[Array, "B T"],
    weights: Float[Array, "B T"],
    z_loss: float,
) -> Sums:
    """The sums of a batch whose logits are all there: the plain loss."""
    nll = cross_entropy(logits, targets, weights).total
    hits = accuracy(logits, targets, weights).total
    log_normalizer = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    z = jnp.sum(log_normalizer**2 * weights)
    return Sums(nll + z_loss * z if z_loss else nll, nll, z, hits)


def of_features(
    features: Headless,
    targets: Integer[Array, "B T"],
    weights: Float[Array, "B T"],
    way: Way,
    chunk: int,
    z_loss: float,
) -> Sums:
    """The sums of a batch, `chunk` tokens at a time; each device takes the tokens that it has."""
    terms = Terms(way, chunk, features.cap, features.vocab_size, z_loss)
    tokens = ("batch", "length")
    each = per_device(
        functools.partial(_on_device, terms),
        ((*tokens, "embed"), ("embed", "embed"), tokens, tokens),
        Sums(*[tokens] * 4),
    )
    sums = each(features.x, features.head, targets, jax.lax.stop_gradient(weights))
    return Sums(*map(jnp.sum, sums))


def _on_device(terms: Terms, x: Array, head: Array, targets: Array, weights: Array) -> Sums:
    """Sums [1, 1] of the tokens of one device."""
    count = targets.size
    chunk = min(terms.chunk, count)
    pad = -count % chunk

    def cut(array: Array, *rest: int) -> Array:
        flat = array.reshape(count, *rest)
        return jnp.pad(flat, [(0, pad), *[(0, 0)] * len(rest)]).reshape(-1, chunk, *rest)

    loss = chunked if terms.way == "chunked" else one_pass
    sums: Any = loss(terms, cut(x, x.shape[-1]), head, cut(targets), cut(weights))
    return Sums(*(s.reshape(1, 1) for s in sums))


class Chunk(NamedTuple):
    """Loss of one chunk, and what its gradient needs."""

    sums: Sums
    logits: Float[Array, "n W"]
    slope: Any  # of the cap; 1 where there is none
    log_normalizer: Float[Array, "n"]


def _forward(terms: Terms, x: Array, head: Array, targets: Array, weights: Array) -> Chunk:
    logits = jnp.matmul(x, head, preferred_element_type=jnp.float32)
    slope: Any = 1.0
    if terms.cap:
        bent = jnp.tanh(logits / terms.cap)
        logits, slope = terms.cap * bent, 1 - bent**2
    if terms.vocab_size < logits.shape[-1]:
        real = jnp.arange(logits.shape[-1])[None] < terms.vocab_size
        logits = jnp.where(real, logits, -jnp.inf)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    nll = log_normalizer - jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    hits = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    summed = [jnp.sum(term * weights) for term in (nll, log_normalizer**2, hits)]
    return Chunk(Sums(summed[0] + terms.z_loss * summed[1], *summed), logits, slope, log_normalizer)


def _backward(
    terms: Terms, chunk: Chunk, x: Array, head: Array, targets: Array, weights: Array
) -> tuple[Array, Array]:
    """(gradient of x, gradient of the head in float32) of the chunk's objective."""
    probability = jnp.exp(chunk.logits - chunk.log_normalizer[:, None])
    factor = weights * (1 + 2 * terms.z_loss * chunk.log_normalizer)
    chosen = jax.nn.one_hot(targets, head.shape[-1], dtype=jnp.float32)
    wrong = (factor[:, None] * probability - weights[:, None] * chosen) * chunk.slope
    wrong = wrong.astype(x.dtype)  # or the products below would be in float32
    back = jnp.matmul(wrong, head.T)
    return back, jnp.matmul(x.T, wrong, preferred_element_type=jnp.float32)


def _none_like(head: Array) -> tuple[Sums, Array]:
    return Sums(*[jnp.zeros([], jnp.float32)] * 4), jnp.zeros(head.shape, jnp.float32)


def _add(one: Any, two: Any) -> Any:
    return jax.tree.map(jnp.add, one, two)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def chunked(
    terms: Terms,
    x: Float[Array, "c n D"],
    head: Float[Array, "D W"],
    targets: Integer[Array, "c n"],
    weights: Float[Array, "c n"],
) -> Sums:
    """The sums of all chunks; logits are computed again for the gradient."""

    def body(sums: Sums, pieces: Any) -> tuple[Sums, None]:
        x, targets, weights = pieces
        return _add(sums, _forward(terms, x, head, targets, weights).sums), None

    return jax.lax.scan(body, _none_like(head)[0], (x, targets, weights))[0]


def _chunked_forward(terms: Terms, *arrays: Array) -> tuple[Sums, Any]:
    return chunked(terms, *arrays), arrays


def _chunked_backward(terms: Terms, arrays: Any, cotangents: Sums) -> Any:
    x, head, targets, weights = arrays

    def body(total: Array, pieces: Any) -> tuple[Array, Array]:
        chunk = _forward(terms, pieces[0], head, *pieces[1:])
        back, part = _backward(terms, chunk, pieces[0], head, *pieces[1:])
        return total + part, back

    total, back = jax.lax.scan(body, _none_like(head)[1], (x, targets, weights))
    return _scaled(cotangents.objective, back, total.astype(head.dtype))


chunked.defvjp(_chunked_forward, _chunked_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def one_pass(
    terms: Terms,
    x: Float[Array, "c n D"],
    head: Float[Array, "D W"],
    targets: Integer[Array, "c n"],
    weights: Float[Array, "c n"],
) -> Sums:
    """The sums of all chunks; where a gradient is asked for, it is computed on the way."""
    return chunked(terms, x, head, targets, weights)


def _one_pass_forward(
    terms: Terms, x: Array, head: Array, targets: Array, weights: Array
) -> tuple[Sums, Any]:
    def body(carry: tuple[Sums, Array], pieces: Any) -> tuple[tuple[Sums, Array], Array]:
        chunk = _forward(terms, pieces[0], head, *pieces[1:])
        back, part = _backward(terms, chunk, pieces[0], head, *pieces[1:])
        return _add(carry, (chunk.sums, part)), back

    (sums, total), back = jax.lax.scan(body, _none_like(head), (x, targets, weights))
    return sums, (back, total, jnp.zeros([], head.dtype))


def _one_pass_backward(terms: Terms, kept: Any, cotangents: Sums) -> Any:
    back, total, like = kept
    return _scaled(cotangents.objective, back, total.astype(like.dtype))


one_pass.defvjp(_one_pass_forward, _one_pass_backward)


def _scaled(by: Array, back: Array, total: Array) -> Any:
    """Cotangents of (x, head, targets, weights); the last two have none."""
    return (by * back).astype(back.dtype), (by * total).astype(total.dtype), None, None
