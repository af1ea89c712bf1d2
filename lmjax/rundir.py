"""The run directory: where a run lives, which configuration it holds, whether it has finished."""

from typing import Any

import numpy as np
from etils import epath

import lmjax
from lmjax.data import Batch, Dataset
from lmjax.errors import InputError
from lmjax.experiment import Experiment, check_same, run_digest
from lmjax.overrides import to_words
from lmjax.record import difference, from_record, to_record
from lmjax.runfiles import CONFIG, RESULT, read_json, write_json


def choose(experiment: Experiment, dataset: Dataset, workdir: str | None) -> epath.Path:
    """The directory of a run: `workdir`, or one named by all that decides the result."""
    if workdir is not None:
        return epath.Path(workdir)
    leaf = f"seed{experiment.seed}-{run_digest(experiment, dataset.digest)}"
    return epath.Path("runs") / experiment.name / leaf


def check(path: epath.Path, experiment: Experiment, dataset: Dataset) -> None:
    """Refuse a directory that holds something else than this run; touches nothing."""
    try:
        if not path.exists():
            return
        if not (path / CONFIG).exists():
            if any(path.iterdir()):
                raise InputError(f"{path} is not empty and holds no run; choose another --workdir")
            return
    except OSError as error:
        raise InputError(f"run directory {path}: not usable ({error.strerror})") from None
    held = read_config(path)
    check_same(recorded_experiment(path, held), experiment, str(path))
    if held["data"] != identity(dataset):
        raise InputError(
            f"{path} holds a run on other data ({dataset.name!r} has changed); "
            "choose another --workdir"
        )


def claim(
    path: epath.Path, experiment: Experiment, base: Experiment, dataset: Dataset, batch: Batch
) -> None:
    """Make a directory that `check` has passed this run's; raises InputError."""
    record = {
        "lmjax": lmjax.__version__,
        "experiment": base.name,
        "words": to_words(base, experiment),
        "headline": experiment.task.headline_for(dataset),
        "config": to_record(experiment),
        "overrides": {k: list(v) for k, v in difference(base, experiment).items()},
        "data": identity(dataset),
        "batch": {name: [list(x.shape), str(x.dtype)] for name, x in batch.items()},
    }
    try:
        if (path / CONFIG).exists():
            if recorded_experiment(path, read_config(path)) == experiment:
                return  # with the overrides of the launch that made it
        else:
            path.mkdir(parents=True, exist_ok=True)
        write_json(path / CONFIG, record)
    except OSError as error:
        raise InputError(f"run directory {path}: not writable ({error.strerror})") from None


def identity(dataset: Dataset) -> dict[str, str]:
    """By what a run knows its data again."""
    return {"name": dataset.name, "digest": dataset.digest}


def read_config(path: epath.Path) -> dict[str, Any]:
    """config.json of a run directory; raises InputError where it is none or lacks a field."""
    held = read_json(path / CONFIG)
    missing = {"experiment", "config", "data", "batch"} - held.keys()
    if missing:
        raise InputError(f"{path / CONFIG}: no field {', '.join(sorted(missing))}")
    return held


def recorded_experiment(path: epath.Path, held: dict[str, Any]) -> Experiment:
    """The experiment that a config.json holds; raises InputError."""
    return from_record(Experiment, held["config"], str(path / CONFIG))


def recorded_batch(held: dict[str, Any]) -> Batch:
    """An empty batch of the shapes that the run was made with."""
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in held["batch"].items()}


def read_result(path: epath.Path) -> dict[str, Any] | None:
    """The result of a finished run, or None."""
    return read_json(path / RESULT) if (path / RESULT).exists() else None
