"""The result of a run, back in memory."""

from typing import Any, NamedTuple

from etils import epath

from lmjax import catalog, rundir
from lmjax.checkpoint import Checkpoints
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.parallel import compile_program
from lmjax.state import TrainState


class Loaded(NamedTuple):
    """A run at one of its checkpoints."""

    experiment: Experiment
    step: int
    state: TrainState
    params: Any  # where the model is evaluated; state.params but for averaging optimizers


def load(run: str, step: int | None = None) -> Loaded:
    """The run in a directory, at `step` or at its newest checkpoint; raises InputError."""
    path = epath.Path(run)
    held = rundir.read_config(path)
    catalog.import_parts(str(held["experiment"]))
    experiment = rundir.recorded_experiment(path, held)
    checkpoints = open_checkpoints(path)
    chosen = checkpoints.choose(step)
    program = compile_program(experiment, rundir.recorded_batch(held))
    state, _ = checkpoints.restore(chosen, program.abstract_state)
    checkpoints.close()
    params = experiment.optimizer.evaluation_params(state.opt_state, state.params)
    return Loaded(experiment, chosen, state, params)


def open_checkpoints(path: epath.Path) -> Checkpoints:
    """The checkpoints of a run, for reading; raises InputError where there are none."""
    rundir.read_config(path)
    directory = path / rundir.CHECKPOINTS
    if not directory.is_dir():
        raise InputError(f"{path} holds no checkpoint yet")
    return Checkpoints(directory)
