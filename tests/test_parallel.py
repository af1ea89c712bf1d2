"""One device and eight: the same parameters at the start, the same run within rounding."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import dataclasses, json, sys
import jax, numpy as np
sys.path.insert(0, "tests")
from experiments import char_gpt, digits_fcn
from lmjax import overrides
from lmjax.cli import parse_value
from lmjax.errors import FieldError
from lmjax.metrics import unpack, values
from lmjax.mesh import Parallel, make_mesh
from lmjax.parallel import compile_program
from lmjax.state import state_digest

def told(base, words):
    experiment = overrides.apply(base, words.split(), parse_value)
    dataset = experiment.data.load()
    batches = [dataset.batch(0, t, experiment.batch_size) for t in range(10)]
    starts, states, losses = [], [], []
    for devices in (1, 8):
        mesh = make_mesh(Parallel(), jax.devices()[:devices])
        program = compile_program(experiment, batches[0], mesh)
        state = program.init(program.knobs)
        starts.append(state_digest(state))
        for [batch] in map(program.place, batches):
            state, metrics = program.train_step(state, batch, None, program.knobs)
        states.append(jax.device_get(state.params))
        losses.append(values(unpack(program.metric_names, metrics))["loss"])
    knobs = program.knobs._replace(seed=jax.device_put(np.uint32(1), program.knobs.seed.sharding))
    _, metrics = program.train_step(program.init(knobs), batch, None, knobs)
    seed = values(unpack(program.metric_names, metrics))["loss"]
    shards = {s.device for s in batch["inputs"].addressable_shards}
    apart = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), *states)
    return {"starts": starts, "losses": losses, "devices": len(shards),
            "another_seed": seed, "largest": max(jax.tree.leaves(apart))}

small = ("--task.model.depth 2 --task.model.unroll 1 --task.model.width 32 --steps 10 "
         "--schedule.warmup-steps 2 --task.model.dropout 0.1 --optimizer.eps 1e-3")
result = {"gpt": told(char_gpt.config(), small),
          "accumulated": told(char_gpt.config(), small + " --accumulation 2"),
          "fcn": told(digits_fcn.config(), "--steps 10")}
try:
    compile_program(dataclasses.replace(char_gpt.config(), batch_size=12),
                    char_gpt.config().data.load().batch(0, 0, 12))
except FieldError as error:
    result["refused"] = str(error)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def told(eight_devices) -> dict:
    told, _ = eight_devices(CODE)
    return told


@pytest.mark.parametrize("name", ["gpt", "accumulated", "fcn"])
def test_eight_devices_start_with_the_same_bits_and_stay_close(told, name):
    run = told[name]
    assert run["starts"][0] == run["starts"][1]
    assert run["devices"] == 8
    assert abs(run["losses"][0] - run["losses"][1]) < 2e-5
    assert run["largest"] < 2e-5


def test_accumulation_drops_out_the_same(told):
    """Masks are by row and position, so that the whole run is the same."""
    assert abs(told["gpt"]["losses"][0] - told["accumulated"]["losses"][0]) < 2e-5


def test_the_tolerance_would_see_a_difference(told):
    """Negative control: another seed is seen at once."""
    for name in ("gpt", "fcn"):
        assert abs(told[name]["losses"][0] - told[name]["another_seed"]) > 2e-5


def test_a_batch_that_does_not_divide_is_refused(told):
    assert told["refused"] == (
        "batch_size = 12: its micro-batches of 12 rows must be divisible by the 8 devices"
    )
