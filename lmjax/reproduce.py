"""Compute a run again and say whether it is the same, or where it is not.

The environment is compared, and what can be shown is told, before anything is computed. Nothing is
written into the run directory.
"""

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from lmjax import environment, manifest, runfiles, source
from lmjax.archive import Archive
from lmjax.checkpoint import Checkpoints
from lmjax.console import Console, clock
from lmjax.data import Dataset
from lmjax.divergence import Evidence, Verdict, describe, judge
from lmjax.environment import Difference
from lmjax.experiment import Experiment
from lmjax.parallel import compile_program
from lmjax.platforms import equal_threads
from lmjax.record import digest, record_difference, to_record
from lmjax.replay import Apart, Replay, Window, follow, plan
from lmjax.room import check_state
from lmjax.speed import Pace
from lmjax.trace import batch_digests
from lmjax.train import prepare

NEAR = 64  # batches before and after its own among which one that differs is looked for


class Here(NamedTuple):
    """What the same is here, and how it differs."""

    replay: Replay
    program: dict[str, Any]  # as manifest.describe_program tells it
    code: dict[str, Any]
    environment: dict[str, Any]

    def differences(self, launch: dict[str, Any]) -> list[Difference]:
        """Those that can make a difference: with virtual shards, the number of devices cannot."""
        found = environment.differences(launch, self.environment)
        sharded = self.replay.experiment.parallel.virtual_shards > 1
        return [x for x in found if not (sharded and x.name in ("count", "mesh"))]

    def on_as_many(self, launch: dict[str, Any]) -> bool:
        """Whether the mesh is the one that there was."""
        return launch["devices"]["mesh"] == self.environment["devices"]["mesh"]

    def files(self, launch: dict[str, Any]) -> list[str]:
        return source.differences(launch["code"], self.code)


class Report(NamedTuple):
    """What has been found."""

    reproduced: bool
    line: str
    record: dict[str, Any]


def reproduce(
    held: Archive,
    start: int | None = None,
    steps: int | None = None,
    windows: int | None = None,
    console: Console | None = None,
) -> Report:
    """Replay a run, or windows of it (lmjax/replay.py, `plan`), and compare every step.

    Raises InputError where it cannot be checked.
    """
    console = console or Console()
    begun = time.monotonic()
    dataset, batch = prepare(held.experiment)
    folder = held.path / runfiles.CHECKPOINTS
    checkpoints = Checkpoints(folder) if folder.is_dir() else None
    try:
        kept = checkpoints.steps() if checkpoints else []
        total = len(held.trace) - 1
        chosen = plan(total, kept, start, steps, windows)
        if chosen[0].start and checkpoints:
            checkpoints.choose(chosen[0].start)
        program = compile_program(held.experiment, batch)
        check_state(program.abstract_state)
        replay = Replay(held.experiment, dataset, batch, program, held.trace, checkpoints)
        here = Here(
            replay,
            manifest.describe_program(program),
            source.read_code(held.experiment)._asdict(),
            environment.read_environment(program.mesh, held.experiment.parallel.virtual_shards),
        )
        console.say(*introduce(held, here, kept, chosen, windows))
        compared, found = follow_all(held, here, chosen, console)
    finally:
        if checkpoints:
            checkpoints.close()
    report = conclude(held, here, chosen, compared, found)
    report.record["seconds"] = time.monotonic() - begun
    console.say(report.line)
    return report


