"""Experiments by name: modules of the package `experiments`, or a file by its path."""

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

from lmjax.errors import InputError, unknown
from lmjax.experiment import Experiment, check_name

PACKAGE = "experiments"


def names() -> list[str]:
    """The experiments there are."""
    package = importlib.import_module(PACKAGE)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg)


def find(name: str) -> Experiment:
    """What `config()` of the experiment returns; raises InputError where there is none."""
    if name.endswith(".py"):
        module = _from_path(Path(name))
    else:
        if name not in names():
            raise unknown("experiment", name, names())
        module = importlib.import_module(f"{PACKAGE}.{name}")
    if not hasattr(module, "config"):
        raise InputError(f"{name}: the module has no config()")
    experiment = module.config()
    if not isinstance(experiment, Experiment):
        raise InputError(f"{name}: config() must return an Experiment")
    return experiment


def import_parts(name: str) -> None:
    """Import one of our experiments for the parts that it defines, if there is one of that name."""
    check_name(name)
    if name in names():
        importlib.import_module(f"{PACKAGE}.{name}")


def _from_path(path: Path):
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # since the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module
