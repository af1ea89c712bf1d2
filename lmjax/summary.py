"""What a run says of itself: at its start, at its end, and when it is asked to describe itself."""

import shlex
from typing import Any

import jax
from etils import epath

from lmjax.console import Console
from lmjax.data import Batch, Dataset
from lmjax.experiment import Experiment
from lmjax.overrides import to_words
from lmjax.parallel import Program, abstract_variables
from lmjax.roles import Leaf, read_roles
from lmjax.state import parameter_count


def introduce(
    experiment: Experiment, dataset: Dataset, program: Program, path: epath.Path, console: Console
) -> None:
    """What is about to be trained, on what, and where it goes."""
    devices = jax.devices()
    console.say(
        f"{experiment.name}: {experiment.task.model.label}, "
        f"{parameter_count(program.abstract_state.params):,} parameters, "
        f"{experiment.optimizer.label}, {experiment.steps:,} steps of {experiment.batch_size}",
        f"data: {dataset.name}, {dataset.summary}",
        f"devices: {len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        f"run directory: {path}",
    )


def already_finished(
    result: dict[str, Any],
    experiment: Experiment,
    base: Experiment,
    launched_as: str,
    path: epath.Path,
    console: Console,
) -> dict[str, Any]:
    """Say so, and show the result again."""
    console.say(f"{path} is finished at step {result['steps']}; its result:")
    report(result, experiment, base, launched_as, path, console)
    return result


def report(
    result: dict[str, Any],
    experiment: Experiment,
    base: Experiment,
    launched_as: str,
    path: epath.Path,
    console: Console,
) -> None:
    """The result beside its baselines, and the exact lines that go on from here."""
    headline = experiment.task.headline
    beside = "  ".join(f"{k} {v:.3f}" for k, v in result["baselines"][headline].items())
    words = [launched_as, *to_words(base, experiment), "--workdir", str(path)]
    lines = {
        "result": f"validation {headline} {result['validation'][headline]:.3f}"
        + (f"   beside {beside}" if beside else ""),
        "digest": f"{result['state_digest'][:16]} after {result['steps']} steps",
        "files": str(path),
        "resume": f"uv run lmjax train {shlex.join(words)}",
        **experiment.task.commands(str(path)),
        "load": f"from lmjax.load import load; run = load({str(path)!r})",
    }
    console.say(*(f"{name:8s}{line}" for name, line in lines.items()))


def describe(experiment: Experiment, batch: Batch) -> str:
    """Every parameter with its shape, axes, role and decay, and the number of parameters."""
    roles = read_roles(abstract_variables(experiment, batch)["params"])
    leaves, _ = jax.tree_util.tree_flatten_with_path(roles, is_leaf=lambda x: isinstance(x, Leaf))
    rows = [("parameter", "shape", "axes", "role", "decays")]
    for path, leaf in leaves:
        rows.append(
            (
                jax.tree_util.keystr(path, simple=True, separator="/"),
                " x ".join(map(str, leaf.shape)),
                " ".join(leaf.axes),
                leaf.role,
                "yes" if leaf.decays else "no",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    total = sum(leaf.size for _, leaf in leaves)
    return "\n".join([*lines, f"{total:,} parameters"])
