"""Optimizers, one algorithm a file. To be imported here is to be selectable as optimizer:LABEL."""

from lmjax.optim.adafactor import Adafactor
from lmjax.optim.adamw import AdamW
from lmjax.optim.ademamix import AdEMAMix
from lmjax.optim.lion import Lion
from lmjax.optim.mars import MARS
from lmjax.optim.momentum import Momentum, Nesterov
from lmjax.optim.muon import Muon
from lmjax.optim.muon_optax import MuonOptax
from lmjax.optim.nadamw import NAdamW
from lmjax.optim.outer import Lookahead, Outer, OuterNesterov
from lmjax.optim.recipe import Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.schedule_free import ScheduleFreeAdamW
from lmjax.optim.schedules import WSD, Constant, Cosine, Linear, Schedule
from lmjax.optim.sgd import SGD
from lmjax.optim.soap import SOAP
from lmjax.optim.space import Choice, LogGrid, Space, check_space

__all__ = [
    "MARS",
    "SGD",
    "SOAP",
    "WSD",
    "AdEMAMix",
    "Adafactor",
    "AdamW",
    "Choice",
    "Constant",
    "Cosine",
    "Linear",
    "Lion",
    "LogGrid",
    "Lookahead",
    "Momentum",
    "Muon",
    "MuonOptax",
    "NAdamW",
    "Nesterov",
    "Optimizer",
    "Outer",
    "OuterNesterov",
    "Reference",
    "Schedule",
    "ScheduleFreeAdamW",
    "Space",
    "check_space",
]
