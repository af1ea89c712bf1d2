"""A run under way: what it works with, and what it writes down as it goes."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from etils import epath
from jaxtyping import Array

from lmjax import hosts
from lmjax.checkpoint import Checkpoints, SaveError
from lmjax.console import Console
from lmjax.data import Dataset
from lmjax.errors import RunError
from lmjax.evaluate import evaluate
from lmjax.experiment import Experiment
from lmjax.lines import Line
from lmjax.metrics import unpack, values
from lmjax.nonfinite import NotFinite, Skips, rows_of
from lmjax.parallel import Program
from lmjax.profile import Trace
from lmjax.record import to_record
from lmjax.signals import Stopped, StopRequest
from lmjax.speed import Meter
from lmjax.state import TrainState, leaves_not_finite
from lmjax.trace import NUMBERS, Step, TraceLog, exact, to_step, whole_digests
from lmjax.writers import MetricsLog


class Dispatched(NamedTuple):
    """A step that the devices may still be at."""

    step: int
    batch: str  # digest, or what this process has to say of it
    metrics: Array  # packed
    leaves: list[Array]  # fingerprints of the state after it; [] where none is taken


class Run(NamedTuple):
    """What the loop works with."""

    experiment: Experiment
    dataset: Dataset
    program: Program
    path: epath.Path
    checkpoints: Checkpoints
    log: MetricsLog
    bits: TraceLog
    skips: Skips
    console: Console
    meter: Meter
    trace: Trace
    stop: StopRequest
    heard: Callable[[int], int]  # a signal, as all processes have it
    start: int  # the step that this process goes on from
    begun: float  # time.monotonic() at its call


def write_metrics(run: Run, state: TrainState, pending: list[Dispatched], keep: int) -> None:
    """Log all pending steps but the newest `keep`; raises NotFinite where one is not, unless it was
    skipped, and RunError where too many were."""
    if told := run.checkpoints.failure():
        run.console.say(told)
    done, pending[:] = pending[: len(pending) - keep], pending[len(pending) - keep :]
    if not done:
        return
    newest = done[-1].step
    numbers: dict[str, float] = {}
    digests = whole_digests(hosts.current().gather([each.batch for each in done]))
    digests = digests or [""] * len(done)  # a process that writes nothing needs none
    for (step, _, packed, leaves), digest in zip(done, digests, strict=True):
        numbers = values(unpack(run.program.metric_names, packed))
        skipped = run.skips.of(step, numbers)
        names = (*NUMBERS, *numbers)  # the loss first, which tells most
        lost = next((name for name in names if not math.isfinite(numbers[name])), "")
        told = f"{lost or 'the update'} is {numbers.get(lost, 'not finite')} of batch {digest}"
        if lost and not skipped:
            flush(run)
            raise not_finite(run, state, step, told)
        run.log.write("train", step, numbers, skipped)
        read = run.program.fingerprint.read(leaves)
        run.bits.write(Step(step, digest, exact(numbers), read, skipped))
        run.skips.count(step, skipped)
        if skipped:
            tell_skipped(run, step, told, skipped)
    pace, last = run.meter.pace, run.experiment.steps
    pace.mark(newest)
    run.console.progress(
        lambda: (
            f"step {newest:{len(str(last))}d}/{last}  loss {numbers['loss']:.4f}"
            f"{run.meter.line(last)}"
        ),
        final=newest == last,
    )


def tell_skipped(run: Run, step: int, told: str, leaf: str) -> None:
    """Say so; raises RunError where too many steps were."""
    rows = rows_of(step, run.experiment.batch_size)
    line = f"step {step} is skipped: {told} ({rows}), {leaf} the first that is not finite"
    if many := run.skips.too_many:
        flush(run)
        newest = run.checkpoints.latest()
        raise RunError(f"{line}; {many}; the run stops, the newest checkpoint is of step {newest}")
    run.console.say(line)


def not_finite(run: Run, state: TrainState, step: int, told: str) -> NotFinite:
    """What stops a run that has gone astray at a step, noticed when the state was `state`."""
    end_save(run)  # that of the newest step may be under way
    newest, at, bad = run.checkpoints.latest(), int(state.step), leaves_not_finite(state)
    leaves = f"{len(bad)} leaves are not finite, {bad[0]} the first" if bad else "all are finite"
    line = (
        f"step {step}: {told} ({rows_of(step, run.experiment.batch_size)}); at step {at} {leaves}"
    )
    if run.experiment.on_nonfinite == "stop":
        line += "; the run stops (--on-nonfinite rollback goes on without the step)"
    return NotFinite(step, f"{line}; the newest checkpoint is of step {newest}")


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
    if leaves_not_finite(state):  # this step's loss, of the parameters before it, may be finite
        raise not_finite(run, state, step, "the update is not finite")
    record = {
        "config": to_record(run.experiment),
        "data": {"digest": run.dataset.digest, "next_batch": step},
    }
    with run.stop.held():
        end_save(run)
        try:
            run.checkpoints.save(step, state, record, run.program.fingerprint)
        except SaveError as error:
            run.console.say(str(error))


def end_save(run: Run) -> None:
    """Wait for the save under way; one that fails is told."""
    try:
        run.checkpoints.wait()
    except SaveError as error:
        run.console.say(str(error))


def flush(run: Run) -> None:
    """Hand all lines to the operating system, before a checkpoint claims their step."""
    run.log.flush()
    run.bits.flush()


def honour(run: Run, step: int, number: int) -> None:
    """Raise Stopped where a signal asked the run to stop, once its save of this step is committed;
    `number` is 0 where none did."""
    if number:
        with run.stop.held():
            run.checkpoints.wait()
        raise Stopped(number, step)


def close(run: Run) -> None:
    """All that it has opened; waits for the save under way."""
    run.trace.close()
    run.log.close()
    run.bits.close()
    run.checkpoints.close()


def steps_of(lines: list[Line]) -> list[Step]:
    """Those that the lines of a trace are of; `read_trace` has refused all others."""
    return [step for step in (to_step(line.entry) for line in lines) if step is not None]
