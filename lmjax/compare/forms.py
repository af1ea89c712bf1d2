"""The form of a JSON value, and a check that names the field which does not have it.

What a form does not name may be there too: a newer report may say more.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lmjax.errors import InputError

LARGEST = 1e60  # float32 ends at 3e38; what is larger no axis can show


@runtime_checkable
class Form(Protocol):
    """Raises InputError for a value that does not have it."""

    def check(self, value: Any, path: str) -> None: ...


class Word(NamedTuple):
    """A string."""

    among: Sequence[str] = ()

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise _wrong(path, value, "must be a string")
        if self.among and value not in self.among:
            raise _wrong(path, value, f"must be one of {', '.join(self.among)}")


class Number(NamedTuple):
    """A finite number."""

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _wrong(path, value, "must be a number")
        if math.isnan(value) or abs(value) > LARGEST:
            raise _wrong(path, value, "must be a finite number")


class NumberOr(NamedTuple):
    """A finite number, however large, or one word."""

    word: str

    def check(self, value: Any, path: str) -> None:
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value != self.word and not (real and math.isfinite(value)):
            raise _wrong(path, value, f"must be a finite number or {self.word!r}")


class Whole(NamedTuple):
    """A whole number that is not negative."""

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
            raise _wrong(path, value, "must be a whole number >= 0")


class Flag(NamedTuple):
    """True or False."""

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, bool):
            raise _wrong(path, value, "must be true or false")


class Anything(NamedTuple):
    """Any JSON value."""

    def check(self, value: Any, path: str) -> None:
        """All are right."""


class Maybe(NamedTuple):
    """Null, or what has the form."""

    form: Form

    def check(self, value: Any, path: str) -> None:
        if value is not None:
            self.form.check(value, path)


class FalseOr(NamedTuple):
    """False, or what has the form."""

    form: Form

    def check(self, value: Any, path: str) -> None:
        if value is not False:
            self.form.check(value, path)


class Many(NamedTuple):
    """A list whose values all have the form."""

    form: Form
    least: int = 0

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, list) or len(value) < self.least:
            least = f" of at least {self.least}" if self.least else ""
            raise _wrong(path, value, f"must be a list{least}")
        for number, inner in enumerate(value):
            self.form.check(inner, f"{path}[{number}]")


class Tuple(NamedTuple):
    """A list with a form for each place."""

    forms: Sequence[Form]

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, list) or len(value) != len(self.forms):
            raise _wrong(path, value, f"must be a list of {len(self.forms)}")
        for number, (form, inner) in enumerate(zip(self.forms, value, strict=True)):
            form.check(inner, f"{path}[{number}]")


class Named(NamedTuple):
    """An object with any keys, whose values all have the form."""

    form: Form
    least: int = 0

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, dict) or len(value) < self.least:
            least = f" of at least {self.least}" if self.least else ""
            raise _wrong(path, value, f"must be an object{least}")
        for name, inner in value.items():
            self.form.check(inner, _join(path, name))


class Record(NamedTuple):
    """An object with these fields, of which the further ones may be missing."""

    fields: Mapping[str, Form]
    further: Mapping[str, Form] = MappingProxyType({})

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(path, value, "must be an object")
        for name, form in self.fields.items():
            inner = _join(path, name)
            if name not in value:
                raise InputError(f"{inner}: missing")
            form.check(value[name], inner)
        for name, form in self.further.items():
            if name in value:
                form.check(value[name], _join(path, name))


def check_in(place: str, form: Form, value: Any) -> None:
    """The check of a value that stands in a file or another place, which the error names."""
    try:
        form.check(value, "")
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, value: Any, told: str) -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return InputError(f"{path or 'all of it'} = {shown}: {told}")
