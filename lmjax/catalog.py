"""Experiments by name: modules of the package `experiments`, or a file by its path."""

import importlib
import importlib.util
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from lmjax.errors import InputError, unknown
from lmjax.experiment import Experiment, check_name

PACKAGE = "experiments"

FILE = "lmjax_file_"  # how the names of modules begin that are files of one's own


def names() -> list[str]:
    """The experiments there are."""
    package = importlib.import_module(PACKAGE)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg)


def find(name: str) -> Experiment:
    """What `config()` of the experiment returns; raises InputError where there is none."""
    module = _module(name)
    if not hasattr(module, "config"):
        raise InputError(f"{name}: the module has no config()")
    with _told(name, module.__file__):
        experiment = module.config()
    if not isinstance(experiment, Experiment):
        raise InputError(f"{name}: config() must return an Experiment")
    return experiment


def comparison(name: str) -> list[str]:
    """The words that `lmjax compare` of it begins with: what `comparison()` returns, if there is
    one; raises InputError where it returns something else."""
    module = _module(name)
    if not hasattr(module, "comparison"):
        return []
    with _told(name, module.__file__):
        words = module.comparison()
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{name}: comparison() must return a list of words")
    return words


def import_parts(name: str) -> None:
    """Import one of our experiments for the parts that it defines, if there is one of that name."""
    check_name(name)
    if name in names():
        _ours(name)


def _module(name: str) -> ModuleType:
    """Of one of our experiments, or of a file."""
    if name.endswith(".py"):
        return _from_path(Path(name))
    if name not in names():
        raise unknown("experiment", name, names())
    return _ours(name)


def _ours(name: str) -> ModuleType:
    spec = importlib.util.find_spec(f"{PACKAGE}.{name}")
    assert spec is not None  # since it is one of `names`
    with _told(name, spec.origin):
        return importlib.import_module(spec.name)


def files() -> list[str]:
    """The paths of one's own files that have been found so far."""
    found = [module for name, module in sys.modules.items() if name.startswith(FILE)]
    return [str(module.__file__) for module in found]


def _from_path(path: Path) -> ModuleType:
    """The module that a file is, under a name that no other module has."""
    try:
        content = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if content is None:
        raise InputError(f"{path}: no such file")
    name = FILE + re.sub(r"\W", "_", str(path.resolve()))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # since the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    with _told(str(path), module.__file__):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _told(name: str, file: str | None) -> Iterator[None]:
    """Within it, what an experiment's own code raises is told in one line, with its place."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except Exception as error:  # a stranger's code raises whatever it does
        told = " ".join(f"{type(error).__name__}: {_message(error)}".split())
        raise InputError(f"{_place(name, file, error)}: {told}") from error


def _message(error: Exception) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)


def _place(name: str, file: str | None, error: Exception) -> str:
    """The innermost line of the experiment's own that raised it, or the one that cannot be read."""
    frames = [(x.filename, x.lineno) for x in traceback.extract_tb(error.__traceback__)]
    lines = [line for path, line in frames if path == file]
    if isinstance(error, SyntaxError) and error.lineno:
        where, lines = error.filename, [error.lineno]
        name = name if where in (file, None) else where
    return f"{name}, line {lines[-1]}" if lines else name
