"""One run, from a configuration to a result. The only file that knows the order of things."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from etils import epath
from jaxtyping import Array

from lmjax import manifest, rundir, runfiles
from lmjax.checkpoint import Checkpoints, SaveError
from lmjax.console import Console
from lmjax.data import Batch, Dataset
from lmjax.doctor import machine
from lmjax.errors import FieldError, InputError, RunError
from lmjax.evaluate import evaluate
from lmjax.experiment import Experiment, check_same
from lmjax.feed import Fed, feed
from lmjax.lock import check_takeable, holding
from lmjax.metrics import unpack, values
from lmjax.origin import Origin, find_origin
from lmjax.parallel import Program, abstract_variables, compile_program
from lmjax.parts import validate
from lmjax.profile import Trace, read_window
from lmjax.record import from_record, to_record
from lmjax.recovery import recover, set_aside
from lmjax.rng import key_for
from lmjax.room import check_batch, check_state, out_of_memory
from lmjax.signals import Stopped, StopRequest
from lmjax.speed import Meter, make_meter
from lmjax.state import TrainState, bad_leaves, parameter_count, state_digest
from lmjax.summary import already_finished, introduce, report
from lmjax.trace import NUMBERS, Step, TraceLog, read_trace
from lmjax.watchdog import watched
from lmjax.writers import MetricsLog, read_history


class Dispatched(NamedTuple):
    """A step that the devices may still be at."""

    step: int
    batch: str  # digest
    metrics: Array  # packed
    leaves: list[Array]  # fingerprints of the state after it; [] where none is taken


class Run(NamedTuple):
    """What the loop works with."""

    experiment: Experiment
    dataset: Dataset
    program: Program
    checkpoints: Checkpoints
    log: MetricsLog
    bits: TraceLog
    console: Console
    meter: Meter
    trace: Trace
    stop: StopRequest
    start: int  # the step that this process goes on from
    begun: float  # time.monotonic() at its call


def run(
    experiment: Experiment,
    workdir: str | None = None,
    *,
    base: Experiment | None = None,
    launched_as: str | None = None,
    profile: str | None = None,
    strict: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train an experiment to its end, resuming what its directory holds; returns result.json.

    Args:
      experiment: what to run.
      workdir: the run directory; None = runs/NAME/seedS-DIGEST.
      base: the experiment without overrides, against which the record shows the difference.
      launched_as: what `lmjax train` was given, NAME or PATH.py, for the line that resumes.
      profile: START:STOP, the steps to trace into the run directory (lmjax/profile.py).
      strict: refuse to resume where the newest checkpoint is damaged, rather than set it aside.
      quiet: print nothing.

    Raises InputError for bad input, before anything is compiled or written; RunError for a run that
    cannot go on (a loss that is not finite, a full disk); Stopped after a SIGINT or SIGTERM, when
    it has saved.
    """
    begun = time.monotonic()
    console = Console(quiet)
    base = base or experiment
    launched_as = launched_as or base.name
    dataset, batch = prepare(experiment)
    path = rundir.choose(experiment, dataset, workdir)
    trace = open_trace(profile, path, experiment, console)
    rundir.check(path, experiment, dataset)
    result = rundir.read_result(path)
    if result is not None and result["steps"] >= experiment.steps:
        return already_finished(result, experiment, base, launched_as, path, console)
    check_takeable(path)
    resumes = runfiles.has_checkpoint(path)
    origin = None if resumes else find_origin(experiment, batch)
    program = trace.watch(compile_program(experiment, batch))
    check_state(program.abstract_state)
    state = None if resumes else fresh_state(program, origin)
    with holding(path, console.say), failures_told(experiment, program, path):
        rundir.check(path, experiment, dataset)  # again: it was anyone's until now
        if state is None or runfiles.has_checkpoint(path):
            state = restore(experiment, dataset, program, path, strict, console)
        start = int(state.step)
        history, traced = read_history(path, start), read_trace(path, start)
        held = manifest.read(path)
        again = (path / runfiles.CONFIG).exists()
        # Whatever could be refused has been: from here on things are told and written.
        rundir.claim(path, experiment, base, dataset, batch)
        begun_as = manifest.begin(path, held, start, experiment, dataset, program)
        introduce(experiment, dataset, program, begun_as, path, console)
        tell_start(experiment, start, origin, again, console)
        started = Run(
            experiment,
            dataset,
            program,
            Checkpoints(path / runfiles.CHECKPOINTS, experiment.keep),
            MetricsLog(path, history, console.say),
            TraceLog(path, traced),
            console,
            make_meter(experiment, program.abstract_state, batch),
            trace,
            StopRequest(),
            start,
            begun,
        )
        result = go_on(started, state, path)
    report(result, experiment, base, launched_as, path, console)
    return result


