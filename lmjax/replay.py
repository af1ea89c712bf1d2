"""A run computed again, step for step, beside the bits that its trace holds."""

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxtyping import Array

from lmjax.checkpoint import Checkpoints
from lmjax.data import Batch, Dataset
from lmjax.errors import FieldError, InputError
from lmjax.experiment import Experiment, check_same
from lmjax.feed import feed
from lmjax.metrics import unpack, values
from lmjax.nonfinite import Skips, names_of, undoing
from lmjax.origin import find_origin
from lmjax.parallel import Program
from lmjax.record import from_record
from lmjax.start import fresh_state
from lmjax.state import TrainState, on_devices, on_host
from lmjax.trace import Step, batch_digests, exact

SHARE = 20  # of the steps, one in so many is replayed where windows are asked for
SHORTEST = 2  # steps of such a window


class Window(NamedTuple):
    """The steps after `start` up to `stop`."""

    start: int  # 0 = from the seed, otherwise from the checkpoint of this step
    stop: int


class Apart(NamedTuple):
    """The first step that is not what the run had."""

    run: Step
    here: Step
    leaves: dict[str, str]  # here, after it, whether the run has them or not
    equal_at: int | None  # the last step before it whose leaves were all equal; None = none was
    repeats: bool  # whether it gives the same when it is computed again


class Replay(NamedTuple):
    """What it takes to compute a run again."""

    experiment: Experiment
    dataset: Dataset
    batch: Batch  # one, for its shapes
    program: Program
    trace: Sequence[Step]  # of the run, by step
    checkpoints: Checkpoints | None  # of the run; None = it has none


