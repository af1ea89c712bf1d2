"""Overrides of a configuration as words of a command line, and back.

--optimizer.learning-rate 3e-4     the value of a field
optimizer:muon                     another part, from its own defaults; before or after flags
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lmjax.errors import InputError
from lmjax.parts import Part, alternatives, leaves, replace, sockets, swap
from lmjax.record import difference

P = TypeVar("P", bound=Part)
NEAR = 0.6  # least likeness of a name that is meant, of 1
Parse = Callable[[Any, Sequence[str]], Any]  # (declared type, words) -> value, or ValueError


def apply(part: P, words: Sequence[str], parse: Parse) -> P:
    """The tree with the overrides; raises InputError that names the flag and the nearest one."""
    swaps, flags = split(words, part)
    for word in swaps:
        path, _, label = word.partition(":")
        part = swap(part, _field(path), label)
    fields = leaves(part)
    for flag, given in flags:
        path = _field(flag.removeprefix("--"))
        if path not in fields:
            raise unknown_option(flag, path, part)
        kind, _ = fields[path]
        try:
            value = parse(kind, given)
        except ValueError as error:
            told = " ".join(given) if given else "nothing"
            raise InputError(f"{flag} = {told}: {error}") from None
        part = replace(part, path, value)
    return part


def unknown_option(flag: str, path: str, part: Part) -> InputError:
    """That there is no such field, with what was meant: a field of another part that could be
    there, one of a near name, or all those of the part that was named."""
    prefix, _, name = path.rpartition(".")
    others = [
        f"{_words(socket)}:{label}"
        for socket, kind in sockets(part).items()
        for label, cls in alternatives(kind).items()
        if path.startswith(f"{socket}.") and path in leaves(cls(), f"{socket}.")
    ]
    if others:
        return InputError(f"unknown option {flag!r}; it is a field of {' or '.join(others)}")
    fields = list(leaves(part))
    beside = [field for field in fields if field.rpartition(".")[0] == prefix]
    named = {field.rpartition(".")[2]: field for field in beside}
    near = [named[x] for x in difflib.get_close_matches(name, named, n=1, cutoff=NEAR)]
    near = near or [field for field in fields if field.rpartition(".")[2] == name]
    near = near or ([] if beside and prefix else difflib.get_close_matches(path, fields, n=1))
    known = near or beside or fields
    told = ", ".join(map(to_flag, known))
    return InputError(f"unknown option {flag!r}; {'nearest' if near else 'known'}: {told}")


def split(words: Sequence[str], part: Part) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(swaps, (flag, its values)) of a command line; `--flag=value` is as good as two words.

    A word such as tfds:lm1b after a flag's value is another value, since no field is called tfds.
    """
    fields = [name for name, _ in part.children()]
    swaps: list[str] = []
    flags: list[tuple[str, list[str]]] = []
    open_flag = False  # the last word was a flag or one of its values
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flags.append((flag, [value] if equals else []))
            open_flag = not equals
        elif open_flag and not (flags[-1][1] and _is_swap(word) and _top(word) in fields):
            flags[-1][1].append(word)
        elif _is_swap(word):  # also one that names no part, which is told where it is made
            swaps.append(word)
        else:
            raise InputError(f"unexpected word {word!r}; overrides are --field VALUE or part:NAME")
    return swaps, flags


def to_words(base: Part, part: Part) -> list[str]:
    """The overrides that make `part` of `base`: apply(base, to_words(base, part)) == part."""
    changed = difference(base, part)
    words = [f"{_words(path)}:{_label(part, path)}" for path in sockets(part) if path in changed]
    swapped = base
    for word in words:
        path, _, label = word.partition(":")
        swapped = swap(swapped, _field(path), label)
    for path in difference(swapped, part):
        value = leaves(part)[path][1]
        items = value if isinstance(value, tuple) else [value]
        words += [to_flag(path), *map(str, items)]
    return words


def to_flag(path: str) -> str:
    """The flag of a field."""
    return f"--{_words(path)}"


def _words(path: str) -> str:
    return path.replace("_", "-")


def _field(words: str) -> str:
    return words.replace("-", "_")


def _is_swap(word: str) -> bool:
    path, colon, _ = word.partition(":")
    return bool(colon) and path.replace(".", "").replace("-", "").isalpha()


def _top(word: str) -> str:
    """The field of the whole configuration that a swap is in."""
    return _field(word.partition(":")[0]).partition(".")[0]


def _label(part: Any, path: str) -> str:
    for name in path.split("."):
        part = getattr(part, name)
    return part.label