@contextlib.contextmanager
def failures_told(experiment: Experiment, program: Program, path: epath.Path) -> Iterator[None]:
    """Within it, memory or a disk that is full is a RunError that says so."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(out_of_memory(experiment, program.abstract_state)) from error
    except OSError as error:
        told = f"the run stops: {error.filename or path}: {error.strerror or error}"
        raise RunError(f"{told}; the same command resumes") from error


def open_trace(
    profile: str | None, path: epath.Path, experiment: Experiment, console: Console
) -> Trace:
    """The trace that was asked for; raises InputError for steps that this run will not make."""
    newest = runfiles.newest_checkpoint(path) or 0
    window = None if profile is None else read_window(profile, newest, experiment.steps)
    return Trace(window, path / runfiles.PROFILE, console.say)


def prepare(experiment: Experiment, dataset: Dataset | None = None) -> tuple[Dataset, Batch]:
    """Everything that can be refused without a device: values, data, model against data.

    `dataset` is that of the experiment, where it has been loaded already.
    """
    validate(experiment)
    dataset = experiment.load_data() if dataset is None else dataset
    experiment.task.check(dataset)
    check_batch(experiment, dataset)
    batch = dataset.batch(experiment.seed, 0, experiment.batch_size)
    experiment.task.check_batch(batch)
    try:
        abstract_variables(experiment, batch)
    except FieldError as error:  # the model alone knows which shapes it can take
        raise error.under("task.model") from None
    return dataset, batch


def go_on(run: Run, state: TrainState, path: epath.Path) -> dict[str, Any]:
    """The loop and what comes after it; closes what the run has opened."""
    try:
        if run.start == 0:
            fingerprint = run.program.fingerprint
            run.bits.write(Step(0, "", {}, fingerprint.read(fingerprint(state))))
        with run.stop, jax.transfer_guard_host_to_device("disallow"):
            state = loop(run, state)
        return finish(run, state, path)
    finally:
        run.trace.close()
        run.log.close()
        run.bits.close()
        run.checkpoints.close()


def loop(run: Run, state: TrainState) -> TrainState:
    """THE loop, from update `run.start` to the last. Its order is its meaning:

    dispatch a step; look at the metrics of the steps before it, so that the host never waits for
    the one just dispatched; evaluate; save. What is logged up to a step is written before that
    step is saved, so that a checkpoint never claims a step whose metrics could still be lost.
    """
    e, program = run.experiment, run.program
    pending: list[Dispatched] = []
    fed = watched(run.trace.timed(batches(run, run.start), run.start), run.start, run.console.say)
    for step, (batch, previous, digest) in enumerate(fed, run.start + 1):
        state, metrics = program.train_step(state, batch, previous, program.knobs)
        evaluates = is_due(step, e.evaluate_every, e.steps)
        stopped_by = run.stop.number
        saves = is_due(step, e.save_every, e.steps) or stopped_by
        # Also after the first step that a replay from a checkpoint makes (lmjax/replay.py).
        taken = saves or is_due(step - 1, e.save_every, e.steps)
        taken = taken or run.bits.takes_leaves(step, e.steps)
        leaves = program.fingerprint(state) if taken else []
        pending.append(Dispatched(step, digest, metrics, leaves))
        if evaluates or saves or step == e.steps:
            write_metrics(run, state, pending, keep=0)
        elif step % e.log_every == 0:
            write_metrics(run, state, pending, keep=1)
        if evaluates:
            evaluate_and_log(run, state, step)
        if saves:
            save(run, state, step)
        if stopped_by:
            run.checkpoints.wait()
            raise Stopped(stopped_by, step)
    return state


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something is done after this step; after the last one `finish` does it."""
    return every > 0 and step % every == 0 and step < last


