"""A configuration as JSON: written with every default expanded, read back, digested, compared.

Reading constructs only subclasses of Part that are already imported, chosen by their label;
nothing is imported by a name that stands in a file.
"""

import hashlib
import json
import typing
from typing import Any, TypeVar

from lmjax.errors import InputError, is_finite, unknown
from lmjax.parts import Part, alternatives, field_types

P = TypeVar("P", bound=Part)
PART = "part"  # the key that holds a part's label


def to_record(part: Part, free: bool = True) -> dict[str, Any]:
    """The whole tree as plain JSON values; `free` = False leaves out what decides no number."""
    record: dict[str, Any] = {PART: part.label}
    for name, value in part.children():
        if free or name not in part.free_fields:
            record[name] = to_record(value, free) if isinstance(value, Part) else value
    return record


def from_record(base: type[P], record: Any, path: str = "config") -> P:
    """The part that `record` describes, which must be an alternative of `base`."""
    if not isinstance(record, dict) or PART not in record:
        raise InputError(f"{path}: not the record of a {base.__name__}")
    choices: dict[str, Any] = alternatives(base)
    if not isinstance(record[PART], str) or record[PART] not in choices:
        raise unknown(f"{path} part", str(record[PART]), choices)
    cls = choices[record[PART]]
    types = field_types(cls)
    given = {name: value for name, value in record.items() if name != PART}
    if given.keys() != types.keys():
        odd = sorted(given.keys() ^ types.keys())
        raise InputError(f"{path}: fields missing or unexpected: {', '.join(odd)}")
    values = {}
    for name, value in given.items():
        kind, where = types[name], f"{path}.{name}"
        if isinstance(kind, type) and issubclass(kind, Part):
            values[name] = from_record(kind, value, where)
        else:
            values[name] = _plain(kind, value, where)
    return cls(**values)


def _plain(kind: Any, value: Any, path: str) -> Any:
    """A JSON value as the declared type, or an error that says which was found."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, (list, tuple)):  # of JSON, or not yet it
        return tuple(_plain(args[0], item, path) for item in value)
    if origin is typing.Literal and value in args:
        return value
    if kind is float and (type(value) is float or (type(value) is int and is_finite(value))):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise InputError(f"{path} = {value!r}: must be {getattr(kind, '__name__', kind)}")


def canonical(record: Any) -> str:
    """The one text of a record, equal for equal records."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(record: Any) -> str:
    """SHA-256 of the canonical text, in hex."""
    return hashlib.sha256(canonical(record).encode()).hexdigest()


def difference(old: Part, new: Part) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (old, new) of every field that differs; a swapped part shows its label."""
    return record_difference(to_record(old), to_record(new))


def record_difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (old, new) of every field in which two records differ; None = it has none.

    A tuple and the list that JSON makes of it are the same.
    """
    before, after = flat_record(old), flat_record(new)
    found = {path: (before.get(path), after.get(path)) for path in [*before, *after]}
    return {path: (was, now) for path, (was, now) in found.items() if _listed(was) != _listed(now)}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def flat_record(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value of every field of a record as `to_record` makes it; a part's label."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{prefix}{name}": value[PART]} if PART in value else {}
            flat |= flat_record(value, f"{prefix}{name}.")
        elif name != PART:
            flat[f"{prefix}{name}"] = value
    return flat