def adjust(held: Archive) -> list[str]:
    """Give this process the cores, and JAX the simulated devices, that all launches had alike.

    Both count from the moment when JAX is first asked for its devices; returns what was done.
    """
    done = []
    cores = {len(launch["machine"]["cores"]): launch for launch in held.launches}
    visible = environment.visible_cores()
    if len(cores) == 1 and len(visible) not in cores and hasattr(os, "sched_setaffinity"):
        [(count, launch)] = cores.items()
        wanted = launch["machine"]["cores"] if count > len(visible) else visible[:count]
        try:
            os.sched_setaffinity(0, wanted)
        except (OSError, ValueError, TypeError, OverflowError):
            wanted = visible  # the machine has no such cores, which the comparison will tell
        if len(environment.visible_cores()) == count:
            done.append(f"this process uses {count} of its cores, as the run did")
        else:
            os.sched_setaffinity(0, visible)
    devices = {launch["devices"]["count"] for launch in held.launches}
    simulated = all(launch["devices"]["platform"] == "cpu" for launch in held.launches)
    if simulated and len(devices) == 1 and "device_count" not in os.environ.get("XLA_FLAGS", ""):
        [count] = devices
        if count > 1 and simulate(count):
            done.append(f"{count} simulated devices, as the run had")
    equal_threads(held.experiment.parallel.virtual_shards)  # before Orbax asks for the devices
    return done


def simulate(count: int) -> bool:
    """Have JAX simulate devices; False where it has its devices already."""
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except (RuntimeError, ValueError):
        return False
    return True


def introduce(
    held: Archive,
    here: Here,
    kept: Sequence[int],
    chosen: Sequence[Window],
    windows: int | None,
) -> list[str]:
    """What the run was, what differs here, what can be shown, and what will be computed."""
    total, count = len(held.trace) - 1, len(held.launches)
    leaves = sum(bool(step.leaves) for step in held.trace)
    limits = held.manifest["limits"]
    claim = held.manifest["rung"] + (f" ({'; '.join(map(str, limits))})" if limits else "")
    lines = [
        f"{held.path}: {held.experiment.name}, {total:,} steps in {count} "
        f"launch{'es' * (count > 1)}, leaves at {leaves} of them; claims {claim}",
        f"checkpoints: {', '.join(map(str, kept)) or 'none'}",
    ]
    told = all_differences(held, here)
    lines += [f"not as in the run: {each}" for each in told]
    lines.append(f"can be shown: {possible(held, here)}")
    if windows and len(chosen) < windows:
        lines.append(
            f"{windows} windows were asked for, {len(chosen)} can be had: one can begin at the "
            "seed and at a checkpoint alone, of which a run with a larger --keep has more"
        )
    return [*lines, *(f"window: {told_of(window)}" for window in chosen)]


def told_of(window: Window) -> str:
    origin = f"the checkpoint of step {window.start}" if window.start else "the seed"
    return f"steps {window.start + 1} to {window.stop}, from {origin}"


def all_differences(held: Archive, here: Here) -> list[str]:
    """What is not as in some launch that counts."""
    found: list[str] = []
    for launch in held.launches:
        found += map(str, here.differences(launch))
        files = here.files(launch)
        found += [f"code {', '.join(files[:4])}{', ...' * (len(files) > 4)}"] if files else []
    data = held.manifest["data"]["digest"]
    if here.replay.dataset.digest != data:
        found.append(f"data {data[:12]}, now {here.replay.dataset.digest[:12]}")
    return list(dict.fromkeys(found))


def possible(held: Archive, here: Here) -> str:
    """The highest rung that can be shown, before anything is computed."""
    kinds = {x.kind for launch in held.launches for x in here.differences(launch)}
    if kinds - {"devices"}:
        return "R7, unless the bits agree all the same"
    if kinds:
        return "R6, unless the bits agree all the same"
    return f"{shown(held, here)}, every step and leaf to the bit"


def shown(held: Archive, here: Here) -> str:
    """The rung that equal bits show."""
    if not all(map(here.on_as_many, held.launches)):
        return "R5"
    return "R4" if len(held.launches) > 1 else "R3"


def follow_all(
    held: Archive, here: Here, chosen: Sequence[Window], console: Console
) -> tuple[list[int], tuple[Apart, Verdict, str] | None]:
    """(steps compared, what was found apart first) of all windows."""
    compared: list[int] = []
    total, pace = sum(window.stop - window.start for window in chosen), Pace()

    def tell(step: int) -> None:
        compared.append(step)
        pace.mark(len(compared))
        left = pace.remaining(total)
        console.progress(
            lambda: f"step {step} equal, {len(compared)} of {total}  ETA {clock(left)}",
            final=len(compared) == total,
        )

    for window in chosen:
        apart = follow(here.replay, window, tell)
        if apart is not None:
            evidence = gather(held, here, apart)
            verdict = judge(evidence)
            return compared, (apart, verdict, describe(evidence, verdict))
    return compared, None


