"""A published layout of weights as a table that is read both ways.

A row of `tensors` joins one tensor of theirs to the part of our parameter that it holds; a row of
`settings` joins one field of their config.json to what our model makes of it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lmjax.models.decoder import Decoder


class Tensor(NamedTuple):
    """One tensor of theirs, or where its name has `{}` for a number, one in every layer.

    `ours` has a letter for each axis of our parameter (without that of the layers), or the index
    at which the tensor lies along it. `theirs` has the same letters in their order; those that
    they flatten into one axis are not spaced. So a fused projection of ours holds, as theirs do,
        "D H S K" -> "D SHK"    q, k and v, all in one tensor, or
        "D H 0 K" -> "HK D"     q alone, as [output, input].
    """

    path: str  # of our parameter
    ours: str
    name: str  # of their tensor
    theirs: str

    @property
    def stacked(self) -> bool:
        """Whether there is one in every layer."""
        return "{}" in self.name

    def view(self, x: np.ndarray) -> np.ndarray:
        """The part of our parameter (of one layer) that this tensor holds, axes in their order."""
        kept = [letter for letter in self.ours.split() if not letter.isdigit()]
        at = tuple(int(a) if a.isdigit() else slice(None) for a in self.ours.split())
        return x[at].transpose([kept.index(letter) for letter in self.theirs.replace(" ", "")])

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theirs, of the shape of our parameter (of one layer)."""
        sizes = dict(zip(self.ours.split(), ours, strict=True))
        return tuple(
            int(np.prod([sizes[letter] for letter in axis])) for axis in self.theirs.split()
        )


class Piece(NamedTuple):
    """One tensor of a folder, and where it lies in our parameter."""

    tensor: Tensor
    name: str  # of their tensor, with the number of its layer
    layer: int | None  # None = the parameter has no axis of layers

    def of(self, x: np.ndarray) -> np.ndarray:
        """Its part of our whole parameter, a view with axes in their order."""
        return self.tensor.view(x if self.layer is None else x[self.layer])

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Its shape, of that of our whole parameter."""
        return self.tensor.shape(ours if self.layer is None else ours[1:])


class Setting(NamedTuple):
    """One field of their config.json."""

    name: str
    value: Callable[[Decoder], Any]  # what our model makes of it
    absent: Callable[[Decoder], Any] | None = None  # what they take where it is missing or null
    at_least: bool = False  # theirs may be larger


@dataclasses.dataclass(frozen=True)
class Layout:
    """How transformers keeps one family of models."""

    model_type: str
    architecture: str  # their class
    prefix: str  # of names, which files of the bare decoder leave out
    buffers: tuple[str, ...]  # ends of names of constants that older files hold
    needs: Callable[[Decoder], dict[str, Any]]  # attribute of our model -> the value it must have
    settings: tuple[Setting, ...]
    unchecked: Callable[[Decoder], dict[str, Any]]  # further fields of the config.json we write
    tensors: tuple[Tensor, ...]
    embedding: str  # of their names, the one to which a head may be tied
    head: str  # the name of that head

    def pieces(self, path: str, shape: tuple[int, ...]) -> Iterator[Piece]:
        """What makes up our parameter at this path."""
        for tensor in self.tensors:
            if tensor.path == path:
                for layer in range(shape[0]) if tensor.stacked else [None]:
                    yield Piece(tensor, tensor.name.format(layer), layer)

    def shapes(self, parameters: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Name of their tensor -> shape, for the shapes of all our parameters by path."""
        found: dict[str, tuple[int, ...]] = {}
        for path, shape in parameters.items():
            pieces = list(self.pieces(path, shape))
            if not pieces:
                raise ValueError(f"layout {self.model_type} has no row for parameter {path}")
            for piece in pieces:
                found[piece.name] = piece.shape(shape)
        return found

    def config(self, model: Any) -> dict[str, Any]:
        """The config.json of a model."""
        return {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            **{setting.name: setting.value(model) for setting in self.settings},
            **self.unchecked(model),
        }
