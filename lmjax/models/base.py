"""What a task needs of a model."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

from flax import linen as nn
from jaxtyping import Array, Float

from lmjax.errors import check_integer
from lmjax.parts import Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Part):
    """The settings of one family of models.

    The module that `build` returns maps inputs to logits by `__call__(inputs, *, train)`, names the
    axes of every parameter (lmjax/roles.py) and of its main activations (`constrain`), computes in
    the dtype of its parameters and knows neither mesh nor loss. Anything with the same init and
    apply will do.
    """

    def build(self) -> Any:
        """The module."""
        raise NotImplementedError

    def attention_width(self) -> int | None:
        """Layers times heads times the size of a head, by which the conventions of lmjax/flops.py
        count attention; None = they do not fit this model, and its operations are counted."""
        return None


Cache = dict[str, Array]
"""What a model keeps of the tokens that it has read, so that it can go on from them:
keys    [L, B, G, S, K], for L layers, B rows, G heads of width K, S positions
values  the same
length  int32 [B]: positions that each row has filled. The next tokens are written there, and see
        nothing that lies beyond; so a row whose prompt was padded at its end is put right by
        setting its length back to that of the prompt.
Positions beyond S are dropped, so who calls leaves room.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenModel(Model):
    """Token ids int32 [B, T] to logits [B, T, vocab_size].

    The module also takes by name what `takes` says (lmjax/data/batch.py), and `cache`, with which
    it returns (logits, cache).
    """

    takes: ClassVar[tuple[str, ...]] = ("segments", "positions")  # of a batch, beside its inputs
    separable: ClassVar[bool] = False  # it takes head=False, with which it returns Headless

    vocab_size: int = 256  # number of token ids
    max_length: int = 128  # longest sequence, positions

    def validate(self) -> None:
        check_integer("vocab_size", self.vocab_size, least=1)
        check_integer("max_length", self.max_length, least=1)

    def init_cache(self, batch: int, size: int, dtype: Any) -> Cache | None:
        """An empty cache for `size` positions; None = this model has none and writes no text."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(Model):
    """Examples float32 [B, ...] to logits [B, classes]."""

    classes: int = 10  # number of outputs

    def validate(self) -> None:
        check_integer("classes", self.classes, least=2)


def named(initializer: Any, *axes: str) -> Any:
    """An initializer that names the axes of the parameter it makes."""
    return nn.with_partitioning(initializer, axes)


class Headless(NamedTuple):
    """What a model that is asked to leave out its head returns, so that a loss can apply it.

    Logits are x @ head, capped where `cap` is not 0; those beyond `vocab_size` are padding.
    """

    x: Float[Array, "B T D"]
    head: Float[Array, "D W"]  # W >= vocab_size
    cap: float
    vocab_size: int


ROWS = "rows"  # Flax's stream of keys from which each row of a batch takes its own
