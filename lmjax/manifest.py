"""manifest.json: all that decides a run beside its configuration, and whether it can be had again.

Written before the first step, by the process that holds the run directory. What decides the run
stands once; what may differ from launch to launch (code, machine, settings, compiled program) once
for each launch, so that a resumed run keeps the first. Nothing in it is a secret
(lmjax/environment.py).

A run claims a rung:
none  somebody who has only the record could not run it again
R2    the same batches
R4    the same bits on the same kind of machine, versions and number of cores, however often it is
      killed and resumed
R5    and on any number of devices that divides its virtual shards
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from etils import epath

from lmjax import environment, source
from lmjax.anatomy import NAMES, dissect
from lmjax.data import Dataset
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.parallel import Program
from lmjax.record import digest, to_record
from lmjax.rng import Purpose, key_for
from lmjax.runfiles import CONFIG, MANIFEST, read_json, sha256, write_json

SCHEMA = 1
Rung = Literal["none", "R2", "R4", "R5"]
MEANING: dict[Rung, str] = {
    "none": "not reproducible",
    "R2": "reproducible: batches (R2); bits are promised on CPUs alone",
    "R4": "reproducible: to the bit (R4) on as many cores of such a processor, with these versions",
    "R5": "reproducible: to the bit (R5) on any number of such devices, with these versions",
}

TEXTS: Any = dict[str, str]
WORDS: Any = list[str]
PART: dict[str, Any] = {"digest": str, "operations": int, "dtypes": dict, "modules": TEXTS}
FIELDS: dict[str, Any] = {
    "schema": int,
    "experiment": str,
    "config": str,  # digest of all fields that decide the result
    "data": {"name": str, "digest": str, "files": list},
    "keys": dict,  # purpose -> data of its keys at steps 0 and 1, in hex
    "leaves": TEXTS,  # path -> dtype and shape, of the state
    "rung": str,
    "limits": WORDS,  # why it is no higher one
    "launches": list,
}
LAUNCH: dict[str, Any] = {
    "from_step": int,
    "began": str,
    "command": WORDS,
    "config_sha256": str,  # of config.json
    "code": {
        "commit": (str, type(None)),
        "changed": WORDS,
        "diff": (str, type(None)),
        "tree": str,
        "files": TEXTS,
        "parts": TEXTS,
    },
    "variables": TEXTS,
    "settings": dict,
    "compiler": dict,
    "versions": TEXTS,
    "machine": {"system": str, "processor": str, "processor_flags": WORDS, "cores": list},
    "devices": {"platform": str, "kind": str, "count": int, "processes": int, "mesh": dict},
    "program": {
        "stablehlo": str,
        "knobs": {"seed": int, "learning_rate": str},
        "parts": dict.fromkeys(NAMES, PART),
    },
}


class Begun(NamedTuple):
    """What a launch says of itself."""

    rung: Rung
    limits: list[str]
    changed: list[str]  # what is not as in the launch that it goes on from


def begin(
    path: epath.Path,
    held: dict[str, Any] | None,
    start: int,
    experiment: Experiment,
    dataset: Dataset,
    program: Program,
) -> Begun:
    """Write down the launch that goes on from step `start`; `held` is what `read` has returned."""
    now = launch(path, start, experiment, program)
    before = held["launches"] if held else []
    limits = limits_of(dataset, [*before, now])
    rung = _rung(limits, now, experiment)
    record = {
        "schema": SCHEMA,
        "experiment": experiment.name,
        "config": digest(to_record(experiment, free=False)),
        "data": {
            "name": dataset.name,
            "digest": dataset.digest,
            "files": [file._asdict() for file in dataset.files],
        },
        "keys": keys(int(program.knobs.seed)),
        "leaves": program.fingerprint.leaves,
    }
    write_json(
        path / MANIFEST,
        {**(held or record), "rung": rung, "limits": limits, "launches": [*before, now]},
    )
    return Begun(rung, limits, changes(before[-1], now) if before else [])


def launch(
    path: epath.Path, start: int, experiment: Experiment, program: Program
) -> dict[str, Any]:
    """The record of this process as one that goes on from a step."""
    return {
        "from_step": start,
        "began": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "command": environment.command_line([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config_sha256": sha256(path / CONFIG),
        "code": source.read_code(experiment)._asdict(),
        **environment.read_environment(program.mesh, experiment.parallel.virtual_shards),
        "program": describe_program(program),
    }


def describe_program(program: Program) -> dict[str, Any]:
    """Digests of the train step before XLA has it; it is traced and lowered but once a process."""
    traced = program.trace_step()
    return {
        "stablehlo": digest(traced.lower().as_text()),
        "knobs": {
            "seed": int(program.knobs.seed),
            "learning_rate": float(program.knobs.learning_rate).hex(),
        },
        "parts": {name: part._asdict() for name, part in dissect(traced.jaxpr).items()},
    }


def keys(seed: int) -> dict[str, list[str]]:
    """Purpose -> data of its keys at steps 0 and 1, by which a derivation is known again."""
    return {
        purpose: [_key_data(key_for(seed, purpose, step)) for step in (0, 1)]
        for purpose in get_args(Purpose)
    }


def _key_data(key: Any) -> str:
    return np.asarray(jax.random.key_data(key)).astype(">u4").tobytes().hex()


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two launches that can make a difference to a bit."""
    found = [str(each) for each in environment.differences(then, now)]
    files = source.differences(then["code"], now["code"])
    return found + [f"code {', '.join(files[:4])}{', ...' if len(files) > 4 else ''}"] * bool(files)


