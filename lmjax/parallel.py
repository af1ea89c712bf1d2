"""The mesh, what lies where on it, and the compiled functions of a run."""

import collections
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from lmjax.data import Batch
from lmjax.errors import FieldError
from lmjax.experiment import Experiment
from lmjax.metrics import Metrics, pack
from lmjax.rng import key_for
from lmjax.roles import Roles, read_roles
from lmjax.state import TrainState
from lmjax.step import Knobs, build_optimizer, make_eval_step, make_train_step
from lmjax.tasks import Variables

DATA = "data"  # the mesh axis over which a batch is split
PREFETCH = 2  # batches on the devices ahead of the one in use
CHUNK_BATCHES, CHUNK_BYTES = 16, 2**20  # at most, of what is made and copied at once


class Program(NamedTuple):
    """Everything compiled that a run needs, and where its arrays lie."""

    init: Callable[[Knobs], TrainState]
    train_step: Callable[..., tuple[TrainState, Array]]  # donates the state; metrics are packed
    eval_step: Callable[[TrainState, Batch], Metrics]
    metric_names: tuple[str, ...]  # of the packed metrics
    knobs: Knobs  # on the devices
    chunk: int  # batches that are made and copied at once
    place: Callable[[Batch], list[Batch]]  # rows of a whole number of batches, to the devices
    abstract_state: TrainState  # shapes, dtypes and shardings


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """The devices (None = all) on one data axis."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def check_divides(experiment: Experiment, devices: int) -> None:
    """Each micro-batch must give every device as many rows."""
    rows = experiment.batch_size // experiment.accumulation
    if rows % devices:
        allowed = f"its micro-batches of {rows} rows must be divisible by the {devices} devices"
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
    roles = read_roles(boxed["params"])
    init = make_init(experiment, roles, batch)
    step = make_train_step(experiment, roles)
    knobs = Knobs(
        np.asarray(experiment.seed, np.uint32),
        np.asarray(experiment.optimizer.learning_rate, np.float32),
    )
    abstract = jax.eval_shape(init, knobs)
    previous = batch if experiment.optimizer.needs_previous_batch else None
    names = tuple(sorted(jax.eval_shape(step, abstract, batch, previous, knobs)[1]))

    def packed_step(
        state: TrainState, batch: Batch, previous: Batch | None, knobs: Knobs
    ) -> tuple[TrainState, Array]:
        state, metrics = step(state, batch, previous, knobs)
        return state, pack(metrics)

    return Program(
        init=jax.jit(init, out_shardings=replicated),
        train_step=jax.jit(
            packed_step,
            in_shardings=(replicated, rows, rows, replicated),
            out_shardings=replicated,
            donate_argnums=0,
        ),
        eval_step=jax.jit(
            make_eval_step(experiment), in_shardings=(replicated, rows), out_shardings=replicated
        ),
        metric_names=names,
        knobs=jax.device_put(knobs, replicated),
        chunk=chunk_of(batch),
        place=make_place(mesh, experiment.batch_size),
        abstract_state=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), abstract
        ),
    )


def chunk_of(batch: Batch) -> int:
    """Batches to make at once: small ones by the dozen, which makes one cost 9 us, not 33."""
    size = sum(x.nbytes for x in batch.values())
    return max(1, min(CHUNK_BATCHES, CHUNK_BYTES // size))


def make_place(mesh: Mesh, batch_size: int) -> Callable[[Batch], list[Batch]]:
    """The function that copies rows to the devices, as batches whose rows are split over the mesh.

    One jitted call for a whole chunk: jax.device_put takes 100 us for each batch, this 13.
    """
    rows, stacked = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((DATA,), (None, DATA)))

    def split(chunk: Batch) -> list[Batch]:
        count = len(jax.tree.leaves(chunk)[0])
        return [jax.tree.map(operator.itemgetter(number), chunk) for number in range(count)]

    compiled = jax.jit(split, in_shardings=stacked, out_shardings=rows)

    def place(host: Batch) -> list[Batch]:
        chunk = {name: x.reshape(-1, batch_size, *x.shape[1:]) for name, x in host.items()}
        with jax.transfer_guard_host_to_device("allow"):
            return compiled(chunk)

    return place


def make_init(experiment: Experiment, roles: Roles, batch: Batch) -> Callable[[Knobs], TrainState]:
    """The function knobs -> state at step 0, which depends on the seed and on no device."""
    shapes = {name: (x.shape, x.dtype) for name, x in batch.items()}

    def init(knobs: Knobs) -> TrainState:
        example = {name: jnp.zeros(*shape) for name, shape in shapes.items()}
        variables = meta.unbox(experiment.task.init(key_for(knobs.seed, "init"), example))
        params = variables.pop("params")
        optimizer = build_optimizer(experiment, roles, knobs.learning_rate)
        return TrainState(jnp.zeros([], jnp.int32), params, variables, optimizer.init(params))

    return init


def prefetch(chunks: Iterable[Batch], place: Callable[[Batch], list[Batch]]) -> Iterator[Batch]:
    """Batches on the devices, at least PREFETCH of them under way beside the one in use."""
    queue: collections.deque[Batch] = collections.deque()
    for chunk in chunks:
        queue.extend(place(chunk))
        while len(queue) > PREFETCH:
            yield queue.popleft()
    yield from queue
