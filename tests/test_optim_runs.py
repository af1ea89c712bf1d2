"""`lmjax train ... optimizer:NAME`: every optimizer trains, is saved and resumes to the bit."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lmjax import cli, overrides, train
from lmjax.checkpoint import Checkpoints
from lmjax.cli import parse_value
from lmjax.experiment import Experiment
from lmjax.optim import Optimizer
from lmjax.parallel import abstract_variables, compile_program, first_state
from lmjax.parts import alternatives
from lmjax.roles import read_roles
from lmjax.state import TrainState, state_digest

LABELS = sorted(
    label for label, cls in alternatives(Optimizer).items() if cls.__module__.startswith("lmjax.")
)
each = pytest.mark.parametrize("label", LABELS)

# Rounding alone decides a basis that the first gradient leaves open, and sums in another order
# round otherwise: SOAP turns the short sides here. Its bits do not depend on that. What the roots
# of factors without full rank make of rounding is as large: Shampoo likewise.
SHORT = ["--optimizer.longest-side", "16", "--optimizer.refresh-every", "2"]
FEWER = {"soap": SHORT, "shampoo": SHORT}


def with_optimizer(experiment: Experiment, label: str) -> Experiment:
    """As the command line makes it."""
    words = [f"optimizer:{label}", "schedule:cosine", "--schedule.warmup-steps", "2"]
    return overrides.apply(experiment, [*words, *FEWER.get(label, [])], parse_value)


@pytest.fixture(scope="module")
def variables(tiny_mlp: Experiment) -> Any:
    """The weights that all of them start with, drawn once."""
    program = compile_program(tiny_mlp, tiny_mlp.data.shapes(tiny_mlp.batch_size))
    return {"params": program.init(program.knobs).params}


@pytest.mark.parametrize(
    "label",
    [pytest.param(x, marks=pytest.mark.bits) if x in ("adamw", "soap") else x for x in LABELS],
)
def test_what_is_saved_goes_on_to_the_same_bits(
    tiny_mlp: Experiment, variables: Any, label: str, tmp_path: Path
) -> None:
    """Four steps, and two with a checkpoint between them and the last two."""
    experiment = with_optimizer(tiny_mlp, label)
    dataset = experiment.load_data()
    batches = [dataset.batch(0, step, experiment.batch_size) for step in range(5)]
    program = compile_program(experiment, batches[0])
    roles = read_roles(abstract_variables(experiment, batches[0])["params"])

    def begin() -> TrainState:
        fresh = jax.tree.map(jnp.copy, variables)  # which the first step takes for its own
        state = first_state(experiment, roles, fresh, program.knobs.learning_rate)
        return jax.device_put(state, jax.tree.map(lambda x: x.sharding, program.abstract_state))

    def steps(state: TrainState, numbers: range, late: int = 0) -> TrainState:
        for number in numbers:
            batch = program.place(batches[number + late])[0]
            state, _ = program.train_step(state, batch, None, program.knobs)
        return state

    unbroken = state_digest(steps(begin(), range(4)))
    checkpoints = Checkpoints(epath.Path(tmp_path / "checkpoints"), 1)
    half = steps(begin(), range(2))
    saved = state_digest(half)
    checkpoints.save(2, half, {"config": {}, "data": {}})
    checkpoints.wait()
    for late in (0, 1):
        restored, _ = checkpoints.restore(2, program.abstract_state)
        assert state_digest(restored) == saved != state_digest(begin())
        end = steps(restored, range(2, 4), late)
        assert (state_digest(end) == unbroken) is (late == 0)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(end))
    checkpoints.close()


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


@pytest.mark.sweep
@each
def test_a_transformer_trains_accumulates_resumes_and_is_reproduced_to_the_bit(
    tiny_gpt: Experiment, label: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """A run that is killed ends as the unbroken one, one in micro-batches near it."""
    plain = overrides.apply(tiny_gpt, ["--task.model.dropout", "0"], parse_value)
    small = dataclasses.replace(plain, steps=6, save_every=2, evaluate_every=0)
    experiment = with_optimizer(small, label)

    def run(experiment: Experiment, name: str) -> dict[str, Any]:
        return train.run(experiment, str(tmp_path / name), quiet=True)

    unbroken = run(experiment, "unbroken")
    real = train.is_due

    def dies(now: int, every: int, last: int) -> bool:
        if now == 5:
            raise Killed
        return real(now, every, last)

    with monkeypatch.context() as patch:
        patch.setattr(train, "is_due", dies)
        with pytest.raises(Killed):
            run(experiment, "killed")
    resumed = run(experiment, "killed")
    assert resumed["resumed_from"] == 4
    assert resumed["state_digest"] == unbroken["state_digest"]
    assert resumed["validation"] == unbroken["validation"]
    for name in ("unbroken", "killed"):
        assert cli.main(["reproduce", str(tmp_path / name)]) == 0
    loss = unbroken["validation"]["loss"]
    pieces = run(dataclasses.replace(experiment, accumulation=2), "pieces")
    other = run(dataclasses.replace(experiment, seed=1), "other")
    assert np.isclose(pieces["validation"]["loss"], loss, rtol=1e-4)
    assert not np.isclose(other["validation"]["loss"], loss, rtol=1e-4)


@pytest.mark.sweep
@each
def test_digits_fcn_trains_with_it(label: str, tmp_path: Path, monkeypatch: Any) -> None:
    """With defaults of both, and without a word more on the command line."""
    monkeypatch.chdir(tmp_path)
    words = ["train", "digits_fcn", f"optimizer:{label}", "--steps", "20", "--workdir", "run"]
    assert cli.main(words) == 0
    assert (tmp_path / "run" / "result.json").exists()
