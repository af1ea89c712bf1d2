"""One held-out split to its end, weighted."""

from typing import Any

import jax
from etils import epath

from lmjax import rundir
from lmjax.data import Data, Dataset
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.load import load
from lmjax.mesh import Parallel, make_mesh
from lmjax.metrics import Metrics, merge, values
from lmjax.parallel import Program, compile_program, prefetch
from lmjax.state import TrainState


def evaluate(
    program: Program, state: TrainState, dataset: Dataset, experiment: Experiment
) -> dict[str, float]:
    """Metric -> mean over the whole held-out split, and METRIC/SOURCE where it has several parts;
    and what the task derives from the means of each.

    Batches have the size of training's and the last is padded with weight 0, so one shape serves.
    """

    def told(sums: Metrics) -> dict[str, float]:
        means = values(sums)
        return means | experiment.task.derived(means)

    parts = {}
    for member in dataset.members:
        batches = prefetch(member.evaluation(experiment.batch_size), program.place)
        parts[member.name] = merge([program.eval_step(state, batch) for batch in batches])
    found = told(merge(parts.values()))
    if len(parts) > 1:
        for name, part in parts.items():
            found |= {f"{metric}/{name}": value for metric, value in told(part).items()}
    return found


def evaluate_run(run: str, step: int | None = None, data: Data | None = None) -> dict[str, Any]:
    """A run's checkpoint on its held-out split, on the first device; raises InputError.

    For a run that was trained on one device, the bits are those that it logged at this step.

    Args:
      run: the run directory.
      step: of the checkpoint; None = the newest.
      data: other data to evaluate on; None = the run's own, which must not have changed.
    """
    loaded = load(run, step)
    experiment = loaded.experiment
    dataset = (experiment.data if data is None else data).load()
    if data is None and not is_own(run, dataset):
        raise InputError(
            f"{run} was trained on other data ({dataset.name!r} has changed); "
            "name what to evaluate on by --data.FIELD"
        )
    experiment.task.check(dataset)
    batch = dataset.batch(experiment.seed, 0, experiment.batch_size)
    experiment.task.check_batch(batch)
    program = compile_program(experiment, batch, make_mesh(Parallel(), jax.devices()[:1]))
    return {
        "run": run,
        "step": loaded.step,
        "data": dataset.name,
        "validation": evaluate(program, loaded.state, dataset, experiment),
        "baselines": {experiment.task.headline_for(dataset): experiment.task.baselines(dataset)},
    }


def is_own(run: str, dataset: Dataset) -> bool:
    """Whether it is what the run in a directory was trained on."""
    return dataset.digest == rundir.read_config(epath.Path(run))["data"]["digest"]


def to_text(found: dict[str, Any]) -> str:
    """What evaluate_run returns, for a reader."""
    lines = [f"{found['run']} at step {found['step']}, on {found['data']}:"]
    for name, value in sorted(found["validation"].items()):
        beside = found["baselines"].get(name, {}).items()
        told = "  ".join(f"{method} {number:.4f}" for method, number in beside)
        lines.append(f"{name:16s}{value:.4f}" + (f"   beside {told}" if told else ""))
    return "\n".join(lines)