def plan(
    total: int, kept: Sequence[int], start: int | None, steps: int | None, windows: int | None
) -> list[Window]:
    """The windows of a run of `total` steps that has checkpoints of the steps `kept`.

    Args:
      start: where the only window begins; None = at the seed, or wherever windows can.
      steps: of each window; None = to the end, or what one step in SHARE comes to.
      windows: how many, spread over the steps from which one can go on; None = one.

    There are fewer where there are fewer such steps. Raises InputError.
    """
    for name, value in (("--steps", steps), ("--windows", windows)):
        if value is not None and value < 1:
            raise FieldError(name, value, "must be at least 1")
    if windows is None:
        first = start or 0
        if first >= total:
            told = f"must be below {total}, the last step of the run"
            raise FieldError("--from", first, told)
        return [Window(first, min(total, first + steps if steps else total))]
    if start is not None:
        raise InputError("--from and --windows exclude each other")
    begins = [0, *(step for step in sorted(kept) if 0 < step < total)]
    count = min(windows, len(begins))
    chosen = [begins[round(n * (len(begins) - 1) / max(count - 1, 1))] for n in range(count)]
    length = steps or max(SHORTEST, total // (SHARE * count))
    ends = [*chosen[1:], total]
    return [Window(a, min(a + length, b)) for a, b in zip(chosen, ends, strict=True)]


def begin(replay: Replay, step: int) -> TrainState:
    """The state after a step, from the seed or from the run's checkpoint; raises InputError."""
    if step == 0:
        return fresh_state(replay.program, find_origin(replay.experiment, replay.batch))
    assert replay.checkpoints is not None, "steps to begin at are those of its checkpoints"
    chosen = replay.checkpoints.choose(step)
    program = replay.program
    state, record = replay.checkpoints.restore(chosen, program.abstract_state, program.fingerprint)
    where = f"{replay.checkpoints.directory} step {step}"
    check_same(from_record(Experiment, record["config"], where), replay.experiment, where)
    return state


def follow(replay: Replay, window: Window, tell: Callable[[int], None]) -> Apart | None:
    """Compute a window until something is not as in the trace; None = all of it is.

    `tell` is called with each step that has been compared. Raises InputError where the window
    cannot begin, or begins at a checkpoint that is not what the run had.
    """
    fingerprint = replay.program.fingerprint
    state = begin(replay, window.start)
    run, equal_at = replay.trace[window.start], None
    if run.leaves:
        leaves = fingerprint.read(fingerprint(state))
        here = run._replace(leaves=leaves)
        if here != run and window.start:
            assert replay.checkpoints is not None  # the window begins at one of them
            told = f"{len(differing(run, here))} of its leaves are not those that the run had"
            raise InputError(f"{replay.checkpoints.directory} step {window.start}: {told}")
        if here != run:
            again = begin(replay, 0)
            repeats = fingerprint.read(fingerprint(again)) == leaves
            return Apart(run, here, leaves, None, repeats)
        equal_at = window.start
    kept = None  # the state of step `equal_at`, where it cannot be had by `begin`
    for here, after in compute(replay, state, window):
        if here != replay.trace[here.step]:
            del state, after  # their memory is needed
            if kept is None:
                return examine(replay, begin(replay, window.start), window.start, here, equal_at)
            return examine(
                replay,
                on_devices(kept, replay.program.abstract_state),
                equal_at or 0,
                here,
                equal_at,
            )
        tell(here.step)
        if here.leaves and here.step < window.stop:
            equal_at, kept = here.step, on_host(after)
    return None


def compute(
    replay: Replay, state: TrainState, window: Window, leaves: bool = False
) -> Iterator[tuple[Step, TrainState]]:
    """(bits of a step, a state) of each step of a window.

    The bits lag one step behind what has been dispatched, so that nobody waits for it, but where
    the trace has leaves, which are then computed: there the state is that after the step, and to be
    copied before the next. `leaves` = True computes them everywhere.
    """
    pending = collections.deque[tuple[Any, ...]]()
    skips = Skips(names_of(replay.program), (), skipped_by_hand(replay))
    program = undoing(replay.program, window.start, skips.undone)
    fed = feed(replay.experiment, replay.dataset, program, batch_digests, window.start)
    for step, (batch, previous, digest) in enumerate(fed, window.start + 1):
        state, metrics = program.train_step(state, batch, previous, program.knobs)
        wants = leaves or bool(replay.trace[step].leaves)
        pending.append((step, digest, metrics, program.fingerprint(state) if wants else []))
        while pending and (len(pending) > 1 or wants or step == window.stop):
            yield read(program, skips, *pending.popleft()), state
        if step == window.stop:
            return


def read(
    program: Program,
    skips: Skips,
    step: int,
    batch: str,
    packed: Array,
    leaves: list[Array],
) -> Step:
    """The bits of a step that has been dispatched; waits for it."""
    numbers = values(unpack(program.metric_names, packed))
    skipped = skips.of(step, numbers)
    return Step(step, batch, exact(numbers), program.fingerprint.read(leaves), skipped)


def skipped_by_hand(replay: Replay) -> dict[int, str]:
    """The steps that the run has skipped, where its compiled step does not decide that."""
    if replay.experiment.on_nonfinite != "rollback":
        return {}
    return {step.step: "" for step in replay.trace if step.skipped}


def examine(
    replay: Replay, state: TrainState, since: int, here: Step, equal_at: int | None
) -> Apart:
    """Go again from the state of step `since` to a step that was apart, and compute it twice."""
    step, same, after = here.step, True, state
    if step - 1 > since:
        for seen, newest in compute(replay, state, Window(since, step - 1)):
            same, after = same and seen == replay.trace[seen.step], newest
    before = on_host(after)
    twice = [
        next(
            compute(
                replay,
                on_devices(before, replay.program.abstract_state),
                Window(step - 1, step),
                leaves=True,
            )
        )[0]
        for _ in range(2)
    ]
    first = twice[0] if here.leaves else twice[0]._replace(leaves={})
    repeats = same and twice[0] == twice[1] and first == here
    return Apart(replay.trace[step], here, twice[0].leaves, equal_at, repeats)


def differing(run: Step, here: Step) -> list[str]:
    """Paths of the leaves that are not equal, parameters first."""
    paths = run.leaves.keys() | here.leaves.keys()
    found = [path for path in paths if run.leaves.get(path) != here.leaves.get(path)]
    return sorted(found, key=lambda path: (not path.startswith("params/"), path))
