"""Our side of gpt_gpu.py, in a process of its own: lmjax's compiled step, as it is configured.

It answers lines of JSON (gpt_sweep.py, `serve`), each with fields `do` and `tiny` (toy sizes), and:
    describe                          versions and the device
    try      row, point, seconds      rate, first losses and what the compiled step shows
    export   row, folder              initial weights and tokens, for the peer
    prepare  row, point               compiles a point, for what follows
    block    seconds                  seconds of a token, from the start weights on
    profile  folder                   the operations that took longest
    roofline row, point, seconds ...  what the step's parts take alone (gpt_parts.py)
    ceilings, embedding, attention    gpt_parts.py
    bits     steps                    digests of the state after the same steps
"""

import dataclasses
import gc
import itertools
import time
from pathlib import Path
from typing import Any, cast

import flax
import jax
import numpy as np
import optax
from etils import epath

from experiments.benchmarks import gpt_hlo, gpt_parts
from experiments.benchmarks.gpt_rows import BATCHES, LOSSES, Point, Row, Zipf, experiment, rows
from experiments.benchmarks.gpt_sweep import serve
from lmjax import flops
from lmjax.compilation import use_cache
from lmjax.errors import InputError
from lmjax.metrics import unpack, values
from lmjax.operations import read_trace, table
from lmjax.parallel import Program, compile_program
from lmjax.speed import peak_memory, training_costs
from lmjax.state import TrainState, parameter_count, state_digest

WARM = 5  # steps of a block that are not counted
TRACED = 3  # steps of a profile
NO_ROOM = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")


class Training:
    """A point of a row: its compiled step, and its batches on the device."""

    def __init__(self, row: Row, point: Point):
        self.row, self.point = row, point
        self.experiment = experiment(row, point)
        dataset = self.experiment.data.load()
        host = [dataset.batch(0, number, point.batch) for number in range(BATCHES)]
        self.tokens = host[0]["targets"].size
        begun = time.perf_counter()
        self.program: Program = compile_program(self.experiment, host[0])
        abstract, step = self.program.abstract_state, cast(Any, self.program.train_step)
        self.lowered = step.lower(abstract, host[0], None, self.program.knobs)
        self.step = self.lowered.compile()
        self.compile_seconds = time.perf_counter() - begun
        self.batches = [self.program.place(batch)[0] for batch in host]
        self.costs = training_costs(self.experiment, abstract, host[0])

    def begin(self, seed: int | None = None) -> TrainState:
        """The state before the first step, drawn anew: a copy that is kept would take its room."""
        knobs = self.program.knobs
        if seed is not None:
            knobs = knobs._replace(seed=jax.device_put(np.uint32(seed), knobs.seed.sharding))
        return self.program.init(knobs)

    def run(self, state: TrainState, steps: int, first: int = 0) -> tuple[TrainState, list[Any]]:
        """The state after as many steps, once it is there, and their packed metrics."""
        told = []
        for batch in itertools.islice(itertools.cycle(self.batches), first, first + steps):
            state, packed = self.step(state, batch, None, self.program.knobs)
            told.append(packed)
        return jax.block_until_ready(state), told

    def losses(self, told: list[Any]) -> list[float]:
        names = self.program.metric_names
        return [values(unpack(names, packed))["loss"] for packed in told]

    def timed(self, state: TrainState, seconds: float, first: int) -> tuple[float, int]:
        """(seconds of a step, steps that were timed), of as many as take about so long."""
        begun = time.perf_counter()
        state, _ = self.run(state, WARM, first)
        steps = max(WARM, round(seconds * WARM / (time.perf_counter() - begun)))
        begun = time.perf_counter()
        self.run(state, steps, first + WARM)
        return (time.perf_counter() - begun) / steps, steps

    def memory(self) -> dict[str, int]:
        """Bytes of the compiled step."""
        found = self.step.memory_analysis()
        parts = {
            "state": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.abstract)),
            "arguments": found.argument_size_in_bytes,
            "outputs": found.output_size_in_bytes,
            "aliased": found.alias_size_in_bytes,
            "temporary": found.temp_size_in_bytes,
        }
        held = parts["arguments"] + parts["outputs"] + parts["temporary"]
        return {**parts, "peak": held - parts["aliased"]}

    @property
    def abstract(self) -> TrainState:
        return self.program.abstract_state

    def checks(self, memory: dict[str, int]) -> dict[str, Any]:
        """What the compiled step shows, and under `wrong` what it must not."""
        model = self.row.model
        found = gpt_hlo.check(
            self.lowered.as_text(),
            self.step.as_text(),
            self.tokens,
            {model.vocab_size, model.table_rows},
            model.width**2,
        )
        cudnn = self.program.notes["attention"].startswith("cudnn")
        cut = self.point.cross_entropy != "plain" and self.point.loss_chunk < self.tokens
        wrong = {
            "attention says cudnn, and its kernel is not there forward and backward": cudnn
            and not (found["cudnn_forward"] and found["cudnn_backward"]),
            "not the whole state is donated": memory["aliased"] != memory["state"],
            f"all logits in float32: {found['float32_logits']}": cut and found["float32_logits"],
            f"float32 products: {found['float32_products']}": cudnn and found["float32_products"],
        }
        return {**found, "wrong": [told for told, holds in wrong.items() if holds]}


