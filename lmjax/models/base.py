"""What a task needs of a model."""

import dataclasses
from typing import Any

from flax import linen as nn

from lmjax.errors import check_integer
from lmjax.parts import Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Part):
    """The settings of one family of models.

    The module that `build` returns maps inputs to logits by `__call__(inputs, *, train)`, names the
    axes of every parameter (lmjax/roles.py), computes in the dtype of its parameters and knows
    neither mesh nor loss. Anything with the same init and apply will do.
    """

    def build(self) -> Any:
        """The module."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenModel(Model):
    """Token ids int32 [B, T] to logits [B, T, vocab_size]."""

    vocab_size: int = 256  # number of token ids
    max_length: int = 128  # longest sequence, positions

    def validate(self) -> None:
        check_integer("vocab_size", self.vocab_size, least=1)
        check_integer("max_length", self.max_length, least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(Model):
    """Examples float32 [B, ...] to logits [B, classes]."""

    classes: int = 10  # number of outputs

    def validate(self) -> None:
        check_integer("classes", self.classes, least=2)


def named(initializer: Any, *axes: str) -> Any:
    """An initializer that names the axes of the parameter it makes."""
    return nn.with_partitioning(initializer, axes)
