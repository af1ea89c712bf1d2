"""Optimizers, one algorithm a file. To be imported here is to be selectable as optimizer:LABEL."""

from lmjax.optim.adafactor import Adafactor
from lmjax.optim.adam_mini import AdamMini
from lmjax.optim.adamw import AdamW
from lmjax.optim.adan import Adan
from lmjax.optim.ademamix import AdEMAMix
from lmjax.optim.adopt import ADOPT
from lmjax.optim.d_muon import DMuon
from lmjax.optim.dadapt_adamw import DAdaptAdamW
from lmjax.optim.dion2 import Dion2
from lmjax.optim.kron import Kron
from lmjax.optim.lamb import LAMB
from lmjax.optim.lars import LARS
from lmjax.optim.lbfgs import LBFGS
from lmjax.optim.lion import Lion
from lmjax.optim.mars import MARS
from lmjax.optim.mars_lion import MARSLion
from lmjax.optim.momentum import Momentum, Nesterov
from lmjax.optim.muon import Muon
from lmjax.optim.muon_optax import MuonOptax
from lmjax.optim.nadamw import NAdamW
from lmjax.optim.normuon import NorMuon
from lmjax.optim.outer import Lookahead, Outer, OuterNesterov
from lmjax.optim.prodigy import Prodigy
from lmjax.optim.radam import RAdam
from lmjax.optim.recipe import Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.rmsprop import RMSProp
from lmjax.optim.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from lmjax.optim.schedules import (
    REX,
    WSD,
    Constant,
    Cosine,
    Exponential,
    InfiniteCosine,
    InverseSqrt,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Restarts,
    Schedule,
)
from lmjax.optim.scion import Scion, ScionLight
from lmjax.optim.sgd import SGD
from lmjax.optim.shampoo import Shampoo
from lmjax.optim.signum import Signum
from lmjax.optim.soap import SOAP
from lmjax.optim.sophia_g import SophiaG
from lmjax.optim.sophia_h import SophiaH
from lmjax.optim.space import Choice, LogGrid, Space, check_space

__all__ = [
    "ADOPT",
    "LAMB",
    "LARS",
    "LBFGS",
    "MARS",
    "REX",
    "SGD",
    "SOAP",
    "WSD",
    "AdEMAMix",
    "Adafactor",
    "AdamMini",
    "AdamW",
    "Adan",
    "Choice",
    "Constant",
    "Cosine",
    "DAdaptAdamW",
    "DMuon",
    "Dion2",
    "Exponential",
    "InfiniteCosine",
    "InverseSqrt",
    "Kron",
    "Linear",
    "Lion",
    "LogGrid",
    "Lookahead",
    "MARSLion",
    "Momentum",
    "Muon",
    "MuonOptax",
    "NAdamW",
    "Nesterov",
    "NorMuon",
    "OneCycle",
    "Optimizer",
    "Outer",
    "OuterNesterov",
    "Piecewise",
    "Polynomial",
    "Prodigy",
    "RAdam",
    "RMSProp",
    "Reference",
    "Restarts",
    "Schedule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Scion",
    "ScionLight",
    "Shampoo",
    "Signum",
    "SophiaG",
    "SophiaH",
    "Space",
    "check_space",
]
