"""How fast a run goes, and how much of its machine it uses.

MFU is the FLOP/s that the model needs at the run's pace, over the dense bfloat16 peak of all
devices, whatever dtype the run computes in. It names its convention (lmjax/flops.py).
"""

import time
from typing import Any, NamedTuple

import jax

from lmjax import flops
from lmjax.console import clock, short
from lmjax.data import Batch
from lmjax.experiment import Experiment
from lmjax.placement import OnPaper, placing
from lmjax.rng import key_for
from lmjax.state import TrainState, parameter_count


class Pace:
    """How fast a run goes. The first steps, which compile, and evaluations are not counted."""

    def __init__(self) -> None:
        self._first = self._step = 0
        self._begun: float | None = None
        self._now = self._apart = self._apart_since = 0.0

    def mark(self, step: int) -> None:
        """Step `step` has been computed."""
        self._now = time.monotonic()
        if self._begun is None:
            self._begun, self._first = self._now, step
        else:
            self._apart += self._apart_since
        self._apart_since = 0.0
        self._step = step

    def exclude(self, seconds: float) -> None:
        """Time since the last mark that was spent on something else than steps."""
        self._apart_since += seconds

    @property
    def steps_per_second(self) -> float | None:
        """Over all counted steps; None before there are any."""
        if self._begun is None or self._step == self._first:
            return None
        return (self._step - self._first) / (self._now - self._begun - self._apart)

    def remaining(self, steps: int) -> float | None:
        """Seconds to the given step at the pace so far, with what was spent on evaluations."""
        if self._begun is None or self._step == self._first:
            return None
        each = (self._now - self._begun) / (self._step - self._first)
        return each * (steps - self._step)


class Meter(NamedTuple):
    """What a run's pace amounts to."""

    pace: Pace
    unit: str  # tokens or examples
    units: int  # of them in one update
    costs: dict[str, float]  # convention -> FLOP of training on one; {} where no peak is known
    peak: float  # FLOP/s of all devices; nan where it is not known

    @property
    def rate(self) -> float | None:
        """Units per second, without compilation and evaluation; None before the second look."""
        steps_per_second = self.pace.steps_per_second
        return None if steps_per_second is None else steps_per_second * self.units

    @property
    def utilization(self) -> dict[str, float]:
        """Convention -> MFU; {} where it is not known."""
        rate = self.rate
        if rate is None:
            return {}
        return {name: rate * cost / self.peak for name, cost in self.costs.items()}

    def line(self, steps: int) -> str:
        """For the progress line of a run of `steps`; what is not known yet is left out."""
        rate, left, used = self.rate, self.pace.remaining(steps), peak_memory()
        told = [] if rate is None else [f"{short(rate)} {self.unit}/s"]
        told += [f"MFU {share:.1%} ({name})" for name, share in self.utilization.items()][:1]
        told += [] if used is None else [f"{used / 1e9:.1f} GB"]
        told += [] if left is None else [f"ETA {clock(left)}"]
        return "".join(f"  {part}" for part in told)

    def record(self) -> dict[str, Any]:
        """For result.json; what is not known is left out."""
        found: dict[str, Any] = {f"{self.unit}_per_second": self.rate}
        if self.utilization:
            found["mfu"] = self.utilization
        used = peak_memory()
        if used is not None:
            found["peak_memory_bytes"] = used
        return found


def make_meter(experiment: Experiment, abstract: TrainState, batch: Batch) -> Meter:
    """The meter of a run on all devices, from the shapes of its state and of a batch."""
    task, devices = experiment.task, jax.devices()
    peak = flops.peak(devices[0].device_kind)
    return Meter(
        Pace(),
        task.unit,
        task.count(batch),
        {} if peak is None else training_costs(experiment, abstract, batch),
        float("nan") if peak is None else peak * len(devices),
    )


def training_costs(experiment: Experiment, abstract: TrainState, batch: Batch) -> dict[str, float]:
    """Convention -> FLOP of training on one token or example.

    By the published conventions where the model has a width of attention, else counted.
    """
    width = experiment.task.model.attention_width()
    if width is None:
        return {"counted": counted(experiment, abstract, batch)[0]}
    length = batch["inputs"].shape[1]
    found = flops.conventions(parameter_count(abstract.params), width, length)
    return {name: float(flop) for name, flop in found.items()}


@placing(OnPaper())
def counted(
    experiment: Experiment, abstract: TrainState, batch: Batch
) -> tuple[float, frozenset[str]]:
    """(FLOP of training on one token or example, what they leave out), from the task itself."""
    variables = {"params": abstract.params, **abstract.model_state}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (variables, batch))
    key = jax.eval_shape(lambda: key_for(0, "dropout"))
    found = flops.count(experiment.task.outcome, *shapes, key)
    return flops.TRAINING * found.flops / experiment.task.count(batch), found.unseen


def peak_memory() -> int | None:
    """The most bytes in use on any device of this process; None where devices do not say."""
    told = [device.memory_stats() for device in jax.local_devices()]
    used = [stats["peak_bytes_in_use"] for stats in told if stats]
    return max(used) if used else None
