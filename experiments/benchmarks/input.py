"""How fast is the input alone, and does a step wait for it?

    python -m experiments.benchmarks.input --json PATH [--peer-python PATH]

Alone, on the host and on one thread: Dataset.rows, in chunks as the trainer asks for them, beside
what plain NumPy does with a ready order, and torch's DataLoader in its own process (under
--peer-python, an interpreter with torch; without it, only NumPy).

images  60,000 of 28 x 28 in memory, batches of 128, float32 and uint8
tokens  50 million of 16 bits in a memory map, batches of 64 windows of 1,024

Then the compiled train step fed by the whole pipeline (rows, prefetch, copies to the device) beside
the same step on one batch that stays on the device. All take turns, a block each; ratios are taken
within each pair, and two equal blocks beside each other give their noise.

Expected: 1 million images and 50 million tokens a second; a fed step at most 1 % slower.
"""

import argparse
import dataclasses
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from experiments.benchmarks.turns import Peer, doubt, ratios, spread, take_turns
from lmjax.data import Data, Dataset, Tokens
from lmjax.data.examples import LabelledExamples
from lmjax.data.order import epoch_order
from lmjax.data.tables import ArrayTable, Parts
from lmjax.experiment import Experiment
from lmjax.models import GPT, MLP
from lmjax.optim import Constant, Momentum
from lmjax.parallel import chunk_of, compile_program, prefetch
from lmjax.tasks import Classification, LanguageModel, Task

IMAGES, TOKENS = 60_000, 50_000_000
VOCABULARY = 256
ALONE_SECONDS, STEP_SECONDS = 0.3, 1.0  # of a block
Blocks = Callable[[int], object]  # make so many batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn(Data):
    """Noise in the shape of MNIST."""

    pixels: str = "float32"

    def load(self) -> LabelledExamples:
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (IMAGES, 28, 28, 1), np.uint8)
        if self.pixels == "float32":
            images = images.astype(np.float32) / 255
        classes = random.integers(0, 10, IMAGES).astype(np.int32)
        table, held_out = ArrayTable(images, classes), ArrayTable(images[:100], classes[:100])
        return LabelledExamples("drawn", Parts(table, held_out, [str(n) for n in range(10)]))


def write_tokens(folder: Path) -> None:
    """Files as nanoGPT's prepare.py writes them."""
    random = np.random.default_rng(0)
    for name, count in (("train", TOKENS), ("val", 100_000)):
        random.integers(0, VOCABULARY, count, np.uint16).tofile(folder / f"{name}.bin")


def write_images(folder: Path, dataset: LabelledExamples) -> None:
    """The training part, for the peer."""
    assert isinstance(dataset.train, ArrayTable)
    np.savez(folder / "images.npz", inputs=dataset.train.inputs, targets=dataset.train.targets)


def tokens_of(folder: Path, length: int) -> Tokens:
    """The settings that read these files."""
    ids: dict[str, Any] = {"vocab_size": VOCABULARY, "end_of_text": 0}
    return Tokens(source=f"tokens:{folder}", sequence_length=length, **ids)


