"""Where what is computed lies on the devices, said by names and without knowing the mesh.

Models and optimizers name the axes of their arrays; `placing` says how those lie while a program is
traced (lmjax/mesh.py: OnMesh), or that nothing is to be laid out.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array

Axes = tuple[str, ...]  # names of an array's axes (lmjax/roles.py)


@runtime_checkable
class Placement(Protocol):
    """Where arrays lie on a mesh."""

    @property
    def device(self) -> Any:
        """One of the devices, which are all of a kind."""
        ...

    def place(self, x: Array, axes: Axes) -> Array:
        """x, laid out as the names of its axes say."""
        ...

    def shares(self, axis: str) -> int:
        """Over how many devices an axis of that name is cut."""
        ...

    def per_device(self, function: Any, ins: Sequence[Axes], out: Any) -> Any:
        """The function, applied by each device to its own part of its arguments."""
        ...

    def note(self, topic: str, told: str) -> None:
        """Something was decided while the program was traced."""
        ...


_placement: contextvars.ContextVar[Placement | None] = contextvars.ContextVar(
    "placement", default=None
)


@contextlib.contextmanager
def placing(placement: Placement) -> Iterator[None]:
    """Within it, models and optimizers lay their arrays out so."""
    token = _placement.set(placement)
    try:
        yield
    finally:
        _placement.reset(token)


class OnPaper:
    """No device and no mesh: what is traced within is looked at, and never run."""

    device = None

    def place(self, x: Array, axes: Axes) -> Array:
        return x

    def shares(self, axis: str) -> int:
        return 1

    def per_device(self, function: Any, ins: Sequence[Axes], out: Any) -> Any:
        return function

    def note(self, topic: str, told: str) -> None:
        pass


def constrain(x: Array, *axes: str) -> Array:
    """x, laid out over the mesh as the names of its axes say (lmjax/roles.py).

    Where nobody has said how (`placing`), x itself.
    """
    placement = _placement.get()
    return x if placement is None else placement.place(x, axes)


def shares(axis: str) -> int:
    """Over how many devices an axis of that name is cut."""
    placement = _placement.get()
    return 1 if placement is None else placement.shares(axis)


def device() -> Any:
    """One of the devices that what is traced now will run on; None = on none."""
    placement = _placement.get()
    return jax.devices()[0] if placement is None else placement.device


def per_device(function: Any, ins: Sequence[Axes], out: Any) -> Any:
    """The function, applied by each device to its own part of its arguments.

    `ins` and `out` name the axes of arguments and results. Where nobody has said how things lie,
    the function itself.
    """
    placement = _placement.get()
    return function if placement is None else placement.per_device(function, ins, out)


def note(topic: str, told: str) -> None:
    """Tell whoever compiles the program what was decided for it."""
    placement = _placement.get()
    if placement is not None:
        placement.note(topic, told)