def gather(held: Archive, here: Here, apart: Apart) -> Evidence:
    """All that is known of a step that is apart."""
    launch, replay = held.launch_of(apart.run.step), here.replay
    then, now = launch["program"], here.program
    keys = manifest.keys(now["knobs"]["seed"])
    return Evidence(
        apart=apart,
        seeds=(then["knobs"]["seed"], now["knobs"]["seed"]),
        keys=[name for name, told in keys.items() if held.manifest["keys"].get(name) != told],
        config=changed_fields(held, replay.experiment),
        rates=(then["knobs"]["learning_rate"], now["knobs"]["learning_rate"]),
        data=(held.manifest["data"]["digest"], replay.dataset.digest),
        position=position_of(replay.dataset, replay.experiment, apart),
        environment=here.differences(launch),
        code=here.files(launch),
        parts=(then["parts"], now["parts"]),
        lowered=then["stablehlo"] == now["stablehlo"],
        same_mesh=here.on_as_many(launch),
        described=(held.manifest["leaves"], replay.program.fingerprint.leaves),
        compute_dtype=replay.experiment.compute_dtype,
    )


def changed_fields(held: Archive, experiment: Experiment) -> list[str]:
    """Fields of the configuration that is replayed which are not as config.json has them."""
    if digest(to_record(experiment, free=False)) == held.manifest["config"]:
        return []
    changed = record_difference(held.config["config"], to_record(experiment))
    return sorted(changed) or ["config"]


def position_of(dataset: Dataset, experiment: Experiment, apart: Apart) -> int | None:
    """The number of the batch that the run had at a step, where it is another one near it."""
    wanted, own = apart.run.batch, apart.run.step - 1
    if wanted == apart.here.batch:
        return None
    size = experiment.batch_size
    for number in sorted(range(max(own - NEAR, 0), own + NEAR), key=lambda n: abs(n - own)):
        if batch_digests(dataset.batch(experiment.seed, number, size), size) == [wanted]:
            return number
    return None


def conclude(
    held: Archive,
    here: Here,
    chosen: Sequence[Window],
    compared: Sequence[int],
    found: tuple[Apart, Verdict, str] | None,
) -> Report:
    """The report of what has been compared."""
    total, leaves = len(held.trace) - 1, len(held.manifest["leaves"])
    begun = [0] if chosen[0].start == 0 else []  # a checkpoint is read, the first state computed
    at = [n for n in [*begun, *compared] if held.trace[n].leaves]
    record: dict[str, Any] = {
        "run": str(held.path),
        "claimed": held.manifest["rung"],
        "steps": total,
        "windows": [list(window) for window in chosen],
        "steps_compared": len(compared),
        "leaves": leaves,
        "leaves_compared_at": at,
        "not_as_in_the_run": all_differences(held, here),
        "devices": here.environment["devices"],
        "versions": here.environment["versions"],
    }
    if found is None:
        where = f" in {len(chosen)} windows" if len(chosen) > 1 else ""
        which = f"{leaves} of {leaves} leaves bitwise at {len(at)} of them"
        which = which if at else "their losses and gradient norms bitwise; leaves were not kept"
        line = f"REPRODUCED {shown(held, here)}: {len(compared)} of {total} steps{where}, {which}"
        return Report(True, line, {"verdict": "reproduced", "rung": shown(held, here), **record})
    apart, verdict, line = found
    record |= {"step": apart.run.step, "cause": verdict.cause, "because": verdict.because}
    record |= {"run_had": apart.run._asdict(), "here": apart.here._asdict(), "line": line}
    record |= {"leaves_here": apart.leaves, "repeats": apart.repeats, "equal_at": apart.equal_at}
    return Report(False, line, {"verdict": "diverged", **record})
