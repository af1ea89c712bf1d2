"""Experiment: one frozen value that decides a run."""

import dataclasses
from typing import Any, ClassVar, Literal, get_args

from lmjax.data import Data, Dataset
from lmjax.errors import (
    FieldError,
    InputError,
    check_choice,
    check_integer,
    check_text,
    fields_of,
)
from lmjax.mesh import Parallel
from lmjax.optim import Cosine, Optimizer, Schedule
from lmjax.parts import Part, is_free, leaves
from lmjax.record import difference, digest, to_record
from lmjax.rng import SEED_LIMIT
from lmjax.tasks import Task

Dtype = Literal["float32", "bfloat16"]
OnNonfinite = Literal["stop", "skip", "rollback"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Part):
    """What `config()` of an experiment's module returns."""

    label: ClassVar[str] = "experiment"

    name: str  # names the run directory and, for ours, the module in experiments/
    task: Task  # the model, its loss and its metrics
    data: Data  # where batches come from
    optimizer: Optimizer  # the direction, its rate, and what goes with it
    schedule: Schedule = Cosine()  # the rate over the run
    steps: int  # updates of the parameters
    batch_size: int  # examples or sequences in one update, over all devices
    accumulation: int = 1  # micro-batches that one update is summed from
    compute_dtype: Dtype = "float32"  # the master copy stays float32
    parallel: Parallel = Parallel()  # how the devices share the work
    seed: int = 0  # reaches initialisation, data order and dropout
    init_from: str = ""  # RUN, RUN@STEP or a folder of safetensors: start from its weights
    on_nonfinite: OnNonfinite = "stop"  # what a loss or gradient does that is not finite
    log_every: int = 10  # steps between two looks at the metrics, which are kept for every step
    evaluate_every: int = 100  # steps between evaluations; 0 = only at the end
    save_every: int = 100  # steps between checkpoints; 0 = only at the end
    keep: int = 2  # checkpoints kept, the newest ones

    def validate(self) -> None:
        check_name(self.name)
        for path, (_, value) in leaves(self).items():
            for text in value if isinstance(value, tuple) else [value]:
                if isinstance(text, str):
                    check_text(path, text)
        for name in ("steps", "batch_size", "accumulation", "log_every", "keep"):
            check_integer(name, getattr(self, name), least=1)
        for name in ("evaluate_every", "save_every"):
            check_integer(name, getattr(self, name), least=0)
        check_integer("seed", self.seed, least=0, most=SEED_LIMIT - 1)
        check_choice("compute_dtype", self.compute_dtype, get_args(Dtype))
        check_choice("on_nonfinite", self.on_nonfinite, get_args(OnNonfinite))
        if self.batch_size % self.accumulation:
            allowed = f"must be divisible by accumulation {self.accumulation}"
            raise FieldError("batch_size", self.batch_size, allowed)
        shards = self.parallel.virtual_shards
        if self.batch_size % (shards * self.accumulation):
            allowed = f"times accumulation {self.accumulation} must divide {self.batch_size} rows"
            raise FieldError("parallel.virtual_shards", shards, allowed)
        with fields_of("schedule"):
            self.schedule.check_steps(self.steps)
        with fields_of("optimizer.outer"):
            self.optimizer.outer.check_steps(self.steps)

    def load_data(self) -> Dataset:
        """The data in memory, or mapped; FieldErrors carry the full path of the field."""
        with fields_of("data"):  # the files alone know which settings fit them
            return self.data.load()

    @property
    def free_fields(self) -> frozenset[str]:
        free = {"log_every", "evaluate_every", "save_every", "keep"}
        if not self.schedule.depends_on_steps:
            free.add("steps")
        if self.on_nonfinite != "skip":  # whose compiled step is another one
            free.add("on_nonfinite")
        return frozenset(free)


def check_name(name: str) -> None:
    """Refuse a name that is not a plain directory name."""
    if not name.isascii() or not name.replace("_", "a").isalnum() or len(name) > 80:
        allowed = "must be up to 80 letters, digits and underscores"
        raise FieldError("name", name, allowed)


def fixed_difference(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Path -> (old, new) of the fields that differ and may not."""
    changed = difference(old, new)
    return {
        path: pair
        for path, pair in changed.items()
        if not (is_free(old, path) and is_free(new, path))
    }


def run_digest(experiment: Experiment, data_digest: str) -> str:
    """Eight hex digits over all that decides the result, but the seed, which names itself."""
    decides = to_record(experiment, free=False)
    del decides["seed"]
    return digest({"config": decides, "data": data_digest})[:8]


def check_same(old: Experiment, new: Experiment, where: str) -> None:
    """Refuse to go on with a run under another configuration, field by field."""
    changed = fixed_difference(old, new)
    if changed:
        told = "; ".join(f"{path}: {was!r} -> {now!r}" for path, (was, now) in changed.items())
        raise InputError(
            f"{where} holds a run of another configuration ({told}); "
            "choose another --workdir, or undo the change"
        )
