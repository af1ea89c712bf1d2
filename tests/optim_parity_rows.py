"""How each reference of optimizers was set, and settings that must not equal it: one row each."""

from dataclasses import replace
from typing import Any

from optim_parity_matrix import MATRIX_ROWS, MUON
from optim_paths import Row, fall, times, warm_up, warm_up_and_fall

from lmjax.optim import (
    ADOPT,
    LAMB,
    LARS,
    MARS,
    SGD,
    SOAP,
    Adafactor,
    AdamMini,
    AdamW,
    Adan,
    AdEMAMix,
    DAdaptAdamW,
    DMuon,
    Lion,
    Lookahead,
    MARSLion,
    Momentum,
    Muon,
    MuonOptax,
    NAdamW,
    Nesterov,
    Outer,
    OuterNesterov,
    Prodigy,
    RAdam,
    RMSProp,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Signum,
    SophiaG,
)
from lmjax.optim.recipe import Auxiliary

ADAMW: dict[str, Any] = {"learning_rate": 0.01, "weight_decay": 0.1}
SLOW: dict[str, Any] = {**ADAMW, "alpha": 5.0}
FREE = ScheduleFreeAdamW(**ADAMW)
FACTOR = Adafactor(**ADAMW, factored_from=1)
VARIANCE = MARS(**ADAMW)
SIGNS = MARSLion(**ADAMW)
CAUTIOUS = AdamW(**ADAMW, cautious=True, eps=1e-30)
TURNING = AdamW(learning_rate=0.01, weight_decay=0.0, hyperball=True)
AHEAD = AdamW(**ADAMW, outer=Lookahead(every=4))
OUTER = AdamW(**ADAMW, outer=OuterNesterov(every=4))
MINI = AdamMini(**ADAMW)
CURVED = SophiaG(**ADAMW, refresh_every=4)
TURNED = SOAP(learning_rate=0.01, weight_decay=0.0, refresh_every=3)
# The authors decay after their step, so that their rate and decay are these (lmjax/optim/soap.py).
TURNED_DECAYED = replace(
    TURNED, learning_rate=0.01 * (1 - 0.01 * 0.1), weight_decay=0.1 / (1 - 0.01 * 0.1)
)
RECTIFIED = RAdam(**ADAMW, eps=1e-15)
RMS = RMSProp(learning_rate=0.01)
NESTEROV = Adan(**ADAMW)
LAYERWISE = LAMB(**ADAMW)
RELATIVE = LARS(learning_rate=0.05, weight_decay=0.1, coefficient=1.0)
MODIFIED = ADOPT(**ADAMW)
ESTIMATE: dict[str, Any] = {"weight_decay": 0.1, "first_estimate": 0.05}
OWN = Prodigy(**ESTIMATE)
CORRECTED = replace(OWN, bias_correction=True, growth=4.0, first_estimate=0.01)
ADAPTED = DAdaptAdamW(**ESTIMATE)
FREE_SGD = ScheduleFreeSGD(learning_rate=0.05, weight_decay=0.1)
MOONLIGHT = DMuon(learning_rate=0.02, newton_schulz_dtype="float64")

