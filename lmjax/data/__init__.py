"""Data sets. To be imported here is to be selectable as data:LABEL."""

from lmjax.data.batch import Batch, Data, Dataset
from lmjax.data.bpe import BPE
from lmjax.data.examples import Examples
from lmjax.data.mixture import Mixture
from lmjax.data.tokenizer import Bytes, Tokenizer
from lmjax.data.tokens import Tokens

__all__ = [
    "BPE",
    "Batch",
    "Bytes",
    "Data",
    "Dataset",
    "Examples",
    "Mixture",
    "Tokenizer",
    "Tokens",
]
