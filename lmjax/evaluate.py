"""One held-out split to its end, weighted."""

import dataclasses
from typing import Any

import jax

from lmjax import rundir, runfiles
from lmjax.checkpoint import check_leaves
from lmjax.data import Batch, Data, Dataset
from lmjax.data.tokenizer import Codec
from lmjax.describe import by, fitting_state
from lmjax.errors import FieldError, InputError
from lmjax.experiment import Experiment
from lmjax.load import load, recorded
from lmjax.mesh import Parallel, make_mesh
from lmjax.metrics import Metrics, merge, values
from lmjax.parallel import Program, compile_program, prefetch
from lmjax.platforms import equal_threads
from lmjax.state import TrainState


def evaluate(
    program: Program, state: TrainState, dataset: Dataset, experiment: Experiment
) -> dict[str, float]:
    """Metric -> mean over the whole held-out split, and METRIC/SOURCE where it has several parts;
    and what the task derives from the means of each.

    Batches have the size of training's and the last is padded with weight 0, so one shape serves.
    Only the rows that lie on devices of this process are made.
    """
    parts, size = {}, experiment.batch_size
    for member in dataset.members:
        batches = prefetch(member.evaluation(size, program.share[:size]), program.place)
        parts[member.name] = [program.eval_step(state, batch) for batch in batches]
    return means_of(parts, experiment)


def means_of(batches: dict[str, list[Metrics]], experiment: Experiment) -> dict[str, float]:
    """The metrics of a held-out split, from those of the batches of each of its members."""

    def told(sums: Metrics) -> dict[str, float]:
        means = values(sums)
        return means | experiment.task.derived(means)

    parts = {name: merge(each) for name, each in batches.items()}
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
      data: other data to evaluate on; None = the run's own, which must not have changed. A text is
        read with the vocabulary that the run has kept, wherever one would be learnt from it.
    """
    path, own = rundir.named(run), recorded(run)
    equal_threads(own.parallel.virtual_shards)  # before there are devices
    held = rundir.read_config(path)
    codec = rundir.recorded_codec(path, held)
    chosen = own.data if data is None else data
    if codec is not None and codec.description:
        chosen = chosen.reading_with(str(path / runfiles.TOKENIZER))
    experiment = dataclasses.replace(own, data=chosen)
    dataset = experiment.load_data()
    if data is None and dataset.digest != held["data"]["digest"]:
        raise InputError(
            f"{run} was trained on other data ({dataset.name!r} has changed); "
            "name what to evaluate on by --data.FIELD"
        )
    check_vocabulary(run, codec, dataset)
    experiment.task.check(dataset)
    batch = dataset.batch(experiment.seed, 0, experiment.batch_size)
    experiment.task.check_batch(batch)
    loaded = load(run, step)
    check_fits(run, loaded.state, experiment, batch, rundir.recorded_batch(path, held))
    program = compile_program(experiment, batch, make_mesh(Parallel(), jax.devices()[:1]))
    return {
        "run": run,
        "step": loaded.step,
        "data": dataset.name,
        "validation": evaluate(program, loaded.state, dataset, experiment),
        "baselines": {experiment.task.headline_for(dataset): experiment.task.baselines(dataset)},
    }


def check_vocabulary(run: str, codec: Codec | None, dataset: Dataset) -> None:
    """Refuse ids that mean something else than those that the run was trained on.

    Where nobody says what the ids of one of the two mean, they are taken for the same.
    """
    other = dataset.members[0].codec
    if codec is not None and other is not None and codec.digest != other.digest:
        raise InputError(
            f"{run} was trained with another vocabulary than {dataset.name!r} is read with; "
            "leave data.tokenizer as it is in the run"
        )


def check_fits(
    run: str, state: TrainState, experiment: Experiment, batch: Batch, trained: Batch
) -> None:
    """Refuse data that the run's parameters cannot take; raises InputError."""
    try:
        _, fitting = fitting_state(experiment, batch, make_mesh(Parallel(), jax.devices()[:1]))
        check_leaves(state.params, fitting.params, run)
    except FieldError:
        raise
    except InputError:
        ours, theirs = (by(x["inputs"].shape[1:]) for x in (trained, batch))
        raise InputError(
            f"data.{experiment.data.label}: inputs of {theirs} do not fit {run}, "
            f"which was trained on inputs of {ours}"
        ) from None


def to_text(found: dict[str, Any]) -> str:
    """What evaluate_run returns, for a reader."""
    lines = [f"{found['run']} at step {found['step']}, on {found['data']}:"]
    for name, value in sorted(found["validation"].items()):
        beside = found["baselines"].get(name, {}).items()
        told = "  ".join(f"{method} {number:.4f}" for method, number in beside)
        lines.append(f"{name:16s}{value:.4f}" + (f"   beside {told}" if told else ""))
    return "\n".join(lines)
