"""How long does a grid of cells take, beside its best strategy and beside PyTorch one by one?

    python -m experiments.benchmarks.compare_throughput --json PATH [--peer-python PATH]

A grid is what `lmjax compare` runs: two variants, three trials and five report seeds each. It is
run as a user gets it (a strategy is chosen by measuring, programs are compiled), then under each
strategy by force; nothing is kept from one run for the next. Beside it the same grid of the same
model, from the same weights on batches of the same shape, in PyTorch eager with as many threads as
cores, one cell after the other: the same number of updates, and the loss of as many held-out
batches at the same steps. The losses of the first 20 updates must agree. Compilation counts on our
side alone. On a GPU also the time of 32 cells in lanes over that of 32 one by one.

mlp         64-32-10 on digits, batches of 128, SGD with momentum .9
simple_fcn  digits_fcn, batches of 128, SGD with momentum .9
gpt         char_gpt_tiny, AdamW

Expected (2 cores): at most 1.05 times the best strategy's time, within the tenth by which equal
runs differ, and a third of PyTorch's, which gpt (1 / 1.5) misses.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath

from experiments import char_gpt_tiny, digits_fcn
from experiments.benchmarks.cpu_peers import LOSSES, Training, check_losses
from experiments.benchmarks.turns import Peer
from lmjax.cli import parse_value
from lmjax.compare import command, probe
from lmjax.compare.comparison import Loaded, Workers, Workshop
from lmjax.compare.execution import RUNNERS, Name
from lmjax.compare.lease import Leases
from lmjax.compare.plan import Plan, evaluation_steps
from lmjax.compare.progress import Progress
from lmjax.compare.queue import Board
from lmjax.console import Console
from lmjax.experiment import Experiment
from lmjax.models import MLP
from lmjax.optim import AdamW, Constant, Momentum
from lmjax.platforms import limit_blas
from lmjax.signals import StopRequest
from lmjax.tasks import Classification

FLAGS = ["--axis", "schedule:constant", "schedule:linear", "--trials", "3", "--seeds", "5"]
GPU_CELLS = 32


class Row(NamedTuple):
    """One grid."""

    experiment: Experiment
    optimizer: str  # torch's name of it
    settings: dict[str, float]  # torch's names of ours
    steps: int  # of a cell


def rows() -> dict[str, Row]:
    """The grids, by the name of PyTorch's model."""
    momentum = {"lr": 0.1, "momentum": 0.9}
    fcn = dataclasses.replace(
        digits_fcn.config(), optimizer=Momentum(learning_rate=0.1), schedule=Constant()
    )
    mlp = dataclasses.replace(fcn, task=Classification(model=MLP(hidden=(32,))))
    rule = AdamW(learning_rate=1e-3)
    gpt = dataclasses.replace(char_gpt_tiny.config(), optimizer=rule, schedule=Constant())
    adamw = {"lr": rule.learning_rate, "weight_decay": rule.weight_decay, "eps": rule.eps}
    return {
        "mlp": Row(mlp, "SGD", momentum, 4000),
        "simple_fcn": Row(fcn, "SGD", momentum, 2000),
        "gpt": Row(gpt, "AdamW", adamw, 500),
    }


class Grid:
    """A row as `lmjax compare` has it."""

    def __init__(self, row: Row):
        base = dataclasses.replace(row.experiment, steps=row.steps)
        given, _ = command.parser().parse_known_args(FLAGS)
        self.plan: Plan
        self.loaded: Loaded
        self.plan, self.loaded = command.make(base.name, base, given, parse_value)

    @property
    def held_out(self) -> int:
        """Batches of an evaluation."""
        dataset, size = self.loaded.datasets[self.plan.baseline], self.plan.base.batch_size
        return sum(len(list(member.evaluation(size))) for member in dataset.members)

    def choose(self, forced: Name | None = None) -> tuple[probe.Choice, float]:
        """(how, seconds that choosing it took)."""
        label, begun = self.plan.baseline, time.perf_counter()
        dataset, batch = self.loaded.datasets[label], self.loaded.batches[label]
        choice = probe.choose(self.plan, dataset, batch, forced)
        return choice, time.perf_counter() - begun

    def seconds(self, choice: probe.Choice) -> float:
        """Of all cells, with the compilation of what has not been compiled yet."""
        begun, strategy = time.perf_counter(), choice.strategy
        workshop = Workshop(self.plan, self.loaded, strategy, "benchmark", choice.made)
        stop, quiet = StopRequest(), Console(quiet=True)
        with tempfile.TemporaryDirectory() as folder:
            path = epath.Path(folder)
            with Leases(path, print).beating() as leases:
                board = Board(self.plan, path, leases, strategy.lanes)
                Workers(workshop, board, stop, Progress(board, strategy, quiet)).run()
        assert len(board.results) == self.plan.cells
        return time.perf_counter() - begun


