"""Recovery: the newest checkpoint of a run that is whole; those that are damaged are set aside.

A run never begins again because its checkpoints are damaged: where none is whole, it stops.
"""

from typing import Any, NamedTuple

from etils import epath

from lmjax.checkpoint import Checkpoints
from lmjax.errors import InputError
from lmjax.fingerprint import Fingerprint
from lmjax.runfiles import CHECKPOINTS, DAMAGED
from lmjax.seal import Damaged
from lmjax.state import TrainState


class Recovered(NamedTuple):
    """A checkpoint that has been read and verified."""

    step: int
    state: TrainState
    record: dict[str, Any]
    damaged: dict[int, str]  # newer steps that are not whole -> what is wrong with them


def recover(
    path: epath.Path, abstract: TrainState, fingerprint: Fingerprint, strict: bool
) -> Recovered:
    """The newest whole checkpoint of a run directory, laid out as `abstract` says; changes nothing.

    Raises InputError where none is whole or, if `strict`, where the newest is not.
    """
    checkpoints = Checkpoints(path / CHECKPOINTS)
    checkpoints.choose(None)
    damaged: dict[int, str] = {}
    for step in reversed(checkpoints.steps()):
        try:
            state, record = checkpoints.restore(step, abstract, fingerprint)
        except Damaged as error:
            if strict:
                raise InputError(f"{error} (--strict, so no older one is taken)") from None
            damaged[step] = str(error)
            continue
        checkpoints.close()
        return Recovered(step, state, record, damaged)
    told = "; ".join(damaged.values())
    raise InputError(
        f"no checkpoint is whole, so the run stops: {told}; to begin at step 0, choose another "
        "--workdir"
    )


def set_aside(path: epath.Path, recovered: Recovered) -> list[str]:
    """Move damaged steps out of the way of those to come; returns a line for each."""
    lines = []
    for step, told in recovered.damaged.items():
        (path / DAMAGED).mkdir(exist_ok=True)
        number = 1
        while (target := path / DAMAGED / f"{step}-{number}").exists():
            number += 1
        (path / CHECKPOINTS / str(step)).rename(target)
        lines.append(f"{told}; moved to {target}, and step {recovered.step} is taken")
    return lines
