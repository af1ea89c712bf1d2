"""A cell's bits depend on the cell alone, however and beside whatever else it is computed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.compare import cells, execution, probe
from lmjax.compare.cells import Cell, Work
from lmjax.compare.execution import (
    LANES,
    RUNNERS,
    Strategy,
    knobs_of,
    make_held_out_placer,
    make_placer,
    make_updates,
)
from lmjax.compare.feed import Feed, Span, digests, held_out, spans, stream_hash
from lmjax.compare.plan import Plan, evaluation_steps
from lmjax.data import Examples
from lmjax.experiment import Experiment
from lmjax.models import MLP
from lmjax.optim import MARS, SGD, AdamW, Muon
from lmjax.tasks import Classification
from lmjax.train import run as train

BITS = pytest.mark.bits


@pytest.fixture(scope="module")
def small() -> Experiment:
    """A classifier whose every step shuffles, decays and clips."""
    return Experiment(
        name="small",
        task=Classification(model=MLP(hidden=(32,))),
        data=Examples(),
        optimizer=AdamW(learning_rate=1e-2, clip_norm=1.0),
        steps=12,
        batch_size=65,
        evaluate_every=0,
        save_every=0,
    )


def with_rate(experiment: Experiment, rate: float, seed: int) -> Experiment:
    """The experiment of one cell, as `lmjax train` runs it."""
    optimizer = dataclasses.replace(experiment.optimizer, learning_rate=rate)
    return dataclasses.replace(experiment, optimizer=optimizer, seed=seed)


class Bench:
    """An experiment under a strategy."""

    def __init__(self, experiment: Experiment, name: execution.Name, updates: int = 4):
        dataset = experiment.load_data()
        strategy = Strategy(name, updates, 1)
        points = evaluation_steps(experiment.steps)
        stretches = spans(points, updates)
        size = experiment.batch_size
        place = make_placer(experiment, strategy)
        self.work = Work(
            experiment,
            RUNNERS[name](experiment, dataset.batch(0, 0, size), strategy),
            Feed(dataset, size, stretches, place, 2**20),
            held_out(dataset, size, make_held_out_placer(experiment, strategy)),
            stretches,
            points,
            "here",
        )

    def run(self, *which: tuple[float, int]) -> dict[tuple[float, int], cells.Json]:
        """(rate, seed) -> result, all in one call."""
        made = [Cell("v", rate, seed, "report") for rate, seed in which]
        found = cells.run(self.work, made, lambda: False)
        assert found is not None
        for result in found:
            del result["seconds"]
        return dict(zip(which, found, strict=True))


@pytest.fixture(scope="module")
def lanes(small) -> Bench:
    return Bench(small, "lanes")


GRID = [(0.01, 3), (0.03, 3), (0.01, 4), (1e6, 5), (0.003, 6), (0.01, 7), (0.1, 8), (0.03, 9)]


@BITS
def test_a_cell_of_lanes_does_not_depend_on_its_neighbours(lanes):
    whole = lanes.run(*GRID)
    shuffled = lanes.run(*[GRID[n] for n in (5, 2, 7, 0, 6, 1, 4, 3)])
    cut = lanes.run(*GRID[:3])
    alone = lanes.run(GRID[0])
    for key in GRID:
        assert shuffled[key] == whole[key]
    assert all(cut[key] == whole[key] for key in GRID[:3])
    assert alone[GRID[0]] == whole[GRID[0]]
    states = {result["bits"]["state"] for result in whole.values()}
    assert len(states) == len(GRID)  # rate and seed decide, and one of them diverged
    assert whole[1e6, 5]["diverged"]


@BITS
def test_a_width_as_free_as_the_grid_would_change_the_bits(small, lanes):
    """The negative control of the test above."""
    step = lanes.work.runner.step
    free = jax.jit(jax.vmap(make_updates(step, 3, False), in_axes=(0, 0, None, 0)))
    dataset, own = small.load_data(), knobs_of(0.01, 3)
    loop = RUNNERS["loop"](small, dataset.batch(0, 0, 65), Strategy("loop", 8, 1))
    rows = dataset.rows(3, 0, 8 * 65)
    piece = {name: x.reshape(8, 65, *x.shape[1:]) for name, x in rows.items()}

    def first(width: int) -> list[np.ndarray]:
        states, pieces, knobs = (
            jax.tree.map(lambda *x: jnp.stack(x), *[tree] * width)
            for tree in (loop.start([own]), piece, own)
        )
        carry, _ = free(states, pieces, np.int32(8), knobs)
        return [np.asarray(x[0]) for x in jax.tree.leaves(carry.state.params)]

    def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    assert same(first(LANES), first(LANES))
    assert not all(same(first(width), first(LANES)) for width in (1, 2, 3))


@BITS
def test_cells_have_the_bits_of_train(small, tmp_path):
    """Also where the optimizer asks for the batch before."""
    optimizer, key = MARS(exact=True, clip_norm=1.0), (0.02, 5)
    experiment = dataclasses.replace(small, optimizer=optimizer)
    one = Bench(experiment, "sequential").run(key)[key]
    loop = Bench(experiment, "loop", 1).run(key)[key]
    assert one.pop("strategy") == "sequential"
    assert loop.pop("strategy") == "loop"
    assert one == loop
    result = train(with_rate(experiment, *key), str(tmp_path), quiet=True)
    assert one["bits"]["state"] == result["state_digest"]
    ends = {name: values[-1] for name, values in one["evaluations"]["values"].items()}
    assert ends == result["validation"]


@pytest.mark.sweep
def test_a_language_model_with_dropout_has_the_bits_of_train(tiny_gpt, tmp_path):
    experiment = dataclasses.replace(tiny_gpt, optimizer=Muon(), steps=4, evaluate_every=0)
    bench = Bench(experiment, "loop")
    found = bench.run((0.02, 5))[0.02, 5]
    result = train(with_rate(experiment, 0.02, 5), str(tmp_path), quiet=True)
    assert found["bits"]["state"] == result["state_digest"]
    other = bench.run((0.021, 5))[0.021, 5]
    assert other["bits"]["state"] != found["bits"]["state"]
    assert other["bits"]["init"] == found["bits"]["init"]
    assert other["bits"]["batches"] == found["bits"]["batches"]


@pytest.mark.parametrize("name", ["loop", "lanes"])
def test_one_program_serves_all_rates_and_seeds(small, name):
    execution.traced.clear()
    bench = Bench(small, name)
    for key in GRID[:3]:
        bench.run(key)
    bench.run(*GRID[: bench.work.runner.strategy.lanes])
    assert execution.traced[name] == 1


@pytest.mark.parametrize("name", ["sequential", "loop", "lanes"])
def test_a_cell_that_diverges_says_where(small, name):
    experiment = dataclasses.replace(small, optimizer=SGD())
    found = Bench(experiment, name).run((1e30, 3))[1e30, 3]
    assert 1 <= found["diverged"] <= 4
    values = found["evaluations"]["values"]["loss"]
    assert values[0] == pytest.approx(2.3, abs=0.5)
    assert values[found["diverged"] :] == ["inf"] * (len(values) - found["diverged"])
    assert found["bits"]["state"] is None
    assert cells.curve(found, "loss")[1][-1] == np.inf


def test_stretches_between_evaluations():
    assert spans((0, 4, 9), 100) == (Span(0, 4), Span(4, 9))
    assert spans((0, 4, 9), 2) == (Span(0, 2), Span(2, 4), Span(4, 5), Span(5, 7), Span(7, 9))
    assert spans((0, 1), 1) == (Span(0, 1),)


def test_the_feed_keeps_what_fits_and_makes_the_same_again(small):
    dataset = small.load_data()
    stretches = spans(evaluation_steps(small.steps), 4)
    made = []

    def place(host):
        made.append(len(host["inputs"]))
        return host

    for memory, expected in ((2**30, 12), (0, 36)):
        made.clear()
        feed = Feed(dataset, 65, stretches, place, memory)
        pieces = [feed.piece(5, n) for n in range(len(stretches))]
        again = [feed.piece(5, n) for n in range(len(stretches))]
        third = [feed.piece(5, n) for n in range(len(stretches))]
        assert len(made) == expected
        batches = np.concatenate([piece.placed["inputs"] for piece in pieces])
        for step in (0, 1, small.steps - 1):
            assert np.array_equal(batches[step], dataset.batch(5, step, 65)["inputs"])
        hashes = {
            stream_hash([d for piece in run for d in piece.digests])
            for run in (pieces, again, third)
        }
        assert len(hashes) == 1
    other = digests({"inputs": np.zeros((1, 2), np.float32)})
    assert other != digests({"inputs": np.zeros((1, 2), np.int32)})
    assert other != digests({"targets": np.zeros((1, 2), np.float32)})


@pytest.mark.parametrize(("total", "tried"), [(50.0, False), (70.0, True)])
def test_another_strategy_is_tried_only_where_that_costs_little(monkeypatch, total, tried):
    """On a CPU, after a first trial that took 3 s, beside all cells in `total` seconds by it."""

    class Trial(probe._Trial):
        seconds = 3.0

        def __init__(self):
            pass

        def probe(self):
            return probe.Probe(Strategy("loop", 1, 1), 1.0, total)

    monkeypatch.setattr(probe, "fill_of", lambda plan, lanes: 1.0)
    why = probe._hopeless("lanes", Plan(*[None] * len(Plan._fields)), [Trial()])
    assert (why is None) is tried
    assert tried or "takes about 3 s, and might save 2.5 s" in why
