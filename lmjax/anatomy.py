"""A traced train step in four parts, each with a digest, to tell which of them has changed.

prepare   what comes before the model: keys, augmentation
forward   the model and its loss
gradient  their transposition
update    what is made of the gradient: norms, the optimizer

JAX notes of every operation in which modules and under which transformations it was traced: jvp in
the forward pass, transpose of jvp in the backward pass. That is not an interface, so a part is
evidence, not proof. A digest is over the operations of a module in a part, in their order: their
parameters, literals, shapes, dtypes, and which operation of the same module each input comes from.
Where arrays lie does not count, so that a part has one digest on any mesh.
"""

import enum
import hashlib
import re
from collections import Counter
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import Literal as Constant

Name = Literal["prepare", "forward", "gradient", "update"]
NAMES: tuple[Name, ...] = get_args(Name)
PLACEMENT = {"sharding_constraint", "reshard"}  # operations that only say where an array lies
TRANSFORMATION = re.compile(r"\w+\(|\)")  # around the name of a module
LARGE = 2**16  # bytes of a constant whose content does not count


class PartOfStep(NamedTuple):
    """One of the four."""

    digest: str  # 16 hex digits
    operations: int
    dtypes: dict[str, int]  # dtype of floating-point results -> how many there are
    modules: dict[str, str]  # path of a module of the model -> digest, in the order of the program


def dissect(traced: ClosedJaxpr) -> dict[str, PartOfStep]:
    """The parts of a traced step by their names."""
    dissection = Dissection()
    dissection.walk(traced.jaxpr, traced.consts, None, "")
    return {name: dissection.part(name) for name in NAMES}


Place = tuple[Name, str]  # a part and a module in it
Origin = tuple[Place | None, str]  # where a value comes from, and what it is there


class Dissection:
    """Walks through a program and notes each operation at its place."""

    def __init__(self) -> None:
        self._stage: Name = "prepare"
        self._told: dict[Place, list[str]] = {}
        self._dtypes: dict[Name, Counter[str]] = {name: Counter() for name in NAMES}

    def part(self, name: Name) -> PartOfStep:
        told = {module: lines for (part, module), lines in self._told.items() if part == name}
        modules = {module: short("\n".join(lines)) for module, lines in told.items()}
        dtypes = dict(sorted(self._dtypes[name].items()))
        return PartOfStep(short(str(modules)), sum(map(len, told.values())), dtypes, modules)

    def walk(self, jaxpr: Jaxpr, consts: Any, outer: Name | None, within: str) -> None:
        """All operations of a program in the modules `within`, "" = the whole, and in the part
        `outer`, None = it has several."""
        origins: dict[Any, Origin] = {}  # of each variable
        for number, x in enumerate(jaxpr.invars):
            # Inside a loop, one operation less may leave all inputs with other numbers.
            origins[x] = None, "input" if within else f"input {number}"
        for x, value in zip(jaxpr.constvars, consts, strict=False):
            origins[x] = None, constant(value)
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in PLACEMENT:
                origins[eqn.outvars[0]] = origin(eqn.invars[0], origins)
                continue
            stack = str(eqn.source_info.name_stack)
            part, module = outer or self._part_of(stack), f"{within}/{stack}"
            inner = [each for value in eqn.params.values() for each in programs(value)]
            for each in inner:
                self.walk(
                    each.jaxpr, each.consts, part if outer or "jvp(" in stack else None, module
                )
            place = part, module_of(module)
            lines = self._told.setdefault(place, [])
            ins = [told(x, origin(x, origins), place) for x in eqn.invars]
            outs = [str(x.aval) for x in eqn.outvars]
            params = [(name, shown(value)) for name, value in sorted(eqn.params.items())]
            if inner:  # which say what it does
                params, ins, outs = [], [], []
            origins |= {x: (place, str(len(lines))) for x in eqn.outvars}
            lines.append(f"{eqn.primitive.name} {params} {ins} {outs}")
            self._dtypes[part].update([] if inner else floats(eqn.outvars))

    def _part_of(self, stack: str) -> Name:
        """By the marks of an operation or, where it has none, by what came before it."""
        if "transpose(" in stack:
            self._stage = "gradient"
        elif "jvp(" in stack:
            self._stage = "forward"
        elif self._stage == "gradient":
            self._stage = "update"
        return self._stage


def module_of(stack: str) -> str:
    """The modules of a stack of names, without transformations."""
    return "/".join(filter(None, TRANSFORMATION.sub("", stack).split("/")))


def origin(x: Any, origins: dict[Any, Origin]) -> Origin:
    """Where an input of an operation comes from."""
    return (None, repr(x.val)) if isinstance(x, Constant) else origins[x]


def told(x: Any, found: Origin, place: Place) -> str:
    """An input of an operation at a place; of what comes from another place, only which one."""
    source, what = found
    return f"{x.aval} {what if source in (place, None) else source}"


def short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def programs(value: Any) -> list[ClosedJaxpr]:
    """Those in a parameter of an operation."""
    if isinstance(value, ClosedJaxpr):
        return [value]
    if isinstance(value, Jaxpr):
        return [ClosedJaxpr(value, [])] if not value.constvars else []
    if isinstance(value, (tuple, list)):
        return [each for item in value for each in programs(item)]
    return []


def shown(value: Any) -> str:
    """A parameter of an operation, equal for equal ones in any process; of what is neither a plain
    value nor made of them, only its type."""
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), np.dtype, enum.Enum)):
        return str(value)
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(shown, value))})"
    if isinstance(value, (set, frozenset)):
        return f"({', '.join(sorted(map(shown, value)))})"
    if isinstance(value, dict):
        return shown(sorted((str(name), shown(each)) for name, each in value.items()))
    return constant(value) if isinstance(value, np.ndarray) else type(value).__name__


def constant(value: Any) -> str:
    """An array that a program holds."""
    shape, dtype = np.shape(value), getattr(value, "dtype", type(value).__name__)
    small = isinstance(dtype, np.dtype) and value.nbytes <= LARGE
    content = hashlib.sha256(np.asarray(value).tobytes()).hexdigest()[:16] if small else ""
    return f"constant {dtype}{list(shape)} {content}"


def floats(variables: Any) -> list[str]:
    """The dtypes of those variables that hold floating-point numbers."""
    found = [getattr(x.aval, "dtype", None) for x in variables]
    return [str(x) for x in found if x is not None and jnp.issubdtype(x, jnp.floating)]
