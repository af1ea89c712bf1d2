"""A configuration is a tree of parts: frozen dataclasses that can be listed, swapped and checked.

A part is pluggable by being a subclass: the alternatives of a field are the imported subclasses
of its declared type, so re-exporting one from its package is all that makes it selectable, and a
part that an experiment's own module defines is as good as one of ours.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from lmjax.errors import FieldError, unknown

P = TypeVar("P", bound="Part")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A frozen dataclass whose fields are settings and whose methods build the thing."""

    label: ClassVar[str] = ""  # its name on the command line and in the record; "" = abstract
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # name -> fields of a well-known size

    def validate(self) -> None:
        """Raise FieldError for a value that can never work."""

    @property
    def free_fields(self) -> frozenset[str]:
        """Fields that a run may change when it goes on: they do not decide its numbers."""
        return frozenset()

    def children(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of each field, in order of declaration."""
        for field in dataclasses.fields(self):
            yield field.name, getattr(self, field.name)


def alternatives(base: type[Part]) -> dict[str, type[Part]]:
    """Label -> class, of every concrete subclass of `base` that has been imported."""
    found = {base.label: base} if base.label else {}
    for subclass in base.__subclasses__():
        found |= alternatives(subclass)
    return found


def choices(base: type[Part]) -> dict[str, Callable[[], Part]]:
    """Name -> what builds it: each alternative from its defaults, and each of their presets."""
    found: dict[str, Callable[[], Part]] = {}
    for label, cls in alternatives(base).items():
        found[label] = cls
        for name, fields in cls.presets.items():
            found[name] = functools.partial(cls, **fields)
    return found


def validate(part: Part) -> None:
    """Check a whole tree, children first; errors carry the full path of the field."""
    for name, value in part.children():
        if isinstance(value, Part):
            try:
                validate(value)
            except FieldError as error:
                raise error.under(name) from None
    part.validate()


def field_types(part: Part | type[Part]) -> dict[str, Any]:
    """Name -> declared type of each field, with annotations resolved."""
    cls = part if isinstance(part, type) else type(part)
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def is_free(part: Part, path: str) -> bool:
    """Whether the field at a dotted path, or a part around it, decides none of a run's numbers."""
    name, _, rest = path.partition(".")
    if name in part.free_fields:
        return True
    child = getattr(part, name) if name in field_types(part) else None
    return bool(rest) and isinstance(child, Part) and is_free(child, rest)


def leaves(part: Part, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (declared type, value) of every field that is not itself a part."""
    types, found = field_types(part), {}
    for name, value in part.children():
        if isinstance(value, Part):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = (types[name], value)
    return found


def sockets(part: Part, prefix: str = "") -> dict[str, type[Part]]:
    """Dotted path -> declared type of every field that holds a part, and so can be swapped."""
    types, found = field_types(part), {}
    for name, value in part.children():
        if isinstance(value, Part):
            found[prefix + name] = types[name]
            found |= sockets(value, f"{prefix}{name}.")
    return found


def replace(part: P, path: str, value: Any) -> P:
    """A copy of the tree with the field at the dotted path changed."""
    name, _, rest = path.partition(".")
    if rest:
        value = replace(getattr(part, name), rest, value)
    return dataclasses.replace(part, **{name: value})


def swap(part: P, path: str, label: str) -> P:
    """A copy of the tree with the part at `path` replaced by the alternative or preset `label`.

    Every part can be built from its own defaults, and that is where the new one starts.
    """
    known = sockets(part)
    if path not in known:
        raise unknown("part", path, known)
    found = choices(known[path])
    if label not in found:
        raise unknown(path, label, found)
    return replace(part, path, found[label]())
