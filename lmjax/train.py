"""One run, from a configuration to a result. The only file that knows the order of things."""

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from lmjax import hosts, manifest, rundir, runfiles
from lmjax.checkpoint import Checkpoints, SaveError
from lmjax.console import Console
from lmjax.data import Batch, Dataset
from lmjax.doctor import machine
from lmjax.errors import FieldError, InputError, RunError
from lmjax.experiment import Experiment
from lmjax.feed import Fed, feed
from lmjax.lock import check_takeable, holding
from lmjax.nonfinite import NotFinite, Skips, find, names_of, rows_of, undoing
from lmjax.origin import find_origin
from lmjax.parallel import Program, abstract_variables, compile_program
from lmjax.parts import validate
from lmjax.profile import Trace, read_window
from lmjax.rng import key_for
from lmjax.room import check_batch, check_state, out_of_memory
from lmjax.running import (
    Dispatched,
    Run,
    close,
    end_save,
    evaluate_and_log,
    flush,
    honour,
    save,
    steps_of,
    write_metrics,
)
from lmjax.signals import Stopped, StopRequest
from lmjax.speed import Pace, make_meter
from lmjax.start import fresh_state, identity, restore, tell_start
from lmjax.state import TrainState, parameter_count, state_digest
from lmjax.summary import already_finished, introduce, report
from lmjax.trace import Step, TraceLog, batch_digests, part_digests, read_trace
from lmjax.watchdog import watched
from lmjax.writers import MetricsLog, read_history


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
    peers = hosts.current()
    console = Console(quiet or not peers.first)
    base = base or experiment
    launched_as = launched_as or base.name
    with peers.together():
        dataset, batch = prepare(experiment)
        path = rundir.choose(experiment, dataset, workdir)
        trace = open_trace(profile, path, experiment, console)
        rundir.check(path, experiment, dataset)
        result = rundir.read_result(path)
        finished = result is not None and result["steps"] >= experiment.steps
        if peers.first and not finished:
            check_takeable(path)
        resumes = runfiles.has_checkpoint(path)
        origin = None if resumes or finished else find_origin(experiment, batch)
    if peers.count > 1:
        peers.check_same(identity(experiment, dataset, path))
    if result is not None and finished:
        return already_finished(result, experiment, base, launched_as, path, console)
    program = trace.watch(compile_program(experiment, batch))
    hosts.check_joined(console.say)  # asks for the devices, before which there is much to set
    check_state(program.abstract_state)
    state = None if resumes else fresh_state(program, origin)
    locked = holding(path, console.say) if peers.first else contextlib.nullcontext()
    with locked, failures_told(experiment, program, path):
        with peers.together():
            rundir.check(path, experiment, dataset)  # again: it was anyone's until now
            if state is None or runfiles.has_checkpoint(path):
                state = restore(experiment, dataset, program, path, strict, console)
            start = int(state.step)
            history, traced = read_history(path, start), read_trace(path, start)
            held = manifest.read(path)
            again = (path / runfiles.CONFIG).exists()
        # Whatever could be refused has been: from here on things are told and written.
        with peers.together():
            if peers.first:
                rundir.claim(path, experiment, base, dataset, batch)
                begun_as = manifest.begin(path, held, start, experiment, dataset, program)
                introduce(experiment, dataset, program, begun_as, path, console)
        own = path if peers.first else None  # where what one process writes goes
        tell_start(experiment, start, origin, again, console)
        started = Run(
            experiment,
            dataset,
            program,
            path,
            Checkpoints(path / runfiles.CHECKPOINTS, experiment.keep),
            MetricsLog(own, history, console.say),
            TraceLog(own, traced),
            Skips(names_of(program), steps_of(traced)),
            console,
            make_meter(experiment, program.abstract_state, batch),
            trace,
            StopRequest(),
            hosts.hearing(program.mesh),
            start,
            begun,
        )
        result = go_on(started, state)
    report(result, experiment, base, launched_as, path, console)
    return result


