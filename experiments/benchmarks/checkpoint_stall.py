"""How long does a save hold up the training loop?

    python -m experiments.benchmarks.checkpoint_stall --json PATH --pairs 7

`Checkpoints.save` of a GPT's state with AdamW (three numbers for each parameter), beside a bare
copy of the same state to the host, and beside Orbax alone: a CheckpointManager that saves the same
state, asynchronously. The loop is held up by the call itself and by what the next step takes
longer than the one before: on a CPU, Orbax keeps views of the arrays without copying them, and
XLA, which is asked to donate arrays that somebody looks at, copies them first (lmjax/checkpoint.py
is quicker to copy them itself). So the stall is save + next step - step, where the step is one that
reads and donates the whole state and does little else. For the same reason the copy is
np.array(copy=True) of every leaf: jax.device_get would copy nothing on a CPU. What the threads that
write take from the steps after that is not counted.

Two take turns, a block each, the state being random numbers, which do not compress. The ratio and
the excess are taken within each pair; two equal blocks beside each other give the noise of the
ratio. At the end a checkpoint is read back, and must be what was saved before the step that
donated it.

A whole save, until it is committed, is timed beside Orbax's own in the same way: the difference is
what the seal costs (SHA-256 and fsync of every file, fingerprints of the leaves), and the copy;
seal_cost.py tells what of it are the digests of files.

A comparison of 7 pairs is 21 saves, each of 1.5 GB at 125M: on a busy machine with a minute for
each, all three take an hour. So no pair of a comparison begins after --seconds, what is known is
told as it becomes known, and the JSON is written after each size.

Expected: a whole save takes at most 1.15 times that of Orbax alone; a stall of at most 1.25 times
the copy and 30 ms, at 30M and at 125M parameters.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from experiments.benchmarks.turns import Turns, doubt, ratios, spread, take_turns
from lmjax.checkpoint import Checkpoints
from lmjax.data import Tokens
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel, make_mesh
from lmjax.models import GPT
from lmjax.optim import AdamW
from lmjax.parallel import abstract_state
from lmjax.state import TrainState, parameter_count
from lmjax.tasks import LanguageModel

SIZES = {
    "3M": GPT(vocab_size=4096, max_length=256, depth=3, width=192, heads=3),
    "30M": GPT(vocab_size=16384, max_length=1024, depth=7, width=512, heads=8),
    "125M": GPT(vocab_size=50257, max_length=1024, depth=12, width=768, heads=12),
}
TIMES, SECONDS = 1.25, 0.03  # the goal: stall <= TIMES * copy + SECONDS
WHOLE_TIMES = 1.15  # the goal: whole save <= WHOLE_TIMES * that of Orbax
RECORD = {"config": {}, "data": {"digest": "", "next_batch": 0}}


class Training:
    """A state in the memory of the device, and a step that donates it."""

    def __init__(self, model: GPT):
        experiment = Experiment(
            name="checkpoint_stall",
            task=LanguageModel(model=model),
            data=Tokens(sequence_length=16),
            optimizer=AdamW(),
            steps=1,
            batch_size=1,
        )
        mesh = make_mesh(Parallel(), jax.devices()[:1])
        _, self.abstract = abstract_state(experiment, experiment.data.shapes(1), mesh)
        random = np.random.default_rng(0)
        self.state = jax.tree.map(lambda x: placed(random, x), self.abstract)
        self.negate = jax.jit(lambda state: jax.tree.map(lambda x: -x, state), donate_argnums=0)
        for _ in range(2):
            self.step()

    def step(self) -> float:
        """Seconds of a step, which takes the state's place in memory."""
        begun = time.perf_counter()
        self.state = jax.block_until_ready(self.negate(self.state))
        return time.perf_counter() - begun

    def copy(self) -> float:
        """Seconds of a copy of every leaf."""
        begun = time.perf_counter()
        held = to_host(self.state)
        seconds = time.perf_counter() - begun
        del held
        return seconds

    def stall(self, save: Callable[[TrainState], None], wait: Callable[[], None]) -> float:
        """Seconds by which a save holds up the steps around it."""
        plain = self.step()
        begun = time.perf_counter()
        save(self.state)
        seconds = time.perf_counter() - begun
        seconds += self.step() - plain
        wait()
        return seconds

    def whole(self, save: Callable[[TrainState], None], wait: Callable[[], None]) -> float:
        """Seconds until a save is committed, while nothing else goes on."""
        begun = time.perf_counter()
        save(self.state)
        wait()
        return time.perf_counter() - begun


def placed(random: np.random.Generator, abstract: Any) -> jax.Array:
    """Noise of a leaf's shape, on its device; an integer is 0."""
    if np.issubdtype(abstract.dtype, np.integer):
        return jax.device_put(np.zeros(abstract.shape, abstract.dtype), abstract.sharding)
    return jax.device_put(random.standard_normal(abstract.shape, abstract.dtype), abstract.sharding)


def to_host(state: TrainState) -> TrainState:
    """A copy in memory of its own."""
    return jax.tree.map(lambda x: np.array(x, copy=True), state)


class Ours:
    """Checkpoints, as a run has them."""

    def __init__(self, folder: epath.Path):
        self.checkpoints, self.number = Checkpoints(folder, 1), 0

    def save(self, state: TrainState) -> None:
        self.number += 1
        self.checkpoints.save(self.number, state, RECORD)


class Bare:
    """Orbax alone."""

    def __init__(self, folder: epath.Path):
        self.manager = ocp.CheckpointManager(
            folder, options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
        )
        self.number = 0

    def save(self, state: TrainState) -> None:
        self.number += 1
        self.manager.save(self.number, args=ocp.args.StandardSave(vars(state)))


