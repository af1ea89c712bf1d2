"""The run directory: where a run lives, which configuration it holds, whether it has finished.

config.json     the configuration with defaults expanded, the diff against them, the data
metrics.jsonl   every metric of every step, once
events/         the same for TensorBoard
checkpoints/    by step
result.json     written last: a run that has it is finished
"""

import json
from typing import Any

import numpy as np
from etils import epath

import lmjax
from lmjax.data import Batch, Dataset
from lmjax.errors import InputError
from lmjax.experiment import Experiment, check_same, run_digest
from lmjax.record import difference, from_record, to_record

CONFIG, RESULT, METRICS = "config.json", "result.json", "metrics.jsonl"
CHECKPOINTS, EVENTS = "checkpoints", "events"


def choose(experiment: Experiment, dataset: Dataset, workdir: str | None) -> epath.Path:
    """The directory of a run: `workdir`, or one named by all that decides the result."""
    if workdir is not None:
        return epath.Path(workdir)
    leaf = f"seed{experiment.seed}-{run_digest(experiment, dataset.digest)}"
    return epath.Path("runs") / experiment.name / leaf


def claim(
    path: epath.Path, experiment: Experiment, base: Experiment, dataset: Dataset, batch: Batch
) -> None:
    """Make the directory this run's, or check that it already is; raises InputError."""
    record = {
        "lmjax": lmjax.__version__,
        "experiment": base.name,
        "config": to_record(experiment),
        "overrides": {k: list(v) for k, v in difference(base, experiment).items()},
        "data": {"name": dataset.name, "digest": dataset.digest},
        "batch": {name: [list(x.shape), str(x.dtype)] for name, x in batch.items()},
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        if (path / CONFIG).exists():
            held = read_config(path)
            old = recorded_experiment(path, held)
            check_same(old, experiment, str(path))
            if held["data"] != record["data"]:
                raise InputError(
                    f"{path} holds a run on other data ({dataset.name!r} has changed); "
                    "choose another --workdir"
                )
            if old == experiment:
                return
        elif any(path.iterdir()):
            raise InputError(f"{path} is not empty and holds no run; choose another --workdir")
        write_json(path / CONFIG, record)
    except OSError as error:
        raise InputError(f"run directory {path}: not writable ({error.strerror})") from None


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


def has_checkpoint(path: epath.Path) -> bool:
    """Whether a run there would go on from a checkpoint; temporary folders do not count."""
    folder = path / CHECKPOINTS
    return folder.is_dir() and any(step.name.isdecimal() for step in folder.iterdir())


def read_result(path: epath.Path) -> dict[str, Any] | None:
    """The result of a finished run, or None."""
    return read_json(path / RESULT) if (path / RESULT).exists() else None


def read_json(path: epath.Path) -> dict[str, Any]:
    """A JSON object; raises InputError where there is none."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path.parent} is not a run directory (no {path.name})") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def write_json(path: epath.Path, value: dict[str, Any]) -> None:
    """Write whole or not at all."""
    draft = path.parent / f".{path.name}.draft"
    draft.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
    draft.replace(path)
