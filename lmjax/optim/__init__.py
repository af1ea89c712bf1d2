"""Optimizers, one algorithm a file. To be imported here is to be selectable as optimizer:LABEL."""

from lmjax.optim.adafactor import Adafactor
from lmjax.optim.adam_mini import AdamMini
from lmjax.optim.adamw import AdamW
from lmjax.optim.ademamix import AdEMAMix
from lmjax.optim.lion import Lion
from lmjax.optim.mars import MARS
from lmjax.optim.mars_lion import MARSLion
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
from lmjax.optim.sophia_g import SophiaG
from lmjax.optim.space import Choice, LogGrid, Space, check_space

__all__ = [
    "MARS",
    "SGD",
    "SOAP",
    "WSD",
    "AdEMAMix",
    "Adafactor",
    "AdamMini",
    "AdamW",
    "Choice",
    "Constant",
    "Cosine",
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
    "Optimizer",
    "Outer",
    "OuterNesterov",
    "Reference",
    "Schedule",
    "ScheduleFreeAdamW",
    "SophiaG",
    "Space",
    "check_space",
]
