"""How fast are training steps on a CPU beside PyTorch's, of the same models?

    python -m experiments.benchmarks.cpu_peers --json PATH --peer-python PATH

Our compiled train step, as a user gets it (all metrics, default settings), beside PyTorch eager
with as many threads as cores, in a process of its own under --peer-python (an interpreter with
torch; without it, ours alone is measured). Both start from the same weights and see the same
batches, which lie in memory; the losses of the first 20 steps must agree, or the benchmark stops:
speed is never bought by changed maths. Then the two take turns, a block each, every block from the
start weights; the ratio of steps per second is taken within each pair. Two blocks of the peer
beside each other give the noise of that ratio.

mlp         784-512-256-10, batches of 128, SGD with momentum .9
simple_fcn  on 28 x 28 images, batches of 100, SGD with momentum .9
gpt         4 layers, 4 heads, width 128, 64 tokens, batches of 12, 256 token ids, AdamW

Expected (2 cores): ratios of at least 1.8, 2.0 and 1.0.
"""

import argparse
import dataclasses
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.benchmarks.turns import Peer, doubt, ratios, spread, take_turns
from lmjax.data import Batch, Data, Dataset
from lmjax.experiment import Experiment
from lmjax.metrics import unpack, values
from lmjax.models import GPT, MLP, SimpleFCN
from lmjax.optim import AdamW, Constant, Momentum
from lmjax.parallel import Program, compile_program
from lmjax.state import TrainState, parameter_count
from lmjax.tasks import Classification, LanguageModel

BATCHES = 16  # different ones, in turn
LOSSES = 20  # of the first steps, compared
TOLERANCE = 1e-4  # of each of these losses, relative
WARM = 5  # steps of a block that are not counted
BLOCK_SECONDS = 1.0


