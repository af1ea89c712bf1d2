"""What the contract needs to know of each optimizer: one row each, and the leaves they move."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lmjax.optim import (
    MARS,
    SGD,
    SOAP,
    Adafactor,
    AdamMini,
    AdamW,
    AdEMAMix,
    Lion,
    Lookahead,
    MARSLion,
    Momentum,
    Muon,
    MuonOptax,
    NAdamW,
    Nesterov,
    Optimizer,
    Outer,
    OuterNesterov,
    ScheduleFreeAdamW,
    SophiaG,
)
from lmjax.roles import Leaf

ROLES = {
    "stack": Leaf((2, 4, 6), ("layers", "embed", "mlp")),
    "table": Leaf((5, 4), ("vocab", "embed")),
    "bias": Leaf((4,), ("embed",)),
}
SIZES = {name: leaf.size for name, leaf in ROLES.items()}
PARAMS = {
    name: jnp.asarray(np.random.default_rng(1).normal(size=leaf.shape), jnp.float32)
    for name, leaf in ROLES.items()
}


class Row(NamedTuple):
    """An optimizer, and how many numbers its state holds."""

    optimizer: Optimizer
    numbers: int  # in arrays as large as their parameters, or as the comment says
    counters: int  # single numbers


def copies(count: int) -> int:
    return count * sum(SIZES.values())


AUXILIARY = 2 * (SIZES["table"] + SIZES["bias"])  # AdamW's two moments
ROWS = [
    Row(SGD(), 0, 1),
    Row(Momentum(), copies(1), 1),
    Row(Nesterov(), copies(1), 1),
    Row(AdamW(), copies(2), 2),
    Row(NAdamW(), copies(2), 2),
    # a row and a column for each matrix of the stack; the rest is too small
    Row(Adafactor(factored_from=4), 2 * (4 + 6) + (5 + 4) + SIZES["bias"], 2),
    Row(Lion(learning_rate=0.01), copies(1), 2),
    Row(AdEMAMix(), copies(3), 3),
    Row(ScheduleFreeAdamW(), copies(2), 5),
    Row(Muon(), SIZES["stack"] + AUXILIARY, 2),
    Row(MuonOptax(), SIZES["stack"] + 3 + AUXILIARY, 3),  # and the quintic's coefficients
    # two moments, then two factors and two bases for each matrix
    Row(SOAP(refresh_every=2), 2 * SIZES["stack"] + 2 * 2 * (4**2 + 6**2) + AUXILIARY, 3),
    Row(MARS(), 3 * (SIZES["stack"] + SIZES["table"]) + 2 * SIZES["bias"], 3),
    Row(MARS(exact=True), copies(1) + copies(2), 4),
    Row(MARSLion(), 2 * (SIZES["stack"] + SIZES["table"]) + 2 * SIZES["bias"], 2),
    # and an output of each matrix of the stack, a row of the table, and the whole bias
    Row(AdamMini(), copies(1) + 2 * 6 + 5 + SIZES["bias"], 2),
    Row(SophiaG(learning_rate=0.01, refresh_every=2), copies(2), 2),
    Row(AdamW(cautious=True), copies(2), 2),
    Row(AdamW(outer=Lookahead(every=2)), copies(3), 3),
    Row(SGD(outer=OuterNesterov(every=2)), copies(2), 2),
]

OTHER = {
    "newton_schulz_dtype": "float32",
    "clip_norm": 0.5,
    "newton_schulz_steps": 3,
    "eps": 1e-2,
    "slow_warmup_steps": 3,
    "least_scale": 2.0,
    "factored_from": 5,
    "refresh_every": 1,
    "longest_side": 5,
    "every": 3,
}  # where half of the default, or .3 for 0, is not allowed or not seen

REFUSED = {
    ("schedule-free-adamw", "ema_decay"): "averages too",
    ("schedule-free-adamw", "hyperball"): "off the sphere",
    ("mars", "auxiliary.weight_decay"): "vectors alone",
    ("mars-lion", "auxiliary.weight_decay"): "vectors alone",
}  # what would change nothing, or nothing sensible


def refusal(optimizer: Optimizer, path: str) -> str | None:
    """What is told when this field alone is changed; None: it may be."""
    if path == "cautious" and optimizer.keeps_signs:
        return "gradient's signs"
    if path == "hyperball" and optimizer.weight_decay:
        return "norms of matrices"
    if path in ("ema_decay", "hyperball") and optimizer.outer != Outer():
        return "outer"
    return REFUSED.get((optimizer.label, path))
