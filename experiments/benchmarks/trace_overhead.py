"""How much does it cost a run to keep its bits (trace.jsonl)?

    python -m experiments.benchmarks.trace_overhead --json PATH

The loop of lmjax.train with the trace beside the same loop without it: no digest of any batch, no
fingerprint of any leaf, no line. The two take turns, a block of whole cycles of fingerprints each;
the ratio is taken within each pair, and the median over pairs is reported. Two equal blocks without
a trace beside each other give the noise of that ratio.

An MLP on embedded digits, wide enough for a step near 20 ms, under SGD (a state of one number for
each parameter) and under AdamW (three). Under AdamW every step reads what the fingerprints read
each 50th. What the parts cost by themselves, which a busy machine blurs less, stands beside it.
Expected: at most 1 % of a step of 20 ms.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from experiments.benchmarks import loop_overhead
from experiments.benchmarks.turns import doubt, ratios, spread, take_turns
from lmjax import train
from lmjax.checkpoint import Checkpoints
from lmjax.console import Console
from lmjax.data import Batch
from lmjax.experiment import Experiment
from lmjax.nonfinite import Skips
from lmjax.optim import SGD, AdamW, Optimizer
from lmjax.parallel import Program, compile_program
from lmjax.profile import Trace
from lmjax.signals import StopRequest
from lmjax.speed import make_meter
from lmjax.state import TrainState
from lmjax.trace import FINGERPRINT_EVERY, Step, TraceLog, batch_digests, exact
from lmjax.writers import MetricsLog, read_history

HIDDEN = (1408, 1408, 1408)
OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(learning_rate=1e-3), "adamw": AdamW()}


class Untraced(TraceLog):
    """A trace that is not kept."""

    def takes_leaves(self, step: int, last: int) -> bool:
        return False

    def digests(self, rows: Batch, batch_size: int) -> list[str]:
        return [""] * (len(rows["targets"]) // batch_size)

    def write(self, step: Step) -> None:
        pass


class Loop:
    """The training loop over one state, block after block."""

    def __init__(self, experiment: Experiment, folder: epath.Path):
        dataset, host = train.prepare(experiment)
        self.program, self.host = compile_program(experiment, host), host
        self.state: TrainState = self.program.init(self.program.knobs)
        self.run = train.Run(
            experiment,
            dataset,
            self.program,
            folder,
            Checkpoints(folder / "checkpoints", 1),
            MetricsLog(folder, read_history(folder, 0), print),
            TraceLog(folder, []),
            Skips((), ()),
            Console(quiet=True),
            make_meter(experiment, self.program.abstract_state, host),
            Trace(None, folder),
            StopRequest(),
            heard=int,
            start=0,
            begun=time.monotonic(),
        )
        self.untraced = Untraced(folder, [])

    def block(self, bits: TraceLog, steps: int) -> float:
        """Seconds of as many steps."""
        start = int(self.state.step)
        longer = dataclasses.replace(self.run.experiment, steps=start + steps)
        begun = time.perf_counter()
        run = self.run._replace(experiment=longer, start=start, bits=bits)
        self.state = train.loop(run, self.state)
        jax.block_until_ready(self.state)
        return time.perf_counter() - begun


def parts(program: Program, state: TrainState, host: Batch, folder: epath.Path) -> dict[str, float]:
    """Microseconds of each thing that the trace adds, by itself: the median of 20."""
    log, size = TraceLog(folder, []), len(host["targets"])
    numbers = exact({"loss": 1 / 3, "grad_norm": 2 / 3})
    leaves = program.fingerprint.read(program.fingerprint(state))
    count = iter(range(10**6))
    calls: dict[str, Callable[[], Any]] = {
        "digest of a batch": lambda: batch_digests(host, size),
        "line": lambda: log.write(Step(next(count), "0" * 8, numbers, {})),
        "fingerprint": lambda: program.fingerprint.read(program.fingerprint(state)),
        "line with leaves": lambda: log.write(Step(next(count), "0" * 8, numbers, leaves)),
    }
    found = {}
    for name, call in calls.items():
        taken = []
        for _ in range(20):
            begun = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begun)
        found[name] = 1e6 * statistics.median(taken)
    log.close()
    return found


def measure(optimizer: Optimizer, pairs: int) -> dict[str, Any]:
    """What the trace costs over the loop without it, in percent of a step."""
    experiment = dataclasses.replace(loop_overhead.make(HIDDEN), optimizer=optimizer)
    folder = epath.Path(tempfile.mkdtemp())
    loop = Loop(experiment, folder)
    steps = FINGERPRINT_EVERY
    for bits in (loop.untraced, loop.run.bits):
        loop.block(bits, steps)
    turns = take_turns(
        lambda: loop.block(loop.run.bits, steps), lambda: loop.block(loop.untraced, steps), pairs
    )
    cost, noise = ratios(turns.ours, turns.other), ratios(turns.again, turns.other)
    by_part = parts(loop.program, loop.state, loop.host, folder / "checkpoints")
    step_ms = 1e3 * statistics.median(turns.other) / steps
    each = by_part["digest of a batch"] + by_part["line"]
    each += (by_part["fingerprint"] + by_part["line with leaves"]) / FINGERPRINT_EVERY
    loop.run.log.close()
    loop.run.bits.close()
    loop.untraced.close()
    loop.run.checkpoints.close()
    folder.rmtree()
    return {
        "step_ms": step_ms,
        "overhead_percent": {name: 100 * (x - 1) for name, x in cost.items()},
        "noise_percent": {name: 100 * (x - 1) for name, x in noise.items()},
        "doubt": doubt(noise),
        "parts_us": by_part,
        "parts_percent": 100 * each / (1e3 * step_ms),
        "step_ms_spread": spread([1e3 * x / steps for x in turns.other]),
        "pairs": pairs,
        "steps_in_a_block": steps,
    }


def main() -> None:
    """Measure under each optimizer, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description="Cost of the trace.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of blocks")
    given = parser.parse_args()
    results: dict[str, Any] = {"jax": jax.__version__}
    for name, optimizer in OPTIMIZERS.items():
        result = results[name] = measure(optimizer, given.pairs)
        cost, noise = result["overhead_percent"], result["noise_percent"]
        print(
            f"{name}: a step of {result['step_ms']:.1f} ms, the trace costs "
            f"{cost['median']:+.2f} % (quartiles {cost['low']:+.2f} to {cost['high']:+.2f}; "
            f"untraced beside untraced {noise['median']:+.2f} %){result['doubt']}; its parts by "
            f"themselves {result['parts_percent']:.2f} %: "
            + ", ".join(f"{part} {us:.0f} us" for part, us in result["parts_us"].items()),
            flush=True,
        )
    results["device"] = jax.devices()[0].device_kind  # asked last: a run sets malloc up first
    if given.json:
        epath.Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