ROWS: dict[str, Row] = {
    "sgd": Row(SGD(learning_rate=0.05), (SGD(learning_rate=0.0501),)),
    "momentum": Row(
        Momentum(learning_rate=0.05),
        (Momentum(learning_rate=0.05, momentum=0.901), Nesterov(learning_rate=0.05)),
    ),
    "nesterov": Row(
        Nesterov(learning_rate=0.05),
        (Nesterov(learning_rate=0.05, momentum=0.901), Momentum(learning_rate=0.05)),
    ),
    "adamw": Row(
        AdamW(**ADAMW),
        (
            AdamW(**ADAMW, b1=0.901),
            AdamW(**ADAMW, b2=0.99),
            AdamW(**ADAMW, eps=1e-4),
            AdamW(learning_rate=0.01, weight_decay=0.101),
            NAdamW(**ADAMW),
        ),
    ),
    "nadamw": Row(
        NAdamW(**ADAMW),
        (NAdamW(**ADAMW, b1=0.901), NAdamW(**ADAMW, b2=0.99), NAdamW(**ADAMW, eps=1e-4)),
    ),
    "adafactor": Row(
        FACTOR,
        (
            replace(FACTOR, decay_exponent=0.81),
            replace(FACTOR, clip_threshold=1.1),
            replace(FACTOR, least_scale=2.0),
            replace(FACTOR, scale_by_parameter=False),
            replace(FACTOR, factored_from=5),
            replace(FACTOR, weight_decay=0.101),
        ),
    ),
    "lion": Row(
        Lion(learning_rate=0.003, weight_decay=0.1),
        (
            Lion(learning_rate=0.003, weight_decay=0.1, b1=0.8),
            Lion(learning_rate=0.003, weight_decay=0.1, b2=0.95),
            Lion(learning_rate=0.003, weight_decay=0.101),
        ),
    ),
    "ademamix": Row(
        AdEMAMix(**SLOW),
        (
            AdEMAMix(**SLOW, b1=0.901),
            AdEMAMix(**SLOW, b2=0.99),
            AdEMAMix(**SLOW, b3=0.999),
            AdEMAMix(**ADAMW, alpha=4.0),
            AdEMAMix(**SLOW, eps=1e-4),
        ),
    ),
    "ademamix_warmed_up": Row(
        AdEMAMix(**SLOW, slow_warmup_steps=12),
        (AdEMAMix(**SLOW, slow_warmup_steps=13), AdEMAMix(**SLOW)),
    ),
    "muon": Row(
        Muon(**MUON),
        (
            Muon(**MUON, momentum=0.951),
            Muon(**MUON, nesterov=False),
            Muon(**MUON, newton_schulz_steps=6),
            Muon(weight_decay=0.101, newton_schulz_dtype="float64"),
            Muon(weight_decay=0.1, newton_schulz_dtype="bfloat16"),
            Muon(**MUON, auxiliary=Auxiliary(b2=0.99)),
            MuonOptax(weight_decay=0.1),
        ),
    ),
    "schedule_free": Row(
        FREE,
        (replace(FREE, b1=0.901), replace(FREE, b2=0.99), replace(FREE, eps=1e-4), AdamW(**ADAMW)),
        factor=warm_up,
    ),
    "schedule_free_falling": Row(FREE, (replace(FREE, b1=0.901),), factor=warm_up_and_fall),
    "mars": Row(
        VARIANCE,
        (
            replace(VARIANCE, b1=0.951),
            replace(VARIANCE, b2=0.98),
            replace(VARIANCE, eps=1e-4),
            replace(VARIANCE, gamma=0.026),
            replace(VARIANCE, auxiliary=Auxiliary(b2=0.99)),
            AdamW(**ADAMW, b1=0.95, b2=0.99),
        ),
        gradient=times(0.12),
        wrong_gradient=times(0.24),  # had no norm been below 1, this would not show
    ),
    "mars_exact": Row(
        replace(VARIANCE, exact=True),
        (VARIANCE, replace(VARIANCE, exact=True, gamma=0.03)),
        gradient=lambda params, stored: 0.12 * (params - stored),
    ),
    "soap": Row(
        TURNED,
        (
            replace(TURNED, b1=0.951),
            replace(TURNED, b2=0.951),
            replace(TURNED, factor_decay=0.951),
            replace(TURNED, eps=1e-4),
            replace(TURNED, refresh_every=4),
            replace(TURNED, longest_side=4),
        ),
    ),
    "soap_decayed": Row(TURNED_DECAYED, (replace(TURNED, weight_decay=0.1),)),
    "soap_one_side": Row(
        replace(TURNED, longest_side=5),
        (replace(TURNED, longest_side=3), replace(TURNED, longest_side=5, refresh_every=4)),
    ),
    "radam": Row(
        RECTIFIED,
        (
            replace(RECTIFIED, b1=0.901),
            replace(RECTIFIED, b2=0.998),
            replace(RECTIFIED, eps=1e-2),
            AdamW(**ADAMW, eps=1e-15),
        ),
    ),
    "rmsprop": Row(RMS, (replace(RMS, decay=0.901), replace(RMS, eps=1e-4))),
    "rmsprop_momentum": Row(
        replace(RMS, momentum=0.9), (replace(RMS, momentum=0.901), replace(RMS, momentum=0.0))
    ),
    "adan": Row(
        NESTEROV,
        (
            replace(NESTEROV, b1=0.981),
            replace(NESTEROV, b2=0.921),
            replace(NESTEROV, b3=0.991),
            replace(NESTEROV, eps=1e-4),
        ),
    ),
    "signum": Row(
        Signum(learning_rate=0.01),
        (Signum(learning_rate=0.01, momentum=0.8), Signum(learning_rate=0.0101)),
    ),
    "lamb": Row(
        LAYERWISE,
        (
            replace(LAYERWISE, b1=0.901),
            replace(LAYERWISE, b2=0.998),
            replace(LAYERWISE, eps=1e-3),
            replace(LAYERWISE, weight_decay=0.101),
            AdamW(**ADAMW, eps=1e-6),
        ),
    ),
    "lars": Row(
        RELATIVE,
        (
            replace(RELATIVE, momentum=0.901),
            replace(RELATIVE, weight_decay=0.101),
            replace(RELATIVE, coefficient=1.01),
        ),
    ),
    "adopt": Row(
        MODIFIED,
        (
            replace(MODIFIED, b1=0.901),
            replace(MODIFIED, b2=0.99),
            replace(MODIFIED, eps=0.5),
            replace(MODIFIED, clipped=False),
        ),
    ),
    "prodigy": Row(
        OWN,
        (
            replace(OWN, b1=0.901),
            replace(OWN, b2=0.99),
            replace(OWN, b3=0.99),
            replace(OWN, eps=1e-2),
            replace(OWN, first_estimate=0.0501),
            replace(OWN, weight_decay=0.11),
            replace(OWN, bias_correction=True),
        ),
    ),
    "prodigy_corrected": Row(
        CORRECTED,
        (replace(CORRECTED, growth=4.1), replace(CORRECTED, learning_rate=0.99)),
        factor=fall,
    ),
    "dadapt": Row(
        ADAPTED,
        (
            replace(ADAPTED, b1=0.901),
            replace(ADAPTED, b2=0.99),
            replace(ADAPTED, eps=1e-2),
            replace(ADAPTED, first_estimate=0.0501),
            replace(ADAPTED, weight_decay=0.11),
        ),
    ),
    "dadapt_corrected": Row(replace(ADAPTED, bias_correction=True), (ADAPTED,)),
    "schedule_free_sgd": Row(
        FREE_SGD,
        (replace(FREE_SGD, momentum=0.901), replace(FREE_SGD, weight_decay=0.101)),
        factor=warm_up,
    ),
    "d_muon": Row(
        MOONLIGHT,
        (
            replace(MOONLIGHT, momentum=0.951),
            replace(MOONLIGHT, nesterov=False),
            replace(MOONLIGHT, rms=0.21),
            replace(MOONLIGHT, newton_schulz_steps=6),
            Muon(**MUON),
        ),
    ),
    **MATRIX_ROWS,
    "cautious": Row(CAUTIOUS, (replace(CAUTIOUS, cautious=False), replace(CAUTIOUS, eps=1e-4))),
    "hyperball": Row(
        TURNING,
        (replace(TURNING, hyperball=False), replace(TURNING, eps=1e-4), replace(TURNING, b1=0.901)),
    ),
    "lookahead": Row(
        AHEAD,
        (
            replace(AHEAD, outer=Lookahead(every=5)),
            replace(AHEAD, outer=Lookahead(every=4, share=0.81)),
            replace(AHEAD, outer=Outer()),
        ),
    ),
    "outer_nesterov": Row(
        OUTER,
        (
            replace(OUTER, outer=OuterNesterov(every=5)),
            replace(OUTER, outer=OuterNesterov(every=4, rate=0.71)),
            replace(OUTER, outer=OuterNesterov(every=4, momentum=0.91)),
            replace(OUTER, outer=Lookahead(every=4, share=0.7)),
        ),
    ),
    "adam_mini": Row(
        MINI,
        (
            replace(MINI, b1=0.901),
            replace(MINI, b2=0.99),
            replace(MINI, eps=1e-4),
            replace(MINI, weight_decay=0.101),
            AdamW(**ADAMW),
        ),
    ),
    "sophia_g": Row(
        CURVED,
        (
            replace(CURVED, b1=0.966),
            replace(CURVED, b2=0.991),
            replace(CURVED, rho=0.041),
            replace(CURVED, refresh_every=5),
            replace(CURVED, weight_decay=0.101),
        ),
    ),
    "mars_lion": Row(
        SIGNS,
        (
            replace(SIGNS, b1=0.96),
            replace(SIGNS, gamma=0.05),
            replace(SIGNS, weight_decay=0.101),
            replace(SIGNS, exact=True),
            replace(SIGNS, auxiliary=Auxiliary(b2=0.99)),
            Lion(**ADAMW, b1=0.95, b2=0.95),
        ),
        gradient=times(0.12),
        wrong_gradient=times(0.24),
    ),
}