class Ours:
    """What was prepared, from question to question."""

    def __init__(self) -> None:
        self.training: Any = None

    def attempt(self, row: str, tiny: bool, point: dict[str, Any], seconds: float) -> Any:
        """The rate of a point, or why it cannot run."""
        try:
            return self.measure(rows(tiny)[row], Point(**point), seconds)
        except InputError as error:
            return {"refused": str(error)}
        except jax.errors.JaxRuntimeError as error:
            if not any(words in str(error) for words in NO_ROOM):
                raise
            return {"refused": f"out of memory: {str(error).splitlines()[0]}"}
        finally:
            gc.collect()
            jax.clear_caches()

    def measure(self, row: Row, point: Point, seconds: float) -> dict[str, Any]:
        training = Training(row, point)
        memory = training.memory()
        state, told = training.run(training.begin(), LOSSES)
        taken, steps = training.timed(state, seconds, LOSSES)
        rate = training.tokens / taken
        return {
            "tokens_per_second": rate,
            "mfu": mfu(training.costs, rate),
            "step_ms": 1e3 * taken,
            "steps": steps,
            "compile_s": training.compile_seconds,
            "losses": training.losses(told),
            "parameters": parameter_count(training.abstract.params),
            "flops_per_token": training.costs,
            "memory_bytes": memory,
            "notes": training.program.notes,
            "checks": training.checks(memory),
        }

    def export(self, row: str, tiny: bool, folder: str) -> dict[str, str]:
        """A file for each parameter, by path, and the tokens: row p of the stream is row p."""
        chosen = rows(tiny)[row]
        made = experiment(chosen, chosen.start)
        batch = made.data.load().batch(0, 0, made.batch_size)
        program = compile_program(made, batch)
        state = program.init(program.knobs)
        files: dict[str, str] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            files[name] = str(Path(folder) / f"{name.replace('/', '.')}.npy")
            np.save(files[name], np.asarray(leaf))
        data = made.data
        assert isinstance(data, Zipf)
        np.save(Path(folder) / "tokens.npy", data.tokens())
        return files

    def prepare(self, row: str, tiny: bool, point: dict[str, Any]) -> dict[str, Any]:
        self.training = Training(rows(tiny)[row], Point(**point))
        return {"compile_s": self.training.compile_seconds}

    def block(self, tiny: bool, seconds: float) -> dict[str, Any]:
        taken, steps = self.training.timed(self.training.begin(), seconds, 0)
        return {
            "seconds_per_token": taken / self.training.tokens,
            "steps": steps,
            "peak_bytes": peak_memory(),
        }

    def profile(self, tiny: bool, folder: str) -> list[str]:
        state, _ = self.training.run(self.training.begin(), WARM)
        with jax.profiler.trace(folder):
            begun = time.perf_counter()
            self.training.run(state, TRACED, WARM)
            taken = time.perf_counter() - begun
        return table(read_trace(epath.Path(folder)), taken, TRACED)


def mfu(costs: dict[str, float], rate: float) -> dict[str, float]:
    """By convention; {} for a device whose peak is not known."""
    peak = flops.peak(jax.devices()[0].device_kind)
    return {} if peak is None else {name: rate * cost / peak for name, cost in costs.items()}


def roofline(row: str, tiny: bool, point: dict[str, Any], seconds: float, **told: Any) -> Any:
    """The parts of a step, each measured alone."""
    return gpt_parts.roofline(rows(tiny)[row].model, Point(**point), seconds, **told)


def bits(tiny: bool, steps: int) -> dict[str, Any]:
    """Digests of the state after the same steps twice, and of another seed's; and their pace.

    Of two layers, the whole table and a short batch: what may differ from run to run is there.
    """
    row = rows(tiny)["124m"]
    row = row._replace(model=dataclasses.replace(row.model, depth=2))
    training = Training(row, row.start._replace(batch=4 if tiny else 8))
    digests = [
        state_digest(training.run(training.begin(seed), steps)[0]) for seed in (None, None, 1)
    ]
    taken, _ = training.timed(training.begin(), 0.2 if tiny else 1.0, 0)
    return {
        "digests": digests[:2],
        "other_seed": digests[2],
        "step_ms": 1e3 * taken,
        "compile_s": training.compile_seconds,
    }


def describe(tiny: bool) -> dict[str, Any]:
    """Versions and the device."""
    device = jax.devices()[0]
    stats = device.memory_stats()
    return {
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "device": device.device_kind,
        "platform": device.platform,
        "peak_flops": flops.peak(device.device_kind),
        "memory_limit_bytes": stats["bytes_limit"] if stats else None,
    }


if __name__ == "__main__":
    use_cache()
    ours = Ours()
    serve(
        {
            "describe": describe,
            "try": ours.attempt,
            "export": ours.export,
            "prepare": ours.prepare,
            "block": ours.block,
            "profile": ours.profile,
            "roofline": roofline,
            "ceilings": gpt_parts.ceilings,
            "embedding": gpt_parts.embedding,
            "attention": gpt_parts.attention,
            "bits": bits,
        }
    )
