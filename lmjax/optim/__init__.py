"""Optimizers, one algorithm a file. To be imported here is to be selectable as optimizer:LABEL."""

from lmjax.optim.adamw import AdamW
from lmjax.optim.lion import Lion
from lmjax.optim.muon import Muon
from lmjax.optim.recipe import Optimizer
from lmjax.optim.schedules import WSD, Constant, Cosine, Linear, Schedule
from lmjax.optim.sgd import SGD

__all__ = [
    "SGD",
    "WSD",
    "AdamW",
    "Constant",
    "Cosine",
    "Linear",
    "Lion",
    "Muon",
    "Optimizer",
    "Schedule",
]
