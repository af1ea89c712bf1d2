"""Models, one family a file. To be imported here is to be selectable as task.model:LABEL."""

from lmjax.models.base import Cache, Classifier, Model, TokenModel
from lmjax.models.gpt import GPT
from lmjax.models.llama import Llama
from lmjax.models.mlp import MLP
from lmjax.models.resnet import ResNet
from lmjax.models.simple_fcn import SimpleFCN

__all__ = [
    "GPT",
    "MLP",
    "Cache",
    "Classifier",
    "Llama",
    "Model",
    "ResNet",
    "SimpleFCN",
    "TokenModel",
]
