"""Which program computes attention: plain XLA, cuDNN's fused kernel, or Pallas's on TPUs.

The fused ones never hold the scores [B, H, T, T]. What runs is decided once, by device, dtype and
shape, and told; a kernel that is asked for by name and cannot run here is refused, never replaced.

Shape suffixes as in attention.py: B batch, T positions, H heads, G heads of keys and values,
K head_dim.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from lmjax.errors import FieldError
from lmjax.placement import device, note, per_device, shares

Kernel = Literal["xla", "cudnn", "splash"]
Wanted = Literal["auto", "xla", "cudnn", "splash"]

HOPPER, AMPERE = 9.0, 8.0  # compute capabilities
LANES = 128  # of a TPU: splash works on blocks of so many positions
BLOCKS = (1024, 512, 256, 128)  # positions in one block of splash; the largest that divides
BLOCK_NAMES = (
    *("block_q", "block_kv", "block_kv_compute"),
    *("block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute"),
    *("block_q_dq", "block_kv_dq"),
)


class Site(NamedTuple):
    """Where attention is to run, and on what."""

    device: Any  # jax.Device; None = on paper
    dtype: Any  # of queries, keys and values
    head_dim: int
    length: int  # positions
    cut: bool  # whether positions are cut over devices

    @property
    def capability(self) -> float:
        """Of an NVIDIA GPU; 0 = it is none."""
        return float(getattr(self.device, "compute_capability", 0))


def cudnn_lacks(site: Site) -> str:
    """Why cuDNN's kernel cannot run there; "" = it can."""
    if site.capability < AMPERE:
        return f"needs an NVIDIA GPU, Ampere or newer, not {site.device.device_kind}"
    if site.dtype not in (jnp.bfloat16, jnp.float16):
        return f"needs --compute-dtype bfloat16, not {site.dtype}"
    most = 256 if site.capability >= HOPPER else 128
    if site.head_dim % 8 or site.head_dim > most:
        return f"needs heads of a multiple of 8 and at most {most}, not {site.head_dim}"
    return "needs whole sequences on each device" if site.cut else ""


def splash_lacks(site: Site) -> str:
    """Why Pallas's splash attention cannot run there; "" = it can."""
    if site.device.platform != "tpu":
        return f"needs a TPU, not {site.device.device_kind}"
    if site.length % LANES:
        return f"needs a multiple of {LANES} positions, not {site.length}"
    if site.head_dim % 64:
        return f"needs heads of a multiple of 64, not {site.head_dim}"
    return "needs whole sequences on each device" if site.cut else ""


FUSED: dict[str, Kernel] = {"gpu": "cudnn", "tpu": "splash"}  # platform -> its kernel
LACKS: dict[str, Callable[[Site], str]] = {"cudnn": cudnn_lacks, "splash": splash_lacks}


def choose(wanted: Wanted, site: Site) -> tuple[Kernel, str]:
    """(the kernel, why it and no faster one); raises FieldError where the wanted one cannot run."""
    if site.device is None or wanted == "xla":
        return "xla", "as asked"
    if wanted != "auto":
        if lack := LACKS[wanted](site):
            raise FieldError("attention", wanted, f"{lack} (auto takes what can run)")
        return wanted, "as asked"
    if site.device.platform not in FUSED:
        return "xla", f"there is no fused kernel for {site.device.platform}"
    fast = FUSED[site.device.platform]
    lack = LACKS[fast](site)
    if fast == "cudnn" and not lack and site.capability < HOPPER:
        lack = "gains too little before Hopper"
    return ("xla", f"{fast} {lack}") if lack else (fast, "the fastest here")


def attend(
    wanted: Wanted,
    q_BTHK: Float[Array, "B T H K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTGK: Float[Array, "B T G K"],
    segments_BT: Integer[Array, "B T"] | None,
) -> Float[Array, "B T H K"]:
    """Causal attention, inside segments where there are any, by the kernel that is chosen here."""
    length, head_dim = q_BTHK.shape[1], q_BTHK.shape[3]
    site = Site(device(), q_BTHK.dtype, head_dim, length, shares("length") > 1)
    kernel, why = choose(wanted, site)
    note("attention", f"{kernel} ({why})")
    if kernel == "splash":
        return splash(q_BTHK, k_BTGK, v_BTGK, segments_BT)
    mask = None
    if segments_BT is not None:
        mask = segments_BT[:, None, :, None] == segments_BT[:, None, None, :]
    return jax.nn.dot_product_attention(
        q_BTHK, k_BTGK, v_BTGK, mask=mask, is_causal=True, implementation=kernel
    )


def splash(
    q_BTHK: Float[Array, "B T H K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTGK: Float[Array, "B T G K"],
    segments_BT: Integer[Array, "B T"] | None,
    interpret: bool = False,
) -> Float[Array, "B T H K"]:
    """Pallas's splash attention on each device's rows and heads; `interpret` runs it anywhere."""
    queries = ("batch", "length", "heads", "head_dim")
    keys = ("batch", "kv_length", "kv_heads", "head_dim")
    one = functools.partial(_splash, interpret=interpret)
    axes = (queries, keys, keys)
    if segments_BT is None:
        return per_device(one, axes, queries)(q_BTHK, k_BTGK, v_BTGK)
    told = (*axes, ("batch", "length"))
    return per_device(one, told, queries)(q_BTHK, k_BTGK, v_BTGK, segments_BT)


def splash_block(length: int) -> int:
    """Positions in one block of splash."""
    return next(size for size in BLOCKS if length % size == 0)


def _splash(q: Array, k: Array, v: Array, *segments: Array, interpret: bool) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas

    _, length, heads, head_dim = q.shape
    sizes: dict[str, Any] = dict.fromkeys(BLOCK_NAMES, splash_block(length))
    mask = pallas.MultiHeadMask([pallas.CausalMask((length, length))] * heads)
    kernel = pallas.make_splash_mha_single_device(
        mask, block_sizes=pallas.BlockSizes(**sizes), interpret=interpret
    )
    ids = [pallas.SegmentIds(numbers, numbers) for numbers in segments]
    heads_first = [jnp.swapaxes(x, 1, 2) for x in (q * head_dim**-0.5, k, v)]
    made: Any = jax.vmap(kernel)(*heads_first, *ids)
    return jnp.swapaxes(made, 1, 2)
