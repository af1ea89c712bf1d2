"""Data sets. To be imported here is to be selectable as data:LABEL."""

from lmjax.data.batch import Batch, Data, Dataset
from lmjax.data.examples import Examples
from lmjax.data.tokens import Tokens

__all__ = ["Batch", "Data", "Dataset", "Examples", "Tokens"]