def measure(name: str, row: Row, peer: Peer | None) -> dict[str, Any]:
    """The numbers of one grid."""
    grid = Grid(row)
    jax.clear_caches()
    chosen, choosing = grid.choose()
    total = choosing + grid.seconds(chosen)
    forced: dict[str, float] = {}
    for strategy in RUNNERS:
        known, _ = grid.choose(strategy)
        jax.clear_caches()
        forced[strategy] = grid.seconds(known._replace(made={}))
    result: dict[str, Any] = {
        "cells": grid.plan.cells,
        "updates": grid.plan.cells * row.steps,
        "chosen": chosen.strategy._asdict(),
        "told": chosen.told,
        "seconds": total,
        "choosing": choosing,
        "forced": forced,
        "over_best": total / min(forced.values()),
    }
    if peer is not None:
        result |= beside_peer(name, row, peer, grid)
        result["ratio"] = result["peer_seconds"] / total
    return result


def beside_peer(name: str, row: Row, peer: Peer, grid: Grid) -> dict[str, Any]:
    """The same grid in PyTorch, one cell after the other."""
    training = Training(dataclasses.replace(row.experiment, steps=row.steps))
    looks = {"looks": evaluation_steps(row.steps), "batches": grid.held_out}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "start.npz"
        training.export(file)
        built = peer.ask(row=name, file=str(file), optimizer=row.optimizer, settings=row.settings)
    difference = check_losses(training.losses(LOSSES), peer.ask(losses=LOSSES))
    taken = [peer.ask(steps=row.steps, warm=0, **looks) for _ in range(grid.plan.cells)]
    return {"torch": built["torch"], "loss_difference": difference, "peer_seconds": sum(taken)}


def lanes_over_sequential(row: Row) -> float:
    """On a GPU: seconds of 32 cells in lanes over those of 32 one by one, by their pace."""
    grid = Grid(row)
    label = grid.plan.baseline
    given = grid.plan, grid.loaded.datasets[label], grid.loaded.batches[label]
    lanes, sequential = (probe.pace(*given, name) for name in ("lanes", "sequential"))
    return sequential / lanes


def tell(name: str, result: dict[str, Any]) -> str:
    """One line for a reader."""
    forced = ", ".join(f"{key} {value:.1f}" for key, value in result["forced"].items())
    line = (
        f"{name}: {result['cells']} cells, {result['updates']:,} updates in "
        f"{result['seconds']:.1f} s by {result['chosen']['name']}, {result['choosing']:.1f} s to "
        f"choose included; by force {forced} s; {result['over_best']:.2f} times the best"
    )
    if "ratio" in result:
        line += (
            f"; PyTorch one by one {result['peer_seconds']:.1f} s, {result['ratio']:.2f} times "
            f"ours (losses differ by {result['loss_difference']:.1e})"
        )
    if "lanes_over_sequential" in result:
        line += f"; {GPU_CELLS} in lanes take {result['lanes_over_sequential']:.3f} of one by one"
    return line


def main() -> None:
    """Measure every row, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description="Grids of cells beside PyTorch one by one.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--peer-python", help="an interpreter that has torch")
    parser.add_argument("--rows", nargs="+", choices=rows(), default=list(rows()))
    parser.add_argument("--steps", type=int, help="of a cell, in place of the row's own")
    given = parser.parse_args()
    limit_blas()
    results: dict[str, Any] = {"jax": jax.__version__, "rows": {}}
    script = str(Path(__file__).with_name("torch_steps.py"))
    peer = Peer(given.peer_python, script) if given.peer_python else None
    Grid(rows()[given.rows[0]]).choose()  # what a process pays once, no strategy shall
    for name in given.rows:
        row = rows()[name]
        row = row._replace(steps=given.steps or row.steps)
        result = measure(name, row, peer)
        if jax.default_backend() == "gpu":
            result["lanes_over_sequential"] = lanes_over_sequential(row)
        results["rows"][name] = result
        print(tell(name, result), flush=True)
    if peer:
        peer.close()
    results["device"] = jax.devices()[0].device_kind
    if given.json:
        epath.Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
