"""What do virtual shards cost over plain data parallelism, and micro-batches over their gradients?

    python -m experiments.benchmarks.parallel_cost --json PATH

virtual_shards_cost  a step with 8 virtual shards beside one without, on 8 and on 2 simulated
                     devices: char_gpt and digits_resnet as they are. BatchNorm without shards sums
                     over devices in each layer, and with them it does not
accumulation         on one device, an update of K micro-batches beside K gradients of one of them,
                     called one after another: char_gpt, 16 windows in a micro-batch

The two of a pair take turns, a block each. Two blocks of the plain one beside each other give the
noise of the ratio. Simulated devices share the cores of the machine, so what each of them does in
vain shows, and what they wait for each other hardly does.

Expected: virtual shards at most 25 % (the goal: 10 %), accumulation at most 2 %.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from etils import epath

from experiments import char_gpt, digits_resnet
from experiments.benchmarks.turns import doubt, ratios, spread, take_turns
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel, make_mesh
from lmjax.optim import Constant
from lmjax.parallel import compile_program
from lmjax.rng import key_for
from lmjax.step import make_value_and_grad

SHARDS, DEVICES = 8, (8, 2)
PIECES = 8  # micro-batches of an update
BATCHES = 4  # different ones, in turn
BLOCK_SECONDS = 1.0
EXPERIMENTS = {"char_gpt": char_gpt.config, "digits_resnet": digits_resnet.config}


def stepping(experiment: Experiment, devices: int) -> Callable[[int], float]:
    """The function steps -> seconds, of the compiled step on so many devices."""
    data, size = experiment.data.load(), experiment.batch_size
    host = [data.batch(0, number, size) for number in range(BATCHES)]
    mesh = make_mesh(Parallel(), jax.devices()[:devices])
    program = compile_program(experiment, host[0], mesh)
    state, batches = program.init(program.knobs), [program.place(batch)[0] for batch in host]

    def seconds(steps: int) -> float:
        nonlocal state
        begun = time.perf_counter()
        for batch in itertools.islice(itertools.cycle(batches), steps):
            state, _ = program.train_step(state, batch, None, program.knobs)
        jax.block_until_ready(state)
        return time.perf_counter() - begun

    return seconds


def gradients(experiment: Experiment) -> Callable[[int], float]:
    """The function number -> seconds, of as many gradients of one micro-batch each."""
    batch = experiment.data.load().batch(0, 0, experiment.batch_size)
    program = compile_program(experiment, batch)
    state, [placed] = program.init(program.knobs), program.place(batch)
    variables, key = {"params": state.params, **state.model_state}, key_for(0, "dropout")
    evaluate = jax.jit(make_value_and_grad(experiment))

    def seconds(number: int) -> float:
        begun = time.perf_counter()
        made = [evaluate(variables, placed, key) for _ in range(number)]
        jax.block_until_ready(made[-1])
        return time.perf_counter() - begun

    return seconds


def beside(
    ours: Callable[[int], float], plain: Callable[[int], float], pairs: int, each: int = 1
) -> dict[str, Any]:
    """Cost of one call of ours over `each` calls of the plain one, in percent."""
    ours(3)  # compiled and warm
    plain(3 * each)
    count = max(3, round(BLOCK_SECONDS * 5 / ours(5)))
    turns = take_turns(lambda: ours(count) / count, lambda: plain(count * each) / count, pairs)
    over, noise = ratios(turns.ours, turns.other), ratios(turns.again, turns.other)
    return {
        "ms": spread([1e3 * seconds for seconds in turns.ours]),
        "plain_ms": spread([1e3 * seconds for seconds in turns.other]),
        "percent": {name: 100 * (ratio - 1) for name, ratio in over.items()},
        "noise": noise,
        "pairs": pairs,
    }


def virtual_shards_cost(pairs: int) -> dict[str, Any]:
    """Name of a model and number of devices -> cost of a step."""
    found = {}
    for name, config in EXPERIMENTS.items():
        plain = config()
        sharded = dataclasses.replace(plain, parallel=Parallel(virtual_shards=SHARDS))
        for devices in DEVICES:
            on = f"{name} on {devices}"
            found[on] = beside(stepping(sharded, devices), stepping(plain, devices), pairs)
    return found


def accumulation(pairs: int) -> dict[str, Any]:
    """The cost of an update, and of one that is computed whole, for comparison."""
    micro = dataclasses.replace(char_gpt.config(), schedule=Constant())
    size = PIECES * micro.batch_size
    summed = dataclasses.replace(micro, batch_size=size, accumulation=PIECES)
    step = stepping(summed, 1)
    return {
        "over gradients": beside(step, gradients(micro), pairs, PIECES),
        "over steps": beside(step, stepping(micro, 1), pairs, PIECES),
    }


MEASURES = {
    "virtual_shards_cost": (virtual_shards_cost, max(DEVICES)),
    "accumulation": (accumulation, 1),
}  # name -> (function, simulated devices that its process sees)


def in_a_process(name: str, pairs: int) -> dict[str, Any]:
    """The numbers of a measure, from a process that sees its devices."""
    flags = f"--xla_force_host_platform_device_count={MEASURES[name][1]}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.json"
        words = ["--measure", name, "--json", str(file), "--pairs", str(pairs)]
        subprocess.run(
            [sys.executable, "-m", "experiments.benchmarks.parallel_cost", *words],
            check=True,
            env={**os.environ, "XLA_FLAGS": flags},
        )
        return json.loads(file.read_text())


def tell(name: str, cost: dict[str, Any]) -> str:
    """One line for a reader."""
    percent = cost["percent"]
    return (
        f"{name}: {cost['ms']['median']:.2f} ms beside {cost['plain_ms']['median']:.2f}, "
        f"{percent['median']:+.1f} % (quartiles {percent['low']:+.1f} to {percent['high']:+.1f}; "
        f"plain beside plain {cost['noise']['median']:.2f}){doubt(cost['noise'])}"
    )


def main() -> None:
    """Measure both, print a line for each row, write the JSON."""
    parser = argparse.ArgumentParser(description="Cost of virtual shards and of accumulation.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of blocks per row")
    parser.add_argument("--measure", choices=MEASURES, help="this one alone, in this process")
    given = parser.parse_args()
    if given.measure:
        results = MEASURES[given.measure][0](given.pairs)
        for name, cost in results.items():
            print(f"{given.measure}, {tell(name, cost)}", flush=True)
    else:
        results = {name: in_a_process(name, given.pairs) for name in MEASURES}
        results |= {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    if given.json:
        epath.Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
