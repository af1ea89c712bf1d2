"""What does a step cost that skips itself where something is not finite?

    python -m experiments.benchmarks.skip_cost --json PATH --pairs 9

The compiled train step under `--on-nonfinite skip` beside that under `stop`, which is also that of
`rollback`, on the same batch: blocks of steps that take turns, so that what else the machine does
meets both. The ratio is taken within each pair; two equal blocks beside each other give its noise.
Beside the seconds stand those of the processor, over all threads.

Goal: at most 1.03 times the step of a GPT. On 2 cores of an AMD EPYC with other work (2026-11-26):
1.038 (noise 1.007) for char_gpt_tiny, 0.979 (0.915) for digits_resnet, and 2.43 for a small MLP,
whose step takes 0.2 ms: it shows the price of some more operations.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import jax

from experiments import char_gpt, char_gpt_tiny, digits_resnet
from experiments.benchmarks.turns import doubt, ratios, spread, take_turns
from lmjax import train
from lmjax.data import Examples
from lmjax.experiment import Experiment
from lmjax.models import MLP
from lmjax.optim import Momentum
from lmjax.parallel import compile_program
from lmjax.tasks import Classification

BLOCK_SECONDS = 2.0
MODELS = {
    "mlp": lambda: Experiment(
        name="mlp",
        task=Classification(model=MLP(hidden=(128,))),
        data=Examples(),
        optimizer=Momentum(),
        steps=1,
        batch_size=64,
    ),
    "digits_resnet": digits_resnet.config,
    "char_gpt_tiny": char_gpt_tiny.config,
    "char_gpt": char_gpt.config,
}


class Steps:
    """The steps of one policy, over one batch and a state of its own."""

    def __init__(self, experiment: Experiment, policy: str):
        changed = dataclasses.replace(experiment, on_nonfinite=policy)
        _, host = train.prepare(changed)
        self.program = compile_program(changed, host)
        self.state, self.batch = self.program.init(self.program.knobs), self.program.place(host)[0]
        self.previous = self.batch if changed.optimizer.needs_previous_batch else None
        self.cpu: list[float] = []
        self.block(2)
        self.cpu.clear()

    def block(self, steps: int) -> float:
        """Seconds of each of so many."""
        begun, busy = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.state, _ = self.program.train_step(
                self.state, self.batch, self.previous, self.program.knobs
            )
        jax.block_until_ready(self.state)
        self.cpu.append((time.process_time() - busy) / steps)
        return (time.perf_counter() - begun) / steps


def measure(name: str, pairs: int, limit: float) -> dict[str, Any]:
    """The numbers of one model."""
    experiment = MODELS[name]()
    skip, stop = Steps(experiment, "skip"), Steps(experiment, "stop")
    count = max(3, round(BLOCK_SECONDS / stop.block(3)))
    stop.cpu.clear()
    turns = take_turns(lambda: skip.block(count), lambda: stop.block(count), pairs, limit)
    return {
        "skip_ms": spread([1e3 * x for x in turns.ours]),
        "stop_ms": spread([1e3 * x for x in turns.other]),
        "skip_cpu_ms": spread([1e3 * x for x in skip.cpu]),
        "stop_cpu_ms": spread([1e3 * x for x in stop.cpu]),
        "ratio": ratios(turns.ours, turns.other),
        "noise": ratios(turns.again, turns.other),
        "steps": count,
        "pairs": len(turns.ours),
    }


def tell(name: str, result: dict[str, Any]) -> str:
    """A line for a reader."""

    def span(key: str, digits: int) -> str:
        low, middle, high = (f"{result[key][x]:.{digits}f}" for x in ("low", "median", "high"))
        return f"{middle} ({low} to {high})"

    return (
        f"{name}: a step takes {span('skip_ms', 2)} ms, {span('stop_ms', 2)} where it may only "
        f"stop; ratio {span('ratio', 3)}, noise {span('noise', 3)}{doubt(result['noise'])}; "
        f"processor {span('skip_cpu_ms', 2)} and {span('stop_cpu_ms', 2)} ms"
    )


def main() -> None:
    """Measure every model, print it, write the JSON after each."""
    parser = argparse.ArgumentParser(description="What a step costs that skips itself.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of blocks, at most")
    parser.add_argument("--seconds", type=float, default=120, help="after which no pair begins")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    given = parser.parse_args()
    results: dict[str, Any] = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg(),
        "models": {},
    }
    for name in given.models:
        result = results["models"][name] = measure(name, given.pairs, given.seconds)
        print(tell(name, result), flush=True)
        if given.json:
            Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