def limits_of(dataset: Dataset, launches: Sequence[dict[str, Any]]) -> list[str]:
    """Why the run could not be had again by who has only its record."""
    found = source.Code(**launches[-1]["code"]).limits()
    if dataset.sampled:
        found.append(f"{dataset.name} is too large to be read whole, its digest is over samples")
    if not dataset.digest:
        found.append(f"nobody knows what {dataset.name} holds")
    if source.differences(launches[0]["code"], launches[-1]["code"]):
        found.append("it was begun with other code")
    return found


def _rung(limits: Sequence[str], now: dict[str, Any], experiment: Experiment) -> Rung:
    if limits:
        return "none"
    if now["devices"]["platform"] != "cpu":
        return "R2"
    return "R5" if experiment.parallel.virtual_shards > 1 else "R4"


def told(begun: Begun) -> list[str]:
    """For the reader of a run's first lines."""
    lines = [": ".join([MEANING[begun.rung], *(["; ".join(begun.limits)] if begun.limits else [])])]
    if begun.changed:
        lines.append(f"not as in the launch before: {'; '.join(begun.changed)}")
    return lines


def read(path: epath.Path) -> dict[str, Any] | None:
    """The manifest of a run directory, None where there is none.

    Raises InputError for one that another version has made, or that lacks a field.
    """
    file = path / MANIFEST
    if not file.exists():
        return None
    record = read_json(file)
    if record.get("schema", SCHEMA) != SCHEMA:
        told = f"made by another version of lmjax (schema {record['schema']!r}, not {SCHEMA})"
        raise InputError(f"{file}: {told}")
    _check(record, FIELDS, f"{file}: ")
    if not record["launches"]:
        raise InputError(f"{file}: launches is empty")
    for number, each in enumerate(record["launches"]):
        if not isinstance(each, dict):
            raise InputError(f"{file}: launches.{number} = {str(each)[:80]}: malformed")
        _check(each, LAUNCH, f"{file}: launches.{number}.")
    return record


def _check(record: dict[str, Any], fields: dict[str, Any], where: str) -> None:
    """Refuse a record that lacks a field, or has one of another kind."""
    for name, kind in fields.items():
        if name not in record:
            raise InputError(f"{where}{name} is missing")
        if not _fits(record[name], kind):
            raise InputError(f"{where}{name} = {str(record[name])[:80]}: malformed")
        if isinstance(kind, dict):
            _check(record[name], kind, f"{where}{name}.")


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, dict):
        return isinstance(value, dict)
    if kind is TEXTS:
        return isinstance(value, dict) and all(isinstance(x, str) for x in value.values())
    if kind is WORDS:
        return isinstance(value, list) and all(isinstance(x, str) for x in value)
    return isinstance(value, kind) and not isinstance(value, bool)
