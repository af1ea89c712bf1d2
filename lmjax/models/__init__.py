"""Models, one family a file. To be imported here is to be selectable as task.model:LABEL."""

from lmjax.models.base import Classifier, Model, TokenModel
from lmjax.models.gpt import GPT
from lmjax.models.mlp import MLP
from lmjax.models.simple_fcn import SimpleFCN

__all__ = ["GPT", "MLP", "Classifier", "Model", "SimpleFCN", "TokenModel"]
