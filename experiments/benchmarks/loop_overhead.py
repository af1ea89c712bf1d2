"""How much does the training loop cost over the bare compiled step?

    python -m experiments.benchmarks.loop_overhead --json PATH

The loop of lmjax.train, with everything a run does in it (data order, gathering, copying to the
device, metrics of every step to metrics.jsonl, its bits to trace.jsonl, TensorBoard, progress),
beside a `for` around the same compiled step on the same state and one batch that stays on the
device. The two take turns, a block each; the ratio is taken within each pair, and the median over
pairs is reported. Two equal blocks of the bare step beside each other give the noise of that ratio.

Each size is an MLP on embedded digits, wide enough for a step near the wanted length.
Expected: at most 1 % at steps of 5 ms and 2 % at 1 ms.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from typing import Any

import jax
from etils import epath

from lmjax import train
from lmjax.checkpoint import Checkpoints
from lmjax.console import Console
from lmjax.data import Examples
from lmjax.experiment import Experiment
from lmjax.models import MLP
from lmjax.nonfinite import Skips
from lmjax.optim import SGD, Constant
from lmjax.parallel import Program, compile_program
from lmjax.profile import Trace
from lmjax.signals import StopRequest
from lmjax.speed import make_meter
from lmjax.state import TrainState
from lmjax.tasks import Classification
from lmjax.trace import TraceLog
from lmjax.writers import MetricsLog, read_history

SIZES = {"1 ms": (320, 320), "5 ms": (768, 768, 768)}  # widths of the hidden layers
BATCH = 128
BLOCK_SECONDS = 1.0


def make(hidden: tuple[int, ...]) -> Experiment:
    """An experiment with the defaults of a user's: only size and length are set."""
    return Experiment(
        name="loop_overhead",
        task=Classification(model=MLP(hidden=hidden)),
        data=Examples(),
        optimizer=SGD(learning_rate=1e-3),
        schedule=Constant(),
        steps=1,
        batch_size=BATCH,
        evaluate_every=0,
        save_every=0,
    )


def bare(program: Program, state: TrainState, batch: Any, steps: int) -> tuple[TrainState, float]:
    """(state, seconds) of a `for` around the compiled step."""
    begun = time.perf_counter()
    for _ in range(steps):
        state, _ = program.train_step(state, batch, None, program.knobs)
    jax.block_until_ready(state)
    return state, time.perf_counter() - begun


def looped(run: train.Run, state: TrainState, steps: int) -> tuple[TrainState, float]:
    """(state, seconds) of the training loop over as many steps."""
    start = int(state.step)
    longer = dataclasses.replace(run.experiment, steps=start + steps)
    begun = time.perf_counter()
    state = train.loop(run._replace(experiment=longer, start=start), state)
    jax.block_until_ready(state)
    return state, time.perf_counter() - begun


def measure(hidden: tuple[int, ...], pairs: int) -> dict[str, Any]:
    """Median overhead of the loop, in percent of the bare step, with its spread and the noise."""
    experiment = make(hidden)
    dataset, host = train.prepare(experiment)
    program = compile_program(experiment, host)
    state, batch = program.init(program.knobs), program.place(host)[0]
    state, _ = bare(program, state, batch, 3)
    state, seconds = bare(program, state, batch, 50)
    steps = max(10, round(BLOCK_SECONDS * 50 / seconds))
    folder = epath.Path(tempfile.mkdtemp())
    run = train.Run(
        experiment,
        dataset,
        program,
        folder,
        Checkpoints(folder / "checkpoints", 1),
        MetricsLog(folder, read_history(folder, 0), print),
        TraceLog(folder, []),
        Skips((), ()),
        Console(quiet=True),
        make_meter(experiment, program.abstract_state, host),
        Trace(None, folder),
        StopRequest(),
        heard=int,
        start=0,
        begun=time.monotonic(),
    )
    state, _ = looped(run, state, steps)
    ratios, noise, step_seconds = [], [], []
    for pair in range(pairs):
        order = [looped, bare, bare] if pair % 2 else [bare, bare, looped]
        taken = []
        for call in order:
            state, seconds = (
                looped(run, state, steps) if call is looped else bare(program, state, batch, steps)
            )
            taken.append(seconds)
        loop_at = order.index(looped)
        ratios.append(taken[loop_at] / taken[1])  # its neighbour in time
        noise.append(taken[2 - loop_at] / taken[1])
        step_seconds.append(taken[1] / steps)
    run.log.close()
    run.bits.close()
    run.checkpoints.close()
    folder.rmtree()
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "step_ms": 1e3 * statistics.median(step_seconds),
        "overhead_percent": 100 * (statistics.median(ratios) - 1),
        "overhead_percent_quartiles": [100 * (q - 1) for q in (quartiles[0], quartiles[2])],
        "noise_percent": 100 * (statistics.median(noise) - 1),
        "pairs": pairs,
        "steps_in_a_block": steps,
    }


def main() -> None:
    """Measure every size, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description="Cost of the training loop.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of blocks per size")
    given = parser.parse_args()
    results: dict[str, Any] = {
        "jax": jax.__version__,
        "sizes": {},
    }
    for name, hidden in SIZES.items():
        result = results["sizes"][name] = measure(hidden, given.pairs)
        low, high = result["overhead_percent_quartiles"]
        print(
            f"{name}: a step of {result['step_ms']:.2f} ms, the loop costs "
            f"{result['overhead_percent']:+.2f} % (quartiles {low:+.2f} to {high:+.2f}; "
            f"bare beside bare {result['noise_percent']:+.2f} %)",
            flush=True,
        )
    results["device"] = jax.devices()[0].device_kind  # asked last: a run sets malloc up first
    if given.json:
        epath.Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
