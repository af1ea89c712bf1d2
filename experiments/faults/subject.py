"""What the faults are tried on: a small run, and a process that reads what became of it."""

import importlib
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
from etils import epath

from lmjax import checkpoint, train
from lmjax.checkpoint import Checkpoints
from lmjax.data import Examples
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.fingerprint import Fingerprint
from lmjax.models import MLP
from lmjax.optim import AdamW, Constant
from lmjax.recovery import recover
from lmjax.runfiles import CHECKPOINTS
from lmjax.state import TrainState, state_digest
from lmjax.tasks import Classification

OLDER, NEWER = 10, 12  # steps of the checkpoints that are damaged
DATA = {"digest": "", "next_batch": 0}


def experiment(steps: int = NEWER, save_every: int = OLDER, seed: int = 0) -> Experiment:
    """An MLP with AdamW on scikit-learn's digits: some milliseconds a step."""
    return Experiment(
        name="faults",
        task=Classification(model=MLP(hidden=(16,))),
        data=Examples(),
        optimizer=AdamW(),
        schedule=Constant(),
        steps=steps,
        batch_size=32,
        seed=seed,
        log_every=4,
        evaluate_every=50,
        save_every=save_every,
    )


def prepare_children(folder: Path) -> None:
    """Have those that are forked from now on import nothing and compile each program once."""
    for name in ("sklearn.datasets", "sklearn.linear_model", "tensorboardX"):
        importlib.import_module(name)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def small_state(step: int) -> TrainState:
    """Noise by the step's number, on the device."""
    random = np.random.default_rng(step)
    params = {"w": jax.device_put(random.standard_normal((64, 16), np.float32))}
    return TrainState(jax.device_put(np.int32(step)), params, {}, {"count": jax.device_put(step)})


def shapes_of(state: TrainState) -> TrainState:
    """The abstract state of one."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


class Found(NamedTuple):
    """What recovery makes of a run directory."""

    step: int  # that it takes; 0 where it refuses
    digest: str  # of the state at that step; "" where it refuses
    told: str  # of newer steps, or why it refuses; a traceback's last line begins with "!"


class Reader:
    """In a process with a backend: recovers what faults have left."""

    def __init__(self, trusting: bool = False):
        """`trusting`: verifies neither seals nor leaves, as a control."""
        if trusting:
            mock.patch.object(checkpoint, "verify").start()
            mock.patch.object(Checkpoints, "_check_numbers").start()
        self._program = train.compile_program(experiment(), train.prepare(experiment())[1])

    def make_run(self, folder: str) -> dict[int, str]:
        """A finished run; returns step -> digest of its checkpoints."""
        train.run(experiment(), folder, quiet=True)
        found = {}
        checkpoints = Checkpoints(epath.Path(folder) / CHECKPOINTS)
        for step in checkpoints.steps():
            state, _ = checkpoints.restore(step, self._program.abstract_state)
            found[step] = state_digest(state)
        checkpoints.close()
        return found

    def recover(self, folder: str) -> Found:
        """Of the run that `make_run` has made."""
        return self._recover(folder, self._program.abstract_state)

    def _recover(self, folder: str, abstract: TrainState) -> Found:
        try:
            found = recover(epath.Path(folder), abstract, Fingerprint(abstract), strict=False)
        except InputError as error:
            return Found(0, "", str(error))
        except Exception as error:  # which nobody should see
            return Found(0, "", f"! {type(error).__name__}: {error}")
        return Found(found.step, state_digest(found.state), "; ".join(found.damaged.values()))

    def save_first(self, folder: str) -> None:
        """A run directory with a checkpoint of step 1 alone."""
        checkpoints = Checkpoints(epath.Path(folder) / CHECKPOINTS, 1)
        checkpoints.save(1, small_state(1), {"config": {}, "data": DATA})
        checkpoints.close()

    def digest_of(self, step: int) -> str:
        """Of the small state of a step."""
        return state_digest(small_state(step))

    def recover_small(self, folder: str) -> Found:
        """Of a directory of small states."""
        return self._recover(folder, shapes_of(small_state(0)))

    def save_again(self, folder: str, step: int) -> str:
        """ "" where another process can save there, and nothing is left of what was cut off."""
        checkpoints = Checkpoints(epath.Path(folder) / CHECKPOINTS, 1)
        checkpoints.save(step, small_state(step), {"config": {}, "data": DATA})
        checkpoints.close()
        names = [path.name for path in Path(folder, CHECKPOINTS).iterdir()]
        found = self.recover_small(folder)
        if names != [str(step)] or found.digest != self.digest_of(step):
            return f"after another save there are {names}, and {found}"
        return ""
