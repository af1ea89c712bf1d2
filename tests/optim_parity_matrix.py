"""How the references of matrix methods were set, and what must not equal them; see
optim_parity_rows.py."""

from dataclasses import replace
from typing import Any

from optim_paths import Row, times

from lmjax.optim import Dion2, Kron, Muon, NorMuon, Scion, ScionLight, Shampoo
from lmjax.optim.recipe import Auxiliary

MUON: dict[str, Any] = {"weight_decay": 0.1, "newton_schulz_dtype": "float64"}
BALLED = Muon(learning_rate=0.02, hyperball=True, newton_schulz_dtype="float64")
SCION: dict[str, Any] = {"learning_rate": 0.01, "newton_schulz_dtype": "float64"}
BALL, LIGHT = Scion(**SCION), ScionLight(**SCION)
FREE_BALL = Scion(**SCION, constrained=False, momentum=0.5)
PART = Dion2(learning_rate=0.02, weight_decay=0.1, newton_schulz_dtype="float64")
HALF = replace(PART, fraction=0.5, ef_decay=0.5)
WHITE = Shampoo(learning_rate=2**-6, weight_decay=0.1, b2=0.99, refresh_every=3)
SUMMED = replace(WHITE, b2=1.0, refresh_every=1, grafting="sgd")
UNGRAFTED = replace(WHITE, b1=0.0, b2=0.9, power=0.2, eps=1e-3, refresh_every=2, grafting="none")
LEARNED = Kron(learning_rate=0.01, weight_decay=0.1)
RARELY = replace(
    LEARNED,
    factors_from_momentum=False,
    factor_scale=0.5,
    factor_rate=0.2,
    max_probability=0.9,
    min_probability=0.3,
    probability_decay=0.2,
    flat_steps=4,
)

MATRIX_ROWS: dict[str, Row] = {
    "normuon": Row(
        NorMuon(**MUON),
        (
            NorMuon(**MUON, b2=0.951),
            NorMuon(**MUON, momentum=0.951),
            NorMuon(**MUON, nesterov=False),
            NorMuon(**MUON, newton_schulz_steps=6),
            NorMuon(**MUON, auxiliary=Auxiliary(b2=0.99)),
            Muon(**MUON),
        ),
    ),
    "muonh": Row(
        BALLED,
        (
            replace(BALLED, hyperball=False),
            replace(BALLED, momentum=0.951),
            replace(BALLED, nesterov=False),
            replace(BALLED, learning_rate=0.021),
        ),
    ),
    "scion": Row(
        BALL,
        (
            replace(BALL, momentum=0.11),
            replace(BALL, radius=3.01),
            replace(BALL, vector_radius=1.01),
            replace(BALL, constrained=False),
            replace(BALL, newton_schulz_steps=6),
        ),
    ),
    "scion_free": Row(FREE_BALL, (replace(FREE_BALL, momentum=0.51), BALL)),
    "scion_light": Row(LIGHT, (replace(LIGHT, momentum=0.11), replace(LIGHT, radius=3.01))),
    "scion_light_small": Row(LIGHT, (BALL,), gradient=times(1e-7), wrong_gradient=times(1e-6)),
    "dion2": Row(
        PART,
        (
            replace(PART, fraction=0.26),
            replace(PART, ef_decay=0.951),
            replace(PART, eps=1e-2),
            replace(PART, weight_decay=0.101),
            replace(PART, newton_schulz_dtype="bfloat16"),
        ),
    ),
    "dion2_half": Row(HALF, (replace(HALF, fraction=0.25), replace(HALF, ef_decay=0.51))),
    "shampoo": Row(
        WHITE,
        (
            replace(WHITE, b1=0.901),
            replace(WHITE, b2=0.991),
            replace(WHITE, power=0.251),
            replace(WHITE, grafting="sgd"),
            replace(WHITE, grafting_eps=1e-4),
            replace(WHITE, refresh_every=4),
            replace(WHITE, longest_side=4),
            replace(WHITE, weight_decay=0.101),
        ),
    ),
    "shampoo_summed": Row(SUMMED, (replace(SUMMED, b2=0.999), replace(SUMMED, grafting="none"))),
    "shampoo_plain": Row(
        UNGRAFTED,
        (
            replace(UNGRAFTED, power=0.201),
            replace(UNGRAFTED, eps=1e-2),
            replace(UNGRAFTED, refresh_every=1),
        ),
    ),
    "shampoo_one_side": Row(
        replace(WHITE, longest_side=5), (replace(WHITE, longest_side=3), WHITE)
    ),
    "kron": Row(LEARNED, (replace(LEARNED, b1=0.901),)),
    "kron_other": Row(
        RARELY, (replace(RARELY, factors_from_momentum=True), replace(RARELY, min_probability=0.1))
    ),
    "kron_one_side": Row(replace(LEARNED, longest_side=5), (replace(LEARNED, longest_side=4),)),
}