@contextlib.contextmanager
def failures_told(experiment: Experiment, program: Program, path: epath.Path) -> Iterator[None]:
    """Within it, memory or a disk that is full is a RunError that says so."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, InputError, SaveError) as error:
        hosts.current().blame(error)
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


def go_on(run: Run, state: TrainState) -> dict[str, Any]:
    """The loop and what comes after it; closes what the run has opened."""
    with run.stop:
        try:
            if run.start == 0:
                fingerprint = run.program.fingerprint
                run.bits.write(Step(0, "", {}, fingerprint.read(fingerprint(state))))
            while True:
                try:
                    with jax.transfer_guard_host_to_device("disallow"):
                        state = loop(run, state)
                    return finish(run, state)
                except NotFinite as error:
                    if run.experiment.on_nonfinite != "rollback":
                        raise
                    noticed = error.with_traceback(None)  # in which the state is held
                del state
                run, state = go_back(run, noticed)
        finally:
            with run.stop.held():
                close(run)


def go_back(run: Run, noticed: NotFinite) -> tuple[Run, TrainState]:
    """The run and its state at the newest whole checkpoint, or at the seed, from where it goes on
    without the first step that went astray. Raises RunError where it has gone back too often.

    As a resumed run does, in the same process: what it has logged since is dropped. Where there are
    several processes all of them come here at the same step, since the metrics are everybody's.
    """
    peers = hosts.current()
    if told := run.skips.rolled_back_too_often:
        raise RunError(f"{noticed}; {told}")
    run.console.say(str(noticed))
    with run.stop.held():
        end_save(run)
    state = begin_again(run)
    start, undone = int(state.step), run.skips.undone
    fed = heeding(run, start, batches(run, start))
    found = find(run.program, state, fed, start, noticed.step, undone)
    where = f"the run goes back to step {start}"
    if found is None:
        run.console.say(f"{where}; the steps since are finite now: the machine had erred")
    else:
        step, leaf = found
        rows = rows_of(step, run.experiment.batch_size)
        run.console.say(f"{where} and skips step {step}, of {rows}, which made {leaf} not finite")
        undone = {**undone, step: leaf}
    del state  # the steps of `find` have been made with it
    state = begin_again(run)
    with peers.together():
        for opened in (run.log, run.bits, run.checkpoints):
            opened.close()
    with peers.together():  # nobody writes what another still reads
        history, traced = read_history(run.path, start), read_trace(run.path, start)
    own = run.path if peers.first else None
    again = run._replace(
        checkpoints=Checkpoints(run.path / runfiles.CHECKPOINTS, run.experiment.keep),
        log=MetricsLog(own, history, run.console.say),
        bits=TraceLog(own, traced),
        skips=Skips(run.skips.names, steps_of(traced), undone, run.skips.rollbacks + 1),
        meter=run.meter._replace(pace=Pace()),
        start=start,
    )
    return again, state


def begin_again(run: Run) -> TrainState:
    """The state of the newest whole checkpoint or, where there is none yet, that of step 0."""
    e = run.experiment
    if runfiles.has_checkpoint(run.path):
        return restore(e, run.dataset, run.program, run.path, False, run.console)
    return fresh_state(run.program, find_origin(e, run.dataset.batch(e.seed, 0, e.batch_size)))


def heeding(run: Run, start: int, fed: Iterator[Fed]) -> Iterator[Fed]:
    """What is fed, until the run is asked to stop; it then stands at step `start`."""
    for each in fed:
        if number := run.heard(run.stop.number):
            raise Stopped(number, start)
        yield each


def loop(run: Run, state: TrainState) -> TrainState:
    """THE loop, from update `run.start` to the last. Its order is its meaning:

    dispatch a step; look at the metrics of the steps before it, so that the host never waits for
    the one just dispatched; evaluate; save. What is logged up to a step is written before that
    step is saved, so that a checkpoint never claims a step whose metrics could still be lost.
    """
    e, program = run.experiment, undoing(run.program, run.start, run.skips.undone)
    pending: list[Dispatched] = []
    fed = watched(run.trace.timed(batches(run, run.start), run.start), run.start, run.console.say)
    for step, (batch, previous, digest) in enumerate(fed, run.start + 1):
        state, metrics = program.train_step(state, batch, previous, program.knobs)
        evaluates = is_due(step, e.evaluate_every, e.steps)
        stopped_by = run.heard(run.stop.number)
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
            honour(run, step, stopped_by)
    return state


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something is done after this step; after the last one `finish` does it."""
    return every > 0 and step % every == 0 and step < last


def batches(run: Run, start: int) -> Iterator[Fed]:
    """What each step from `start` on is given, with the digest of its batch."""
    digests = batch_digests
    if hosts.current().count > 1:
        digests = functools.partial(part_digests, first=run.program.share.start)
    return feed(run.experiment, run.dataset, run.program, digests, start)


def finish(run: Run, state: TrainState) -> dict[str, Any]:
    """Final save, final evaluation, result.json, and what a reader wants to know next."""
    e, step = run.experiment, int(state.step)
    if run.checkpoints.latest() != step:
        save(run, state, step)
    alone = hosts.current().count == 1  # where others are, a signal from here on comes too late
    honour(run, step, run.stop.number if alone else 0)
    validation = evaluate_and_log(run, state, step)
    flush(run)
    params = e.optimizer.evaluation_params(state.opt_state, state.params)
    # What is sampled lies on the devices of one process.
    shown = e.task.showcase(params, run.dataset, key_for(e.seed, "text")) if alone else ""
    result = {
        "experiment": e.name,
        "seed": e.seed,
        "steps": step,
        "parameters": parameter_count(state.params),
        "validation": validation,
        "baselines": {e.task.headline_for(run.dataset): e.task.baselines(run.dataset)},
        "skipped": run.skips.steps,
        "state_digest": state_digest(state, run.program.fingerprint),
        "seconds": time.monotonic() - run.begun,
        "resumed_from": run.start,
        **run.meter.record(),
        **machine(),
        "files": runfiles.digests(run.path),
    }
    with run.stop.held():
        run.checkpoints.wait()
    if hosts.current().first:
        runfiles.write_json(run.path / runfiles.RESULT, result)
    if shown:
        run.console.say("", shown, "")
    return result
