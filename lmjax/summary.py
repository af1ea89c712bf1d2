"""What a run says of itself, at its start and at its end."""

import dataclasses
import shlex
from typing import Any

import jax
from etils import epath

from lmjax.console import Console
from lmjax.data import Dataset
from lmjax.experiment import Experiment, fixed_difference
from lmjax.flops import peak
from lmjax.manifest import Begun, told
from lmjax.mesh import sizes
from lmjax.overrides import to_words
from lmjax.parallel import Program
from lmjax.state import parameter_count


def introduce(
    experiment: Experiment,
    dataset: Dataset,
    program: Program,
    begun: Begun,
    path: epath.Path,
    console: Console,
) -> None:
    """What is about to be trained, on what, where it goes, and whether it could be had again."""
    devices = jax.devices()
    kind, platform = devices[0].device_kind, devices[0].platform
    unknown_peak = platform != "cpu" and peak(kind) is None
    console.say(
        f"{experiment.name}: {experiment.task.model.label}, "
        f"{parameter_count(program.abstract_state.params):,} parameters, "
        f"{experiment.optimizer.label}, {experiment.steps:,} steps of {experiment.batch_size}",
        f"data: {dataset.name}, {dataset.summary}",
        f"devices: {len(devices)} x {kind} ({platform})"
        + (", whose peak is not known: no MFU" if unknown_peak else ""),
        *([f"mesh: {sizes(program.mesh)}"] if len(devices) > 1 else []),
        *(f"whole on every device: {axis}" for axis in program.uneven),
        *(f"{topic}: {note}" for topic, note in sorted(program.notes.items())),
        *told(begun),
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
    """The result beside its baselines, and the exact lines that go on from here.

    A finished run can be given more steps where the schedule does not ask how many there are.
    """
    (headline,) = result["baselines"]
    beside = "  ".join(f"{k} {v:.3f}" for k, v in result["baselines"][headline].items())
    longer = dataclasses.replace(experiment, steps=2 * experiment.steps)
    words = [launched_as, *to_words(base, longer), "--workdir", str(path)]
    longer_line = f"uv run lmjax train {shlex.join(words)}"
    lines = {
        "result": f"validation {headline} {result['validation'][headline]:.3f}"
        + (f"   beside {beside}" if beside else ""),
        "digest": f"{result['state_digest'][:16]} after {result['steps']} steps",
        "files": str(path),
        **({} if fixed_difference(experiment, longer) else {"longer": longer_line}),
        **experiment.task.commands(str(path)),
        "load": f"from lmjax.load import load; run = load({str(path)!r})",
    }
    console.say(*(f"{name:8s}{line}" for name, line in lines.items()))