class Rows(Dataset):
    """Arrays, row by row in order, again and again."""

    name, summary, digest = "drawn", "drawn at random", ""

    def __init__(self, arrays: Batch):
        self.arrays = arrays

    def rows(self, seed: int, start: int, count: int) -> Batch:
        chosen = np.arange(start, start + count) % len(self.arrays["targets"])
        return {name: array[chosen] for name, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(Data):
    """Noise whose class is decided by a random linear map, so that a loss can fall."""

    count: int

    def load(self) -> Rows:
        random = np.random.default_rng(0)
        inputs = random.standard_normal((self.count, 28, 28, 1), np.float32)
        scores = inputs.reshape(self.count, -1) @ random.standard_normal((784, 10), np.float32)
        weights = np.ones(self.count, np.float32)
        targets = scores.argmax(-1).astype(np.int32)
        return Rows({"inputs": inputs, "targets": targets, "weights": weights})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ids(Data):
    """Token ids, low ones more often than high ones, so that a loss can fall."""

    count: int
    length: int

    def load(self) -> Rows:
        uniform = np.random.default_rng(0).random((self.count, self.length + 1))
        tokens = (256 * uniform**2).astype(np.int32)
        weights = np.ones((self.count, self.length), np.float32)
        return Rows({"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights})


class Row(NamedTuple):
    """One comparison."""

    experiment: Experiment
    optimizer: str  # torch's name of it
    settings: dict[str, float]  # torch's names of ours
    least: float  # the ratio that is expected


def classifier(model: Any, batch_size: int, rate: float, least: float) -> Row:
    """A row with SGD and a momentum of .9."""
    experiment = Experiment(
        name="cpu_peers",
        task=Classification(model=model),
        data=Images(count=BATCHES * batch_size),
        optimizer=Momentum(learning_rate=rate),
        schedule=Constant(),
        steps=1,
        batch_size=batch_size,
    )
    return Row(experiment, "SGD", {"lr": rate, "momentum": 0.9}, least)


def language_model() -> Row:
    """The row with AdamW."""
    rule = AdamW(learning_rate=1e-3)
    experiment = Experiment(
        name="cpu_peers",
        task=LanguageModel(model=GPT(depth=4, width=128, heads=4, max_length=64, unroll=4)),
        data=Ids(count=BATCHES * 12, length=64),
        optimizer=rule,
        schedule=Constant(),
        steps=1,
        batch_size=12,
    )
    settings = {"lr": rule.learning_rate, "weight_decay": rule.weight_decay, "eps": rule.eps}
    return Row(experiment, "AdamW", settings, 1.0)


ROWS = {
    "mlp": classifier(MLP(hidden=(512, 256)), 128, 0.01, 1.8),
    "simple_fcn": classifier(SimpleFCN(), 100, 0.001, 2.0),
    "gpt": language_model(),
}


class Training:
    """Our side: the compiled step, the state at the start, and batches on the device."""

    def __init__(self, experiment: Experiment):
        data, size = experiment.data.load(), experiment.batch_size
        self.host = [data.batch(experiment.seed, number, size) for number in range(BATCHES)]
        self.program: Program = compile_program(experiment, self.host[0])
        self.start = self.program.init(self.program.knobs)
        self.batches = [self.program.place(batch)[0] for batch in self.host]

    def begin(self) -> TrainState:
        """A copy of the state at the start, which a step may consume."""
        return jax.block_until_ready(jax.tree.map(jnp.copy, self.start))

    def run(self, state: TrainState, steps: int, first: int = 0) -> TrainState:
        """The state after as many steps, once it is there."""
        for batch in itertools.islice(itertools.cycle(self.batches), first, first + steps):
            state, _ = self.program.train_step(state, batch, None, self.program.knobs)
        return jax.block_until_ready(state)

    def losses(self, steps: int) -> list[float]:
        state, losses = self.begin(), []
        for batch in itertools.islice(itertools.cycle(self.batches), steps):
            state, packed = self.program.train_step(state, batch, None, self.program.knobs)
            losses.append(values(unpack(self.program.metric_names, packed))["loss"])
        return losses

    def seconds(self, steps: int) -> float:
        state = self.run(self.begin(), WARM)
        begun = time.perf_counter()
        self.run(state, steps, WARM)
        return time.perf_counter() - begun

    def export(self, file: Path) -> None:
        """Weights by path, and batches [number, B, ...], for the peer."""
        leaves = jax.tree_util.tree_leaves_with_path(self.start.params)
        arrays: dict[str, Any] = {
            "params/" + jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
            for path, leaf in leaves
        }
        for name in ("inputs", "targets"):
            arrays[name] = np.stack([batch[name] for batch in self.host])
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def check_losses(ours: list[float], theirs: list[float]) -> float:
    """The largest relative difference; raises RuntimeError where it is no rounding."""
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    if worst > TOLERANCE:
        raise RuntimeError(f"the losses differ by {worst:.1e}: {ours} and {theirs}")
    return worst


def measure(name: str, row: Row, peer: Peer | None, pairs: int) -> dict[str, Any]:
    """The numbers of one row."""
    training = Training(row.experiment)
    training.seconds(20)
    steps = max(10, round(BLOCK_SECONDS * 100 / training.seconds(100)))
    result: dict[str, Any] = {"parameters": parameter_count(training.start.params)}
    if peer is None:
        taken = [training.seconds(steps) for _ in range(pairs)]
        return result | {"step_ms": spread([1e3 * seconds / steps for seconds in taken])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "start.npz"
        training.export(file)
        built = peer.ask(row=name, file=str(file), optimizer=row.optimizer, settings=row.settings)
    assert built["parameters"] == result["parameters"]
    losses = training.losses(LOSSES)
    difference = check_losses(losses, peer.ask(losses=LOSSES))
    slow = peer.ask(steps=100, warm=WARM)
    peer_steps = max(10, round(BLOCK_SECONDS * 100 / slow))
    turns = take_turns(
        lambda: training.seconds(steps) / steps,
        lambda: peer.ask(steps=peer_steps, warm=WARM) / peer_steps,
        pairs,
    )
    return result | {
        "torch": built["torch"],
        "loss": [losses[0], losses[-1]],
        "loss_difference": difference,
        "step_ms": spread([1e3 * seconds for seconds in turns.ours]),
        "peer_step_ms": spread([1e3 * seconds for seconds in turns.other]),
        "ratio": ratios(turns.other, turns.ours),
        "noise": ratios(turns.again, turns.other),
        "expected": row.least,
        "pairs": pairs,
    }


def tell(name: str, result: dict[str, Any]) -> str:
    """One line for a reader."""
    line = f"{name}: {result['step_ms']['median']:.3f} ms a step"
    if "ratio" not in result:
        return f"{line}, measured alone (no --peer-python)"
    ratio, noise = result["ratio"], result["noise"]
    first, last = result["loss"]
    return (
        f"{line}, {ratio['median']:.2f} times the peer's speed "
        f"(quartiles {ratio['low']:.2f} to {ratio['high']:.2f}; expected {result['expected']}; "
        f"peer beside peer {noise['median']:.2f}); losses of {LOSSES} steps, "
        f"{first:.3f} to {last:.3f}, differ by {result['loss_difference']:.1e}{doubt(noise)}"
    )


def main() -> None:
    """Measure every row, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description="Training steps beside PyTorch eager.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--peer-python", help="an interpreter that has torch")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of blocks per row")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    given = parser.parse_args()
    results: dict[str, Any] = {
        "jax": jax.__version__,
        "rows": {},
    }
    script = str(Path(__file__).with_name("torch_steps.py"))
    peer = Peer(given.peer_python, script) if given.peer_python else None
    for name in given.rows:
        result = measure(name, ROWS[name], peer, given.pairs)
        results["rows"][name] = result
        print(tell(name, result), flush=True)
    if peer:
        peer.close()
    results["device"] = jax.devices()[0].device_kind  # asked last: a run sets malloc up first
    if given.json:
        epath.Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
