"""The run directory: where a run lives, which configuration it holds, whether it has finished."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

import lmjax
from lmjax.data import Batch, Dataset
from lmjax.data.bpe import read_codec
from lmjax.data.tokenizer import ByteCodec, Codec
from lmjax.errors import FieldError, InputError
from lmjax.experiment import Experiment, check_same, run_digest
from lmjax.overrides import to_words
from lmjax.parts import validate
from lmjax.record import difference, from_record, to_record
from lmjax.remote import check_reachable
from lmjax.runfiles import (
    CONFIG,
    LOCK,
    RESULT,
    TOKENIZER,
    draft_of,
    newest_checkpoint,
    read_json,
    write_json,
    write_text,
)

FIELDS = {  # of config.json, those that are read
    "experiment": str,
    "config": dict,
    "data": dict,
    "tokenizer": (str, type(None)),  # SHA-256 of the vocabulary; null = nobody says what ids mean
    "batch": dict,
}
UNCLAIMED = {  # what a process that dies while it claims a directory may leave there
    LOCK,
    TOKENIZER,
    *(draft_of(epath.Path(name)).name for name in (TOKENIZER, CONFIG)),
}
MOST_ROWS = 2**31  # of any axis of a batch


def choose(experiment: Experiment, dataset: Dataset, workdir: str | None) -> epath.Path:
    """The directory of a run: `workdir`, or one named by all that decides the result."""
    if workdir is not None:
        check_reachable(epath.Path(workdir))
        return epath.Path(workdir)
    leaf = f"seed{experiment.seed}-{run_digest(experiment, dataset.digest)}"
    return epath.Path("runs") / experiment.name / leaf


def named(run: str) -> epath.Path:
    """The run directory of a word that a user gave; raises InputError for an empty one."""
    if not run:
        raise InputError("RUN is empty; name a run directory, such as `lmjax list` shows")
    return epath.Path(run)


def check(path: epath.Path, experiment: Experiment, dataset: Dataset) -> None:
    """Refuse a directory that cannot hold this run or holds something else; touches nothing."""
    if experiment.data.reads(str(path)):
        raise InputError(
            f"run directory {path}: {dataset.name} reads what lies there, so the run would change "
            "its own data; choose another --workdir"
        )
    try:
        if not path.exists():
            return
        if not (path / CONFIG).exists():
            if any(inside.name not in UNCLAIMED for inside in path.iterdir()):
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
    result = read_result(path)
    reached = max(newest_checkpoint(path) or 0, result["steps"] if result else 0)
    if reached > experiment.steps:
        told = f"must be at least {reached}: the run in {path} is already at step {reached}"
        raise FieldError("steps", experiment.steps, told)


def claim(
    path: epath.Path, experiment: Experiment, base: Experiment, dataset: Dataset, batch: Batch
) -> None:
    """Make a directory that `check` has passed, and that is locked, this run's.

    Raises InputError where it cannot be written.
    """
    codec = dataset.members[0].codec
    record = {
        "lmjax": lmjax.__version__,
        "experiment": base.name,
        "words": to_words(base, experiment),
        "headline": experiment.task.headline_for(dataset),
        "config": to_record(experiment),
        "overrides": {k: list(v) for k, v in difference(base, experiment).items()},
        "data": identity(dataset),
        "tokenizer": None if codec is None else codec.digest,
        "batch": {name: [list(x.shape), str(x.dtype)] for name, x in batch.items()},
    }
    try:
        if (path / CONFIG).exists() and (
            recorded_experiment(path, read_config(path)) == experiment
        ):
            return  # with the overrides of the launch that made it
        if codec is not None and codec.description:
            write_text(path / TOKENIZER, codec.description)
        write_json(path / CONFIG, record)  # last: with it, the directory is a run's
    except OSError as error:
        raise InputError(f"run directory {path}: not writable ({error.strerror})") from None


def identity(dataset: Dataset) -> dict[str, str]:
    """By what a run knows its data again."""
    return {"name": dataset.name, "digest": dataset.digest}


def read_config(path: epath.Path) -> dict[str, Any]:
    """config.json of a run directory; raises InputError where it is none or lacks a field."""
    held = read_json(path / CONFIG)
    missing = FIELDS.keys() - held.keys()
    if missing:
        raise InputError(f"{path / CONFIG}: no field {', '.join(sorted(missing))}")
    for name, kinds in FIELDS.items():
        if not isinstance(held[name], kinds):
            raise InputError(f"{path / CONFIG}: {name} = {str(held[name])[:80]}: damaged")
    data = held["data"]
    if data.keys() != {"name", "digest"} or not all(isinstance(x, str) for x in data.values()):
        raise InputError(f"{path / CONFIG}: data = {str(data)[:80]}: must be a name and a digest")
    return held


def recorded_experiment(path: epath.Path, held: dict[str, Any]) -> Experiment:
    """The experiment that a config.json holds; raises InputError."""
    experiment = from_record(Experiment, held["config"], str(path / CONFIG))
    try:
        validate(experiment)
    except InputError as error:
        raise InputError(f"{path / CONFIG}: {error}") from None
    return experiment


def recorded_batch(path: epath.Path, held: dict[str, Any]) -> Batch:
    """The shapes of the batches that the run was made with; raises InputError."""
    shapes = {}
    for name, told in held["batch"].items():
        try:
            shape, dtype = told
            sizes = tuple(shape)
            if not all(type(size) is int and 0 < size < MOST_ROWS for size in sizes):
                raise ValueError
            shapes[name] = jax.ShapeDtypeStruct(sizes, np.dtype(dtype))
        except (TypeError, ValueError):
            raise InputError(
                f"{path / CONFIG}: batch.{name} = {str(told)[:80]}: must be a shape and a dtype"
            ) from None
    missing = {"inputs", "targets", "weights"} - shapes.keys()
    if missing:
        raise InputError(f"{path / CONFIG}: batch has no {', '.join(sorted(missing))}")
    return shapes


def recorded_codec(path: epath.Path, held: dict[str, Any]) -> Codec | None:
    """The vocabulary that the run was trained with, None where nobody says what its ids stand for.

    Raises InputError where its file is missing or is another than the one that was trained with.
    """
    digest = held["tokenizer"]
    if digest is None:
        return None
    if digest == ByteCodec.digest:
        return ByteCodec()
    file = path / TOKENIZER
    codec = read_codec(file)
    if codec.digest != digest:
        raise InputError(f"{file}: not the vocabulary that the run was trained with")
    return codec


def read_result(path: epath.Path) -> dict[str, Any] | None:
    """The result of a finished run, or None; raises InputError for a damaged one."""
    if not (path / RESULT).exists():
        return None
    result = read_json(path / RESULT)
    damaged = [name for name, fits in RESULT_FIELDS.items() if not fits(result.get(name))]
    if not damaged and result["baselines"].keys() - result["validation"].keys():
        damaged = ["validation"]
    if damaged:
        raise InputError(
            f"{path / RESULT}: damaged ({', '.join(damaged)}); remove it, and the command that "
            "trained the run makes it anew from the newest checkpoint"
        )
    return result


def _are_numbers(value: Any) -> bool:
    kinds = (int, float)
    return isinstance(value, dict) and all(type(number) in kinds for number in value.values())


RESULT_FIELDS: dict[str, Callable[[Any], bool]] = {  # what others read of it
    "steps": lambda value: type(value) is int and value > 0,
    "validation": lambda value: _are_numbers(value),
    "baselines": lambda value: (
        isinstance(value, dict) and len(value) == 1 and all(map(_are_numbers, value.values()))
    ),
    "state_digest": lambda value: isinstance(value, str),
}