def reader(dataset: Dataset, batch_size: int) -> Blocks:
    """Batches by Dataset.rows, in the trainer's chunks."""
    chunk = chunk_of(dataset.batch(0, 0, batch_size))
    position = itertools.count(step=chunk * batch_size)

    def make(batches: int) -> None:
        for start in itertools.islice(position, -(-batches // chunk)):
            dataset.rows(0, start, chunk * batch_size)

    return make


def plain_images(dataset: LabelledExamples, batch_size: int) -> Blocks:
    """What NumPy takes to index two arrays by a ready order."""
    assert isinstance(dataset.train, ArrayTable)
    inputs, targets = dataset.train.inputs, dataset.train.targets
    chosen = itertools.cycle(
        epoch_order(IMAGES, 0, 0)[: IMAGES // batch_size * batch_size].reshape(-1, batch_size)
    )

    def make(batches: int) -> None:
        for rows in itertools.islice(chosen, batches):
            x = inputs[rows]
            _ = (
                x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x,
                targets[rows],
            )

    return make


def plain_tokens(folder: Path, batch_size: int, length: int) -> Blocks:
    """nanoGPT's get_batch, with 32-bit ids."""
    tokens = np.memmap(folder / "train.bin", np.uint16, mode="r")
    random = np.random.default_rng(0)

    def make(batches: int) -> None:
        for _ in range(batches):
            starts = random.integers(0, len(tokens) - length, batch_size).tolist()
            np.stack([tokens[s : s + length].astype(np.int32) for s in starts])
            np.stack([tokens[s + 1 : s + 1 + length].astype(np.int32) for s in starts])

    return make


class Case(NamedTuple):
    """One pipeline to measure alone."""

    ours: Blocks
    plain: Blocks
    peers: tuple[str, ...]  # kinds of torch_loader.py
    units: int  # images or tokens in a batch
    question: dict[str, Any]  # for torch_loader.py
    least: float  # units a second that are expected


def cases(folder: Path) -> Iterator[tuple[str, Case]]:
    """(name, case) of each pipeline."""
    for pixels in ("float32", "uint8"):
        dataset = Drawn(pixels=pixels).load()
        peers = ("images", "images_by_batch") if pixels == "float32" else ()
        if peers:
            write_images(folder, dataset)
        question = {"folder": str(folder), "batch_size": 128, "length": 0}
        ours, plain = reader(dataset, 128), plain_images(dataset, 128)
        yield f"images {pixels}", Case(ours, plain, peers, 128, question, 1e6)
    question = {"folder": str(folder), "batch_size": 64, "length": 1024}
    ours, plain = reader(tokens_of(folder, 1024).load(), 64), plain_tokens(folder, 64, 1024)
    yield "tokens", Case(ours, plain, ("tokens",), 64 * 1024, question, 50e6)


def timed(make: Blocks) -> Callable[[], float]:
    """Seconds for a batch, by blocks of about ALONE_SECONDS."""
    make(8)
    begun = time.perf_counter()
    make(64)
    batches = max(8, round(64 * ALONE_SECONDS / (time.perf_counter() - begun)))

    def block() -> float:
        begun = time.perf_counter()
        make(batches)
        return (time.perf_counter() - begun) / batches

    return block


def others(case: Case, peer: Peer | None) -> Iterator[tuple[str, Callable[[], float]]]:
    """(name, seconds for a batch) of all that it stands beside; the peer holds one at a time."""
    yield "numpy", timed(case.plain)
    if peer is None:
        return
    for kind in case.peers:
        peer.ask(kind=kind, **case.question)
        yield kind, timed(lambda batches: peer.ask(batches=batches))


def alone(case: Case, peer: Peer | None, pairs: int) -> dict[str, Any]:
    """Units a second of a pipeline, and of each that it stands beside."""
    ours, rates, beside = timed(case.ours), [], {}
    for name, other in others(case, peer):
        turns = take_turns(ours, other, pairs)
        rates += [case.units / seconds for seconds in turns.ours]
        beside[name] = {
            "units_per_second": spread([case.units / seconds for seconds in turns.other]),
            "ratio": ratios(turns.other, turns.ours),
            "noise": ratios(turns.again, turns.other),
        }
    return {
        "units_per_second": spread(rates),
        "expected": case.least,
        "beside": beside,
        "pairs": pairs,
    }


def experiments(folder: Path) -> dict[str, Experiment]:
    """Name -> what is trained to see whether a step waits for its input."""

    def make(task: Task, data: Data, batch_size: int) -> Experiment:
        return Experiment(
            name="input",
            task=task,
            data=data,
            optimizer=Momentum(learning_rate=1e-3),
            schedule=Constant(),
            steps=1,
            batch_size=batch_size,
        )

    gpt = GPT(vocab_size=VOCABULARY, depth=4, width=128, heads=4, max_length=128, unroll=4)
    return {
        "images": make(Classification(model=MLP(hidden=(512, 256))), Drawn(), 128),
        "tokens": make(LanguageModel(model=gpt), tokens_of(folder, 128), 16),
    }


def fed_beside_still(experiment: Experiment, pairs: int) -> dict[str, Any]:
    """How much slower a step is whose batches come through the pipeline."""
    dataset = experiment.data.load()
    host = dataset.batch(0, 0, experiment.batch_size)
    program = compile_program(experiment, host)
    state, still = program.init(program.knobs), program.place(host)[0]
    rows = program.chunk * experiment.batch_size
    chunks = (dataset.batch(0, number, rows) for number in itertools.count())
    feed = prefetch(chunks, program.place)

    def run(batches: Iterator[Any], steps: int) -> float:
        nonlocal state
        begun = time.perf_counter()
        for batch in itertools.islice(batches, steps):
            state, _ = program.train_step(state, batch, None, program.knobs)
        jax.block_until_ready(state)
        return (time.perf_counter() - begun) / steps

    run(feed, 20)
    run(itertools.repeat(still), 5)
    steps = max(10, round(STEP_SECONDS / run(itertools.repeat(still), 20)))
    turns = take_turns(lambda: run(feed, steps), lambda: run(itertools.repeat(still), steps), pairs)
    return {
        "step_ms": spread([1e3 * seconds for seconds in turns.other]),
        "ratio": ratios(turns.ours, turns.other),
        "noise": ratios(turns.again, turns.other),
        "pairs": pairs,
    }


def tell_alone(name: str, result: dict[str, Any]) -> str:
    """One line for a reader."""
    own = result["units_per_second"]
    beside = [
        f"{kind} {each['units_per_second']['median'] / 1e6:.2f} (x {each['ratio']['median']:.2f}; "
        f"noise {each['noise']['median']:.2f}){doubt(each['noise'])}"
        for kind, each in result["beside"].items()
    ]
    return (
        f"{name}: {own['median'] / 1e6:.2f} M/s (quartiles {own['low'] / 1e6:.2f} to "
        f"{own['high'] / 1e6:.2f}; expected {result['expected'] / 1e6:.0f}); " + "; ".join(beside)
    )


def tell_fed(name: str, result: dict[str, Any]) -> str:
    """One line for a reader."""
    percent = {key: 100 * (value - 1) for key, value in result["ratio"].items()}
    noise = 100 * (result["noise"]["median"] - 1)
    return (
        f"{name}: a step of {result['step_ms']['median']:.2f} ms, "
        f"{percent['median']:+.2f} % when fed (quartiles {percent['low']:+.2f} to "
        f"{percent['high']:+.2f}; noise {noise:+.2f} %; expected at most +1)"
        f"{doubt(result['noise'])}"
    )


def main() -> None:
    """Measure everything, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description="The input alone, and real beside synthetic.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--peer-python", help="an interpreter that has torch")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of blocks")
    given = parser.parse_args()
    results: dict[str, Any] = {
        "jax": jax.__version__,
        "alone": {},
        "fed": {},
    }
    script = str(Path(__file__).with_name("torch_loader.py"))
    peer = Peer(given.peer_python, script) if given.peer_python else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder)
        for name, case in cases(folder):
            result = results["alone"][name] = alone(case, peer, given.pairs)
            print(tell_alone(name, result), flush=True)
        for name, experiment in experiments(folder).items():
            result = results["fed"][name] = fed_beside_still(experiment, given.pairs)
            print(tell_fed(name, result), flush=True)
    if peer:
        peer.close()
    results["device"] = jax.devices()[0].device_kind  # asked last: a run sets malloc up first
    if given.json:
        epath.Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
