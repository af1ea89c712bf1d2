"""The core imports and traces a step where only jax, flax and optax are installed beside it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MISSING = {
    *("tensorflow", "tensorflow_datasets", "grain", "tyro", "array_record", "tensorboardX"),
    *("safetensors", "tokenizers", "sklearn", "PIL", "scipy", "torch", "transformers"),
}
CORE = (
    *("lmjax.models", "lmjax.optim", "lmjax.tasks", "lmjax.data", "lmjax.experiment"),
    *("lmjax.step", "lmjax.parallel", "lmjax.flops", "lmjax.speed", "lmjax.compilation"),
    *("lmjax.operations", "experiments.benchmarks.gpt_gpu", "experiments.benchmarks.gpt_ours"),
)
BLOCK = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ImportError(name + " is not installed")

sys.meta_path.insert(0, Missing())
"""
STEP = """
import importlib, jax
for name in sys.argv[1:]:
    importlib.import_module(name)
from experiments.benchmarks.gpt_rows import experiment, rows
from lmjax.parallel import compile_program
row = rows(tiny=True)["124m"]
made = experiment(row, row.start)
batch = made.data.load().batch(0, 0, 2)
program = compile_program(made, batch)
program.train_step.lower(program.abstract_state, batch, None, program.knobs)
print("loss" in program.metric_names)
"""


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCK + code, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_core_needs_none_of_the_packages_for_data_and_the_command_line() -> None:
    done = run(STEP, *CORE)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("name", ["lmjax.data.builders", "tyro", "safetensors.numpy"])
def test_what_needs_one_of_them_is_told(name: str) -> None:
    """Without which the test above would show nothing."""
    done = run(f"import {name}")
    assert done.returncode == 1
    assert "is not installed" in done.stderr
