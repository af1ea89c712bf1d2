"""Where the state that a run goes on from comes from: its seed, other weights, a checkpoint."""

import dataclasses
from typing import Any

import jax
from etils import epath

from lmjax import hosts, record, runfiles, source
from lmjax.console import Console
from lmjax.data import Dataset
from lmjax.errors import InputError
from lmjax.experiment import Experiment, check_same
from lmjax.origin import Origin
from lmjax.parallel import Program
from lmjax.record import from_record, to_record
from lmjax.recovery import recover, set_aside
from lmjax.state import TrainState


def identity(experiment: Experiment, dataset: Dataset, path: epath.Path) -> dict[str, Any]:
    """What the processes of a run must have in common before it begins."""
    return {
        "configuration": record.digest(to_record(experiment)),
        "data": dataset.digest,
        "code": source.read_code(experiment).tree,
        "run directory": str(path),
        "newest checkpoint": runfiles.newest_checkpoint(path),
        "jax": jax.__version__,
    }


def restore(
    experiment: Experiment,
    dataset: Dataset,
    program: Program,
    path: epath.Path,
    strict: bool,
    console: Console,
) -> TrainState:
    """The newest whole checkpoint of this very run; those that are damaged are set aside, and told.

    Raises InputError, and then changes nothing.
    """
    found = recover(path, program.abstract_state, program.fingerprint, strict)
    where = path / runfiles.CHECKPOINTS
    check_same(from_record(Experiment, found.record["config"]), experiment, str(where))
    if found.record["data"] != {"digest": dataset.digest, "next_batch": found.step}:
        raise InputError(f"{where} step {found.step} was made on other data")
    if hosts.current().first:
        for line in set_aside(path, found):
            console.say(line)
    return found.state


def fresh_state(program: Program, origin: Origin | None) -> TrainState:
    """The state of step 0, from the seed, or with weights from elsewhere."""
    state = program.init(program.knobs)
    if origin is None:
        return state
    state = dataclasses.replace(state, params=None)  # frees them before the others take their place
    params, model_state = origin.restore(program.abstract_state)
    return dataclasses.replace(state, params=params, model_state=model_state)


def tell_start(
    experiment: Experiment, start: int, origin: Origin | None, again: bool, console: Console
) -> None:
    """Where the state comes from, if it was not drawn from the seed by a run that is new."""
    if again and not start:
        console.say("begins again at step 0: it was stopped before its first checkpoint")
    if start:
        console.say(f"resumed from step {start} of {experiment.steps}")
    elif origin is not None:
        console.say(f"weights from {origin}")
