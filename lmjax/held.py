"""A finished run as its directory holds it, each file known to be as the run has written it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from lmjax import manifest, rundir, runfiles
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.load import recorded
from lmjax.trace import Step, read_trace, to_step


class Held(NamedTuple):
    """What is read of it."""

    path: epath.Path
    experiment: Experiment
    config: dict[str, Any]  # config.json
    manifest: dict[str, Any]
    trace: list[Step]  # by step
    launches: list[dict[str, Any]]  # of the manifest, those that made a step which counts

    def launch_of(self, step: int) -> dict[str, Any]:
        """The launch that made a step, 0 = that drew the first state."""
        return [x for x in self.launches if x["from_step"] < max(step, 1)][-1]


def open_run(run: str) -> Held:
    """What a finished run's directory holds; raises InputError for any other, and for one whose
    files are not those that its result knows."""
    path = rundir.named(run)
    rundir.read_config(path)
    result = rundir.read_result(path)
    if result is None:
        at = runfiles.newest_checkpoint(path) or 0
        raise InputError(f"{path} is unfinished, at step {at}; what trained it goes on with it")
    record = manifest.read(path)
    if record is None or not isinstance(result.get("files"), dict):
        raise InputError(f"{path} was made by an older lmjax, which kept no manifest and no trace")
    found = runfiles.digests(path)
    for name in sorted(found.keys() | result["files"].keys()):
        if found.get(name) != result["files"].get(name):
            told = "is missing" if name not in found else "has been changed since the run wrote it"
            raise InputError(f"{path / name} {told}")
    if record["launches"][-1]["config_sha256"] != found[runfiles.CONFIG]:
        raise InputError(f"{path / runfiles.CONFIG} is not what {runfiles.MANIFEST} says")
    experiment = recorded(run)
    if result["steps"] != experiment.steps:
        told = f"at step {result['steps']} of {experiment.steps}"
        raise InputError(f"{path} is unfinished, {told}; what trained it goes on with it")
    trace = read_whole_trace(path, experiment.steps)
    return Held(
        path, experiment, rundir.read_config(path), record, trace, counted(record["launches"])
    )


def read_whole_trace(path: epath.Path, last: int) -> list[Step]:
    """The trace of all steps from 0 to the last; raises InputError where one is missing."""
    steps = [to_step(line.entry) for line in read_trace(path, last)]
    found = [step for step in steps if step is not None]
    for number, step in enumerate([*(x.step for x in found), last + 1]):
        if step != number:
            told = f"no line of step {number} where it should be"
            raise InputError(f"{path / runfiles.TRACE}: damaged, {told}")
    return found


def counted(launches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those launches of which some step was not made again by a later one."""
    return [
        launch
        for number, launch in enumerate(launches)
        if all(launch["from_step"] < later["from_step"] for later in launches[number + 1 :])
    ]
