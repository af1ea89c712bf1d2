"""Which code is each optimizer equal to, how nearly, and what does it cost?

    python -m experiments.optimizer_badges [--cost PATH] [--readme experiments/README.md]

Writes a table between two marks of a README: the reference at its commit, the largest deviation
over 20 float64 steps (from the references that the tests hold, so it is run from the repository's
root), bytes of state for each parameter of gpt2_124m, and, from the JSON of
experiments.benchmarks.optimizer_cost, the time of an update over sgd's, and of theirs over ours.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from experiments import gpt2_124m
from lmjax.errors import InputError
from lmjax.mesh import shapes_only_mesh
from lmjax.optim import Optimizer
from lmjax.parallel import abstract_state
from lmjax.parts import alternatives, replace
from lmjax.state import state_copies

BEGIN, END = "<!-- optimizers: begin -->", "<!-- optimizers: end -->"
HEAD = (
    "optimizer | equal to | largest deviation | state, bytes a parameter | an update over sgd's | "
    "theirs in PyTorch over ours"
)
BYTES = 4  # of a parameter


def deviations() -> dict[str, float]:
    """Label -> the largest deviation from what the tests have stored."""
    script = Path(__file__).parents[2] / "tests" / "optim_deviations.py"
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise InputError(f"{script}: {found.stderr.strip().splitlines()[-1]}")
    return json.loads(found.stdout)


def bytes_of_state(make: Any) -> float:
    """For each parameter of gpt2_124m."""
    experiment = replace(gpt2_124m.config(), "optimizer", make())
    batch = experiment.data.shapes(experiment.batch_size)
    _, state = abstract_state(experiment, batch, shapes_only_mesh(experiment.parallel))
    return BYTES * state_copies(state)


def row(label: str, make: Any, apart: dict[str, float], costs: dict[str, Any]) -> str:
    """One line of the table."""
    reference = make.reference
    beside = "optax, which it wraps"
    if reference is not None:
        beside = f"[{reference.repository}@{reference.commit[:7]}]({reference.code_url})"
    deviation = f"{apart[label]:.1e}" if label in apart else "tested beside optax"
    measured = costs.get(label, {"doubt": ""})
    over, theirs = (measured.get(key) for key in ("over_sgd", "authors_over_ours"))
    costs_told = f"{spread(over)}{', busy' if measured['doubt'] else ''} | {spread(theirs)}"
    return f"| {label} | {beside} | {deviation} | {bytes_of_state(make):.3g} | {costs_told} |"


def spread(ratio: dict[str, float] | None) -> str:
    """Median and quartiles; nothing where it was not measured."""
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else ""


def write(path: Path, table: str) -> None:
    """Between the marks of a README; raises InputError where there are none."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{path}: needs one line {BEGIN} and one {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cost", type=Path, help="JSON of optimizer_cost")
    parser.add_argument("--readme", type=Path, default=Path("experiments/README.md"))
    given = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    costs = json.loads(given.cost.read_text())["optimizers"] if given.cost else {}
    apart = deviations()
    known = sorted(alternatives(Optimizer).items())
    rows = [row(x, make, apart, costs) for x, make in known if make.__module__.startswith("lmjax.")]
    table = "\n".join([f"| {HEAD} |", "|" + " --- |" * 6, *rows])
    write(given.readme, table)
    print(table)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"optimizer_badges: {error}")
