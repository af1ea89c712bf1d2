"""Parts of a training step of gpt_gpu.py, each measured alone on the device.

Times are of compiled functions, dispatched one after another without waiting: the median of three
such runs. So the host's microseconds hide behind the device's, where those are longer.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.gpt_roofline import Product, bound, products, traffic
from experiments.benchmarks.gpt_rows import Point, Zipf
from lmjax.errors import InputError
from lmjax.models import GPT
from lmjax.models.kernels import Wanted, attend

RUNS = 3
MOST = 200  # calls in a run
BLOCK = 10**6 + 3  # random numbers; no power of two, so that rows of a matrix differ
KERNELS: tuple[Wanted, ...] = ("cudnn", "xla")
RESULTS = ("out", "dq", "dk", "dv")  # of attention and its gradients


def milliseconds(compiled: Callable[..., Any], *args: Any, seconds: float = 0.2) -> float:
    """Of one call of a jitted function; all runs together take about the seconds."""
    jax.block_until_ready(compiled(*args))

    def run(calls: int) -> float:
        begun = time.perf_counter()
        made = None
        for _ in range(calls):
            made = compiled(*args)  # the one before is kept by nobody, so its room is used again
        jax.block_until_ready(made)
        return (time.perf_counter() - begun) / calls

    calls = max(2, min(MOST, round(seconds / RUNS / run(3))))
    return 1e3 * statistics.median(run(calls) for _ in range(RUNS))


def noise(seed: int, *shape: int, dtype: Any = jnp.bfloat16) -> jax.Array:
    """Random numbers, a million of them again and again: products of zeros run faster."""
    block = np.random.default_rng(seed).standard_normal(BLOCK, np.float32)
    return jnp.asarray(np.resize(block.astype(jnp.dtype(dtype)), shape))


def ceilings(tiny: bool) -> dict[str, float]:
    """What the device does at most: a large square product, and a copy (bytes read and written)."""
    side = 256 if tiny else 8192
    taken = milliseconds(jax.jit(jnp.matmul), noise(0, side, side), noise(1, side, side))
    count = 2**18 if tiny else 2**29
    copied = milliseconds(jax.jit(lambda x: x + 1), noise(2, count))
    return {
        "square": side,
        "square_flops_per_second": 2 * side**3 / (taken / 1e3),
        "copied_bytes": 2 * count,
        "copy_bytes_per_second": 2 * 2 * count / (copied / 1e3),
    }


def embedding(tiny: bool) -> dict[str, Any]:
    """The gradient of a look-up, of ids that repeat as in a text.

    scatter  what JAX makes of the gradient of table[ids]
    wide     the same, added up in float32 and rounded once, as lmjax's models do it
    sorted   ids in order, rows of equal ids added up
    product  one-hot ids, transposed, times the gradient of the rows

    Each with its error beside float64, in the Frobenius norm, relative.
    """
    vocab, width, count = (1024, 64, 512) if tiny else (50304, 768, 32768)
    ids = jnp.asarray(Zipf(count=1, length=count, ids=vocab).tokens()[0, :count])

    # The ids are an argument: of a constant XLA would do the work while it compiles.
    def scatter(ids: Any, table: Any, rows: Any) -> Any:
        return jax.vjp(lambda table: table[ids], table)[1](rows)[0]

    def wide(ids: Any, table: Any, rows: Any) -> Any:
        return scatter(ids, table.astype(jnp.float32), rows.astype(jnp.float32)).astype(table.dtype)

    def in_order(ids: Any, table: Any, rows: Any) -> Any:
        order = jnp.argsort(ids)
        return jax.ops.segment_sum(
            rows[order], ids[order], num_segments=vocab, indices_are_sorted=True
        )

    def product(ids: Any, table: Any, rows: Any) -> Any:
        return jnp.matmul(jax.nn.one_hot(ids, vocab, dtype=rows.dtype).T, rows)

    ways = {"scatter": scatter, "wide": wide, "sorted": in_order, "product": product}
    told: dict[str, Any] = {"ids": count, "different_ids": len(set(ids.tolist()))}
    for dtype in (jnp.float32, jnp.bfloat16):
        table, rows = noise(0, vocab, width, dtype=dtype), noise(1, count, width, dtype=dtype)
        exact = summed(np.asarray(ids), np.asarray(rows, np.float64), vocab)
        for name, way in ways.items():
            if name == "wide" and dtype == jnp.float32:
                continue
            compiled = jax.jit(way)
            made = np.asarray(compiled(ids, table, rows), np.float64)
            told[f"{name} {jnp.dtype(dtype).name}"] = {
                "ms": milliseconds(compiled, ids, table, rows, seconds=0.01 if tiny else 0.3),
                "error": float(np.linalg.norm(made - exact) / np.linalg.norm(exact)),
            }
    return told


def summed(ids: np.ndarray, rows: np.ndarray, vocab: int) -> np.ndarray:
    """Rows of equal ids added up, in float64."""
    order = np.argsort(ids, kind="stable")
    known, starts = np.unique(ids[order], return_index=True)
    table = np.zeros((vocab, rows.shape[1]))
    table[known] = np.add.reduceat(rows[order], starts, axis=0)
    return table


def attention(tiny: bool) -> dict[str, Any]:
    """Forward and backward, of each kernel at two lengths, and how far it is from float32.

    Differences are relative, in the Frobenius norm, and largest, of the result and the gradients
    of the first row.
    """
    told: dict[str, Any] = {}
    for length in (32, 64) if tiny else (1024, 4096):
        heads, head_dim = (2, 16) if tiny else (12, 64)
        batch = (256 if tiny else 16384) // length
        args = attention_arguments(batch, length, heads, head_dim)
        with jax.default_matmul_precision("float32"):
            exact = with_gradients("xla")(*(x[:1].astype(jnp.float32) for x in args))
        told[str(length)] = {"batch": batch, "heads": heads, "head_dim": head_dim} | {
            kernel: attention_alone(kernel, args, exact, 0.02 if tiny else 0.3)
            for kernel in KERNELS
        }
    return told


def attention_arguments(*shape: int) -> list[jax.Array]:
    """q, k, v and the cotangent of the result."""
    return [noise(seed, *shape) for seed in range(4)]


def attention_alone(
    kernel: Wanted, args: list[jax.Array], exact: tuple[Any, ...], seconds: float
) -> dict[str, Any]:
    """One kernel beside the exact first row, or why it cannot run."""
    compiled = with_gradients(kernel)
    try:
        made = compiled(*args)
    except InputError as error:
        return {"refused": str(error)}
    told: dict[str, Any] = {"ms": milliseconds(compiled, *args, seconds=seconds)}
    for name, one, right in zip(RESULTS, made, exact, strict=True):
        apart = np.asarray(one[:1], np.float64) - np.asarray(right, np.float64)
        told[name] = {
            "largest": float(np.abs(apart).max()),
            "relative": float(np.linalg.norm(apart) / np.linalg.norm(np.asarray(right))),
        }
    return told


def with_gradients(kernel: Wanted) -> Any:
    """The jitted function (q, k, v, cotangent) -> result and gradients, as the models call it."""

    def both(q: Any, k: Any, v: Any, back: Any) -> tuple[Any, ...]:
        out, pull = jax.vjp(lambda q, k, v: attend(kernel, q, k, v, None), q, k, v)
        return (out, *pull(back))

    return jax.jit(both)


def product_milliseconds(product: Product, seconds: float) -> float:
    """Of one linear map with its two gradients."""
    wide = jnp.float32 if product.wide else None

    def all_three(x: Any, kernel: Any, back: Any) -> tuple[Any, Any, Any]:
        return (
            jnp.matmul(x, kernel, preferred_element_type=wide),
            jnp.matmul(back, kernel.T),
            jnp.matmul(x.T, back, preferred_element_type=wide),
        )

    m, k, n = product.m, product.k, product.n
    arrays = noise(0, m, k), noise(1, k, n), noise(2, m, n)
    return milliseconds(jax.jit(all_three), *arrays, seconds=seconds)


def roofline(
    model: GPT,
    point: Point,
    seconds: float,
    *,
    step_ms: float,
    parameters: int,
    square: float,
    bandwidth: float,
) -> dict[str, Any]:
    """A step at the measured ceilings, beside what it took (gpt_roofline.py).

    Args:
      seconds: for each product, and for attention.
      step_ms: what it took.
      parameters: of the model.
      square: FLOP/s of a large square product.
      bandwidth: bytes in a second.
    """
    tokens = point.batch * model.max_length
    linear = products(model, tokens, point.cross_entropy, point.loss_chunk)
    parts, shapes = {}, {}
    for product in linear:
        taken = product_milliseconds(product, seconds)
        parts[f"product {product.name}"] = taken * product.times
        shapes[product.name] = {
            "m k n": [product.m, product.k, product.n],
            "times": product.times,
            "flops_per_second": product.flops / product.times / (taken / 1e3),
        }
    args = attention_arguments(point.batch, model.max_length, model.heads, model.head_size)
    alone = milliseconds(with_gradients(point.attention), *args, seconds=seconds)
    parts["attention"] = model.depth * alone
    moved = traffic(model, parameters, tokens, point.cross_entropy, point.loss_chunk)
    work = sum(product.flops for product in linear)
    spent = sum(ms for name, ms in parts.items() if name != "attention")
    return {
        **bound(step_ms, parts, moved, bandwidth),
        "products": shapes,
        "products_flops": work,
        "products_ms": spent,
        "products_at_square_ms": 1e3 * work / square,
        "memory_ms": 1e3 * sum(moved.values()) / bandwidth,
    }
