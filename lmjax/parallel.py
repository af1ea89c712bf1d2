"""The mesh, what lies where on it, and the compiled functions of a run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmjax.data import Batch
from lmjax.errors import FieldError
from lmjax.experiment import Experiment
from lmjax.metrics import Metrics
from lmjax.rng import key_for
from lmjax.roles import Roles, read_roles
from lmjax.state import TrainState
from lmjax.step import Knobs, TrainStep, build_optimizer, make_eval_step, make_train_step
from lmjax.tasks import Variables

DATA = "data"  # the mesh axis over which a batch is split
PREFETCH = 2  # batches on the devices ahead of the one in use


class Program(NamedTuple):
    """Everything compiled that a run needs, and where its arrays lie."""

    init: Callable[[Knobs], TrainState]
    train_step: TrainStep  # donates the state
    eval_step: Callable[[TrainState, Batch], Metrics]
    knobs: Knobs  # on the devices
    place: Callable[[Batch], Batch]  # host batch to devices, rows split over the mesh
    abstract_state: TrainState  # shapes, dtypes and shardings


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices (None = all) on one data axis."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def check_divides(experiment: Experiment, devices: int) -> None:
    """Each micro-batch must give every device as many rows."""
    rows = experiment.batch_size // experiment.accumulation
    if rows % devices:
        allowed = (f"its micro-batches of {rows} rows must be divisible by "
                   f"the {devices} devices")
        raise FieldError("batch_size", experiment.batch_size, allowed)


def abstract_variables(experiment: Experiment, batch: Batch) -> Variables:
    """Shapes of a task's variables, boxed with the names of their axes; nothing is computed."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    key = jax.eval_shape(lambda: key_for(0, "init"))
    return jax.eval_shape(experiment.task.init, key, shapes)


def compile_program(experiment: Experiment, batch: Batch, mesh: Mesh | None = None) -> Program:
    """Jitted functions of a run on a mesh (None = all devices).

    `batch` is one host batch, for its shapes.
    """
    mesh = make_mesh() if mesh is None else mesh
    check_divides(experiment, mesh.size)
    replicated = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(DATA))
    boxed = abstract_variables(experiment, batch)
    init = make_init(experiment, read_roles(boxed["params"]), batch)
    knobs = Knobs(np.uint32(experiment.seed), np.float32(experiment.optimizer.learning_rate))
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        jax.eval_shape(init, knobs))
    return Program(
        init=jax.jit(init, out_shardings=replicated),
        train_step=jax.jit(
            make_train_step(experiment, read_roles(boxed["params"])),
            in_shardings=(replicated, rows, rows, replicated),
            out_shardings=replicated,
            donate_argnums=0,
        ),
        eval_step=jax.jit(
            make_eval_step(experiment),
            in_shardings=(replicated, rows), out_shardings=replicated),
        knobs=jax.device_put(knobs, replicated),
        place=lambda batch: jax.device_put(batch, rows),
        abstract_state=abstract,
    )


def make_init(
    experiment: Experiment, roles: Roles, batch: Batch
) -> Callable[[Knobs], TrainState]:
    """The function knobs -> state at step 0, which depends on the seed and on no device."""
    shapes = {name: (x.shape, x.dtype) for name, x in batch.items()}

    def init(knobs: Knobs) -> TrainState:
        example = {name: jnp.zeros(*shape) for name, shape in shapes.items()}
        variables = meta.unbox(experiment.task.init(key_for(knobs.seed, "init"), example))
        params = variables.pop("params")
        optimizer = build_optimizer(experiment, roles, knobs.learning_rate)
        return TrainState(jnp.zeros([], jnp.int32), params, variables, optimizer.init(params))

    return init


def prefetch(batches: Iterable[Batch], place: Callable[[Batch], Batch]) -> Iterator[Batch]:
    """Batches on the devices, PREFETCH of them under way beside the one in use."""
    queue: list[Any] = []
    for batch in batches:
        queue.append(place(batch))
        if len(queue) > PREFETCH:
            yield queue.pop(0)
    yield from queue