def batches(run: Run, start: int) -> Iterator[Fed]:
    """What each step from `start` on is given, with the digest of its batch."""
    return feed(run.experiment, run.dataset, run.program, run.bits.digests, start)


def write_metrics(run: Run, state: TrainState, pending: list[Dispatched], keep: int) -> None:
    """Log all pending steps but the newest `keep`; raises RunError where one is not finite."""
    if told := run.checkpoints.failure():
        run.console.say(told)
    done, pending[:] = pending[: len(pending) - keep], pending[len(pending) - keep :]
    if not done:
        return
    newest = done[-1].step
    numbers: dict[str, float] = {}
    for step, digest, packed, leaves in done:
        numbers = values(unpack(run.program.metric_names, packed))
        for name, value in numbers.items():
            if not math.isfinite(value):
                flush(run)
                raise not_finite(run, state, step, f"{name} is {value} of batch {digest}")
        run.log.write("train", step, numbers)
        kept = {name: numbers[name] for name in NUMBERS}
        run.bits.write(Step(step, digest, kept, run.program.fingerprint.read(leaves)))
    pace, last = run.meter.pace, run.experiment.steps
    pace.mark(newest)
    run.console.progress(
        lambda: (
            f"step {newest:{len(str(last))}d}/{last}  loss {numbers['loss']:.4f}"
            f"{run.meter.line(last)}"
        ),
        final=newest == last,
    )


def not_finite(run: Run, state: TrainState, step: int, told: str) -> RunError:
    """What stops a run that has gone astray at a step, noticed when the state was `state`."""
    newest, at = run.checkpoints.latest(), int(state.step)
    bad = bad_leaves(state) or "all leaves are finite"
    return RunError(
        f"step {step}: {told}; at step {at} {bad}; the run stops, the newest checkpoint is of step "
        f"{newest}"
    )


def evaluate_and_log(run: Run, state: TrainState, step: int) -> dict[str, float]:
    """One evaluation, to the log and the console."""
    begun = time.monotonic()
    numbers = evaluate(run.program, state, run.dataset, run.experiment)
    run.log.write("validation", step, numbers)
    told = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
    run.console.say(f"validation at step {step}: {told}")
    run.meter.pace.exclude(time.monotonic() - begun)
    return numbers


def save(run: Run, state: TrainState, step: int) -> None:
    """State, data position and record in one commit.

    One that fails is told, and the run goes on: the next may find room, and the older ones are
    there until it has.
    """
    flush(run)
    if bad_leaves(state):  # the loss of this step, from the parameters before it, may be finite
        raise not_finite(run, state, step, "the update is not finite")
    record = {
        "config": to_record(run.experiment),
        "data": {"digest": run.dataset.digest, "next_batch": step},
    }
    try:
        run.checkpoints.wait()
    except SaveError as error:
        run.console.say(str(error))
    try:
        run.checkpoints.save(step, state, record, run.program.fingerprint)
    except SaveError as error:
        run.console.say(str(error))


def flush(run: Run) -> None:
    """Hand all lines to the operating system, before a checkpoint claims their step."""
    run.log.flush()
    run.bits.flush()


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


def finish(run: Run, state: TrainState, path: epath.Path) -> dict[str, Any]:
    """Final save, final evaluation, result.json, and what a reader wants to know next."""
    e, step = run.experiment, int(state.step)
    if run.checkpoints.latest() != step:
        save(run, state, step)
    validation = evaluate_and_log(run, state, step)
    flush(run)
    params = e.optimizer.evaluation_params(state.opt_state, state.params)
    shown = e.task.showcase(params, run.dataset, key_for(e.seed, "text"))
    result = {
        "experiment": e.name,
        "seed": e.seed,
        "steps": step,
        "parameters": parameter_count(state.params),
        "validation": validation,
        "baselines": {e.task.headline_for(run.dataset): e.task.baselines(run.dataset)},
        "state_digest": state_digest(state, run.program.fingerprint),
        "seconds": time.monotonic() - run.begun,
        "resumed_from": run.start,
        **run.meter.record(),
        **machine(),
        "files": runfiles.digests(path),
    }
    run.checkpoints.wait()
    runfiles.write_json(path / runfiles.RESULT, result)
    if shown:
        run.console.say("", shown, "")
    return result