def check(training: Training, ours: Ours) -> None:
    """Raise RuntimeError where a checkpoint is not the state that was saved."""
    saved = to_host(training.state)
    ours.save(training.state)
    training.step()
    ours.checkpoints.wait()
    restored, _ = ours.checkpoints.restore(ours.number, training.abstract)

    def same(state: TrainState) -> bool:
        return all(jax.tree.leaves(jax.tree.map(np.array_equal, saved, state)))

    if not same(restored) or same(training.state):
        raise RuntimeError("the checkpoint holds other numbers than the state that was saved")


def measure(model: GPT, pairs: int, seconds: float) -> dict[str, Any]:
    """The numbers of one size."""
    training = Training(model)
    with tempfile.TemporaryDirectory() as path:
        folder = epath.Path(path)
        ours, bare = Ours(folder / "ours"), Bare(folder / "orbax")

        def our_stall() -> float:
            return training.stall(ours.save, ours.checkpoints.wait)

        def bare_stall() -> float:
            return training.stall(bare.save, bare.manager.wait_until_finished)

        for warm in (our_stall, bare_stall, training.copy):
            warm()
        beside_copy = take_turns(our_stall, training.copy, pairs, seconds)
        print(f"stalls beside copies: {len(beside_copy.ours)} pairs", flush=True)
        beside_bare = take_turns(our_stall, bare_stall, pairs, seconds)
        print(f"beside Orbax's: {len(beside_bare.ours)} pairs", flush=True)
        whole = take_turns(
            lambda: training.whole(ours.save, ours.checkpoints.wait),
            lambda: training.whole(bare.save, bare.manager.wait_until_finished),
            pairs,
            seconds,
        )
        print(f"whole saves: {len(whole.ours)} pairs", flush=True)
        check(training, ours)
        ours.checkpoints.close()
        bare.manager.close()
    return {
        "parameters": parameter_count(training.abstract.params),
        "megabytes": sum(x.nbytes for x in jax.tree.leaves(training.state)) / 1e6,
        "stall_ms": milliseconds(beside_copy.ours),
        "copy_ms": milliseconds(beside_copy.other),
        "over_goal_ms": milliseconds(over_goal(beside_copy)),
        "copy_ratio": ratios(beside_copy.ours, beside_copy.other),
        "copy_noise": ratios(beside_copy.again, beside_copy.other),
        "orbax_ms": milliseconds(beside_bare.other),
        "orbax_ratio": ratios(beside_bare.ours, beside_bare.other),
        "orbax_noise": ratios(beside_bare.again, beside_bare.other),
        "whole_ms": milliseconds(whole.ours),
        "orbax_whole_ms": milliseconds(whole.other),
        "whole_ratio": ratios(whole.ours, whole.other),
        "whole_noise": ratios(whole.again, whole.other),
        "pairs": [len(turns.ours) for turns in (beside_copy, beside_bare, whole)],
    }


def milliseconds(seconds: list[float]) -> dict[str, float]:
    return spread([1e3 * value for value in seconds])


def over_goal(turns: Turns) -> list[float]:
    """Seconds by which each stall is longer than its neighbouring copy allows."""
    return [a - TIMES * b - SECONDS for a, b in zip(turns.ours, turns.other, strict=True)]


def tell(name: str, result: dict[str, Any]) -> str:
    """Some lines for a reader."""

    def span(key: str, digits: int) -> str:
        low, middle, high = (f"{result[key][x]:.{digits}f}" for x in ("low", "median", "high"))
        return f"{middle} (quartiles {low} to {high})"

    met = "met" if result["over_goal_ms"]["median"] <= 0 else "MISSED"
    kept = "met" if result["whole_ratio"]["median"] <= WHOLE_TIMES else "MISSED"
    return (
        f"{name}: {result['parameters']:,} parameters, {result['megabytes']:.0f} MB; "
        f"a save stalls {span('stall_ms', 0)} ms\n"
        f"  a copy takes {span('copy_ms', 0)} ms; stall over copy {span('copy_ratio', 2)}, "
        f"copy over copy {span('copy_noise', 2)}{doubt(result['copy_noise'])}\n"
        f"  goal {TIMES} x copy + {1e3 * SECONDS:.0f} ms: {met} by {span('over_goal_ms', 0)} ms\n"
        f"  Orbax alone stalls {span('orbax_ms', 0)} ms; ours over Orbax {span('orbax_ratio', 2)}, "
        f"Orbax over Orbax {span('orbax_noise', 2)}{doubt(result['orbax_noise'])}\n"
        f"  a whole save takes {span('whole_ms', 0)} ms, Orbax's {span('orbax_whole_ms', 0)} ms; "
        f"ours over Orbax {span('whole_ratio', 2)}, Orbax over Orbax {span('whole_noise', 2)}"
        f"{doubt(result['whole_noise'])}\n"
        f"  goal {WHOLE_TIMES} x Orbax: {kept}"
    )


def main() -> None:
    """Measure every size, print it, write the JSON."""
    parser = argparse.ArgumentParser(description="How long a save holds up the loop.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of blocks per comparison")
    parser.add_argument("--seconds", type=float, default=300, help="after which no pair begins")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    given = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of each wait, which we ask for
    results: dict[str, Any] = {
        "jax": jax.__version__,
        "orbax": ocp.__version__,
        "device": jax.devices()[0].device_kind,
        "sizes": {},
    }
    for name in given.sizes:
        result = results["sizes"][name] = measure(SIZES[name], given.pairs, given.seconds)
        print(tell(name, result), flush=True)
        if given.json:
            epath.Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
