"""What the contract needs to know of each optimizer: one row each, and the leaves they move."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lmjax.optim import (
    ADOPT,
    LAMB,
    LARS,
    LBFGS,
    MARS,
    SGD,
    SOAP,
    Adafactor,
    AdamMini,
    AdamW,
    Adan,
    AdEMAMix,
    DAdaptAdamW,
    Dion2,
    DMuon,
    Kron,
    Lion,
    Lookahead,
    MARSLion,
    Momentum,
    Muon,
    MuonOptax,
    NAdamW,
    Nesterov,
    NorMuon,
    Optimizer,
    Outer,
    OuterNesterov,
    Prodigy,
    RAdam,
    RMSProp,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Scion,
    ScionLight,
    Shampoo,
    Signum,
    SophiaG,
    SophiaH,
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


# Constrained, which is the default, parameters shrink without a gradient too.
FREE_SCION = Scion(constrained=False, radius=1.0, head_radius=1.0)

# Factors are updated at steps 1 and 2 and not again within four, unless a setting changes.
SELDOM = Kron(min_probability=0.2, probability_decay=1.0, flat_steps=2)

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
    Row(RAdam(), copies(2), 2),
    Row(RMSProp(), copies(1), 1),
    Row(Adan(), copies(4), 2),
    Row(Signum(learning_rate=0.01), copies(1), 2),
    Row(LAMB(), copies(2), 2),
    Row(LARS(coefficient=1.0), copies(1), 1),
    Row(ADOPT(eps=0.5), copies(2), 2),  # of the same order as gradients
    # estimates that a few steps change
    Row(Prodigy(first_estimate=0.1, growth=8.0), copies(4), 3),
    Row(DAdaptAdamW(first_estimate=0.1), copies(3), 3),
    Row(ScheduleFreeSGD(), copies(1), 4),
    Row(DMuon(), SIZES["stack"] + AUXILIARY, 2),
    Row(SophiaH(learning_rate=0.01, refresh_every=2, gamma=0.5), copies(2), 2 + 2),  # and a key
    # two copies, two of each remembered step with its weight, and the search's gradient
    Row(LBFGS(memory=2, search_steps=3), copies(2 + 2 * 2 + 1) + 2, 7),
    Row(NorMuon(), SIZES["stack"] + 2 * 6 + AUXILIARY, 2),  # and a number for each neuron
    Row(FREE_SCION, copies(1), 1),
    Row(ScionLight(**vars(FREE_SCION)), copies(1), 1),
    Row(Dion2(fraction=0.5), SIZES["stack"] + AUXILIARY, 2),
    # a moment and two factors for each matrix, and a key
    Row(SELDOM, SIZES["stack"] + 2 * (4**2 + 6**2) + 2 + AUXILIARY, 4),
    # two moments, then two factors and two roots for each matrix
    Row(Shampoo(refresh_every=2), 2 * SIZES["stack"] + 2 * 2 * (4**2 + 6**2) + AUXILIARY, 3),
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
    "memory": 1,
    "search_steps": 1,
    "min_probability": 0.5,
    "probability_decay": 0.1,
    "flat_steps": 3,
    "grafting": "sgd",
    "grafting_eps": 1e-2,
    "every": 3,
}  # where half of the default, or .3 for 0, is not allowed or not seen

SEEN = {"radam": 8, "prodigy": 8, "sophia-h": 3, "lbfgs": 3}  # until all is seen; else 4

REFUSED = {
    ("schedule-free-adamw", "ema_decay"): "averages too",
    ("schedule-free-sgd", "ema_decay"): "averages too",
    ("lbfgs", "weight_decay"): "the loss as it is",
    ("lbfgs", "clip_norm"): "the loss as it is",
    ("schedule-free-adamw", "hyperball"): "off the sphere",
    ("schedule-free-sgd", "hyperball"): "off the sphere",
    ("mars", "auxiliary.weight_decay"): "vectors alone",
    ("mars-lion", "auxiliary.weight_decay"): "vectors alone",
}  # what would change nothing, or nothing sensible

UNSEEN = {
    "scion": ["head_radius"],
    "scion-light": ["head_radius"],
}  # what shows on no leaf here: tests/test_optim_matrix.py has others


def refusal(optimizer: Optimizer, path: str) -> str | None:
    """What is told when this field alone is changed; None: it may be."""
    if path in optimizer.unfit:
        return "cannot be wrapped so"
    if path == "cautious" and optimizer.keeps_signs:
        return "gradient's signs"
    if path == "hyperball" and optimizer.weight_decay:
        return "norms of matrices"
    if path in ("ema_decay", "hyperball") and optimizer.outer != Outer():
        return "outer"
    return REFUSED.get((optimizer.label, path))
