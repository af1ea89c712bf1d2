"""Optimizers, one algorithm a file. To be imported here is to be selectable as optimizer:LABEL."""

from lmjax.optim.adafactor import Adafactor
from lmjax.optim.adamw import AdamW
from lmjax.optim.ademamix import AdEMAMix
from lmjax.optim.dion2 import Dion2
from lmjax.optim.kron import Kron
from lmjax.optim.lion import Lion
from lmjax.optim.mars import MARS
from lmjax.optim.momentum import Momentum, Nesterov
from lmjax.optim.muon import Muon
from lmjax.optim.muon_optax import MuonOptax
from lmjax.optim.nadamw import NAdamW
from lmjax.optim.normuon import NorMuon
from lmjax.optim.recipe import Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.schedule_free import ScheduleFreeAdamW
from lmjax.optim.schedules import WSD, Constant, Cosine, Linear, Schedule
from lmjax.optim.scion import Scion, ScionLight
from lmjax.optim.sgd import SGD
from lmjax.optim.shampoo import Shampoo
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
    "Dion2",
    "Kron",
    "Linear",
    "Lion",
    "LogGrid",
    "Momentum",
    "Muon",
    "MuonOptax",
    "NAdamW",
    "Nesterov",
    "NorMuon",
    "Optimizer",
    "Reference",
    "Schedule",
    "ScheduleFreeAdamW",
    "Scion",
    "ScionLight",
    "Shampoo",
    "Space",
    "check_space",
]
