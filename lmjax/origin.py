"""Where a new run's weights come from: another run, or a folder in the layout of transformers."""

import dataclasses
from pathlib import Path
from typing import Any

from flax.core import meta

from lmjax import rundir
from lmjax.checkpoint import Checkpoints
from lmjax.data import Batch
from lmjax.errors import FieldError
from lmjax.experiment import Experiment
from lmjax.flags import natural
from lmjax.load import open_checkpoints
from lmjax.parallel import abstract_variables
from lmjax.pretrained.folder import Folder, is_folder
from lmjax.pretrained.weights import Pretrained
from lmjax.state import TrainState


@dataclasses.dataclass(frozen=True)
class OfRun:
    """A checkpoint of another run."""

    checkpoints: Checkpoints
    step: int

    def restore(self, abstract: TrainState) -> tuple[Any, Any]:
        """(params, model_state), laid out as `abstract` says; raises InputError if they differ."""
        restored = self.checkpoints.restore_weights(self.step, abstract)
        self.checkpoints.close()
        return restored

    def __str__(self) -> str:
        return f"{self.checkpoints.directory.parent} at step {self.step}"


Origin = OfRun | Pretrained
"""Weights that have been found. `str` of it tells where, and `restore` takes the shapes, dtypes and
shardings of a state to (params, model_state)."""


def find_origin(experiment: Experiment, batch: Batch) -> Origin | None:
    """What `init_from` names, None where it is empty; raises InputError where it cannot be used.

    A folder is checked to the last number before anything is compiled or written, the checkpoint of
    a run for its shapes.
    """
    given = experiment.init_from
    if not given:
        return None
    abstract = meta.unbox(abstract_variables(experiment, batch))
    params = abstract.pop("params")
    if is_folder(Path(given)):
        return Pretrained(Folder(Path(given)), experiment.task.model, params)
    name, at, step = given.rpartition("@")
    if not at:
        name, wanted = given, None
    elif (wanted := natural(step)) is None:
        raise FieldError("init_from", given, "must be RUN, RUN@STEP or a folder of safetensors")
    if Path(name).is_file():
        raise FieldError("init_from", given, "must be a directory, not a file")
    checkpoints = open_checkpoints(rundir.named(name))
    chosen = checkpoints.choose(wanted)
    checkpoints.check_weights(chosen, params, abstract)
    return OfRun(checkpoints, chosen)
