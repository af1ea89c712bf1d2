"""The result of a run, back in memory."""

from typing import Any, NamedTuple

import jax
from etils import epath

from lmjax import catalog, rundir, runfiles
from lmjax.checkpoint import Checkpoints
from lmjax.errors import FieldError, InputError
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel, make_mesh
from lmjax.parallel import abstract_state
from lmjax.room import check_restored
from lmjax.state import TrainState


class Loaded(NamedTuple):
    """A run at one of its checkpoints."""

    experiment: Experiment
    step: int
    state: TrainState
    params: Any  # where the model is evaluated; state.params but for averaging optimizers


def load(run: str, step: int | None = None) -> Loaded:
    """The run in a directory, at `step` or at its newest checkpoint, on the first device.

    Raises InputError where there is none.
    """
    path = rundir.named(run)
    experiment, held = recorded(run), rundir.read_config(path)
    checkpoints = open_checkpoints(path)
    chosen = checkpoints.choose(step)
    batch = rundir.recorded_batch(path, held)
    mesh = make_mesh(Parallel(), jax.devices()[:1])  # whatever it was trained on
    try:
        _, abstract = abstract_state(experiment, batch, mesh)
    except (IndexError, TypeError, ValueError) as error:
        told = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{path / runfiles.CONFIG}: its batch does not fit its model: {told}"
        ) from None
    check_restored(abstract, str(path / runfiles.CONFIG))
    state, _ = checkpoints.restore(chosen, abstract)
    checkpoints.close()
    params = experiment.optimizer.evaluation_params(state.opt_state, state.params)
    return Loaded(experiment, chosen, state, params)


def recorded(run: str) -> Experiment:
    """The experiment of the run in a directory; raises InputError where there is none."""
    path = rundir.named(run)
    held = rundir.read_config(path)
    try:
        catalog.import_parts(held["experiment"])
    except FieldError as error:
        raise InputError(f"{path / runfiles.CONFIG}: experiment: {error}") from None
    return rundir.recorded_experiment(path, held)


def open_checkpoints(path: epath.Path) -> Checkpoints:
    """The checkpoints of a run, for reading; raises InputError where there are none."""
    rundir.read_config(path)
    directory = path / runfiles.CHECKPOINTS
    if not directory.is_dir():
        raise InputError(f"{path} holds no checkpoint yet")
    return Checkpoints(directory)
