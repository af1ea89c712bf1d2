"""Every model by configuration shards on eight simulated devices and trains two steps."""

import json
from pathlib import Path

import pytest

from lmjax.models import Model
from lmjax.parts import alternatives

ROOT = Path(__file__).parents[1]
TEXT = "char_gpt --batch-size 8 --steps 2 schedule:constant "
DIGITS = "digits_fcn --batch-size 16 --steps 2 "
SMALL = (
    "--task.model.depth 2 --task.model.width 32 --task.model.heads 4 --task.model.max-length 128 "
)
CUT = "--parallel.data 2 --parallel.fsdp 2 "
ROWS = {
    "mlp": DIGITS + "task.model:mlp --task.model.hidden 32 32 " + CUT + "--parallel.tensor 2",
    "simple-fcn": DIGITS + CUT + "--parallel.tensor 2",
    "resnet": DIGITS
    + "task.model:resnet --task.model.blocks 1 2 --task.model.width 8 "
    + CUT
    + "--parallel.tensor 2",
    "resnet50": DIGITS
    + "task.model:resnet50 --task.model.blocks 1 1 --task.model.width 8 "
    + CUT
    + "--parallel.tensor 2",
    "gpt": TEXT + SMALL + CUT + "--parallel.tensor 2",
    "gpt2": TEXT + "task.model:gpt2 " + SMALL + "--parallel.fsdp 4 --parallel.sequence 2",
    "gpt3-13b-table": TEXT + "task.model:gpt3-13b-table " + SMALL + CUT + "--parallel.tensor 2",
    "llama": TEXT + "task.model:llama " + SMALL + CUT + "--parallel.tensor 2",
    "llama3-8b": TEXT
    + "task.model:llama3-8b "
    + SMALL
    + "--task.model.kv-heads 2 --task.model.mlp-width 64 --task.model.qk-norm True "
    + "--parallel.sequence 2 --parallel.fsdp 2 --parallel.tensor 2",
}

CODE = """
import json, shlex, sys
from lmjax import catalog, overrides
from lmjax.cli import parse_value
from lmjax.metrics import unpack, values
from lmjax.parallel import compile_program

told = {}
for row, line in json.loads(sys.argv[1]).items():
    name, *words = shlex.split(line)
    experiment = overrides.apply(catalog.find(name), words, parse_value)
    batch = experiment.data.load().batch(0, 0, experiment.batch_size)
    program = compile_program(experiment, batch)
    state, losses = program.init(program.knobs), []
    for _ in range(2):
        state, metrics = program.train_step(state, program.place(batch)[0], None, program.knobs)
        losses.append(values(unpack(program.metric_names, metrics))["loss"])
    told[row] = [experiment.task.model.label, *losses]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(eight_devices) -> dict:
    told, stderr = eight_devices(CODE, json.dumps(ROWS))
    assert "Involuntary full rematerialization" not in stderr
    return told


@pytest.mark.parametrize("row", ROWS)
def test_it_trains_two_steps_on_eight_devices(told, row):
    label, first, second = told[row]
    assert second < first  # the same batch twice
    assert row == label or row in alternatives(Model)[label].presets


def test_every_model_has_a_row(told):
    ours = {n for n, cls in alternatives(Model).items() if cls.__module__.startswith("lmjax.")}
    assert {label for label, *_ in told.values()} == ours
