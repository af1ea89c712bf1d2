"""R7: another machine or other versions give other bits, and no other results.

Bits that differ in the last place grow until they decide which loss a seed ends with. So two
stacks are compared as two optimizers are: by pairs of runs with the same seed and the same data.
The losses of one stack are stored (references/make_stacks.py); this test runs on both.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from lmjax.compare.paired import paired_difference
from lmjax.data import Examples
from lmjax.evaluate import evaluate
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel, make_mesh
from lmjax.models import MLP
from lmjax.optim import SGD
from lmjax.parallel import compile_program
from lmjax.tasks import Classification

REFERENCE = Path(__file__).parent / "references" / "stacks.json"
SEEDS = 12
SHARE = 0.05  # of the losses' own spread over seeds: what two stacks may differ by at most


def experiment(learning_rate: float = 0.5) -> Experiment:
    """An MLP on digits, at a rate so high that a difference in the last place grows."""
    return Experiment(
        name="stacks",
        task=Classification(model=MLP(hidden=(32,), classes=10)),
        data=Examples(source="digits"),
        optimizer=SGD(learning_rate=learning_rate),
        steps=300,
        batch_size=32,
    )


def final_losses(e: Experiment, nudge: float = 0.0) -> np.ndarray:
    """The held-out loss of each seed at the end, by one compiled program.

    `nudge` multiplies the first parameters by 1 + nudge: what rounding does, on purpose.
    """
    dataset = e.load_data()
    mesh = make_mesh(Parallel(), jax.devices()[:1])
    program = compile_program(e, dataset.batch(0, 0, e.batch_size), mesh)
    losses = []
    for seed in range(SEEDS):
        knobs = program.knobs._replace(seed=jax.device_put(np.uint32(seed)))
        state = program.init(knobs)
        if nudge:
            params = jax.tree.map(lambda p: p * np.float32(1 + nudge), state.params)
            state = dataclasses.replace(state, params=params)
        for step in range(e.steps):
            (batch,) = program.place(dataset.batch(seed, step, e.batch_size))
            state, _ = program.train_step(state, batch, None, knobs)
        losses.append(evaluate(program, state, dataset, e)["loss"])
    return np.array(losses)


@pytest.fixture(scope="module")
def stored() -> np.ndarray:
    return np.array(json.loads(REFERENCE.read_text())["losses"])


def differ(ours: np.ndarray, stored: np.ndarray) -> bool:
    """Whether the mean difference can be further from 0 than the share of the seeds' spread."""
    found = paired_difference(ours, stored)
    if found.interval is None:  # the same on all seeds, to the last few bits
        return abs(found.mean) > SHARE * stored.std(ddof=1)
    return max(-found.interval.low, found.interval.high) > SHARE * stored.std(ddof=1)


@pytest.mark.smoke
def test_this_stack_gives_the_results_of_the_stored_one(stored: np.ndarray) -> None:
    assert not differ(final_losses(experiment()), stored)


def test_a_slightly_higher_rate_is_told_apart(stored: np.ndarray) -> None:
    assert differ(final_losses(experiment(0.52)), stored)


def test_rounding_does_decide_the_last_digits_of_a_loss(stored: np.ndarray) -> None:
    """Otherwise equality to the bit would be asked for, and no statistics."""
    assert not np.array_equal(final_losses(experiment(), nudge=2e-7), stored)
