"""The compiled functions of a run, laid out over the mesh."""

import collections
import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from lmjax import pmapped
from lmjax.data import Batch
from lmjax.errors import FieldError
from lmjax.experiment import Experiment
from lmjax.fingerprint import Fingerprint
from lmjax.mesh import AnyMesh, OnMesh, laid_out, make_mesh, state_shardings, uneven, whole
from lmjax.metrics import Metrics, pack
from lmjax.placement import placing
from lmjax.platforms import compiler_options, equal_threads, keep_freed_memory
from lmjax.rng import key_for
from lmjax.roles import AXES, Leaf, Roles, read_roles
from lmjax.shards import EachDevice, VirtualShards
from lmjax.state import TrainState
from lmjax.step import (
    WHOLE,
    Knobs,
    Split,
    TrainStep,
    build_optimizer,
    make_eval_step,
    make_train_step,
)
from lmjax.tasks import Variables

Placed = TypeVar("Placed")
PREFETCH = 2  # batches on the devices ahead of the one in use
CHUNK_BATCHES, CHUNK_BYTES = 16, 2**20  # at most, of what is made and copied at once


class Program(NamedTuple):
    """Everything compiled that a run needs, and where its arrays lie."""

    init: Callable[[Knobs], TrainState]
    train_step: Callable[..., tuple[TrainState, Array]]  # donates the state; metrics are packed
    eval_step: Callable[[TrainState, Batch], Metrics]
    trace_step: Callable[[], Any]  # the train step as JAX's Traced, which costs nothing twice
    fingerprint: Fingerprint  # of a state
    metric_names: tuple[str, ...]  # of the packed metrics
    knobs: Knobs  # on the devices
    chunk: int  # batches that are made and copied at once
    share: range  # the rows of a chunk that lie on devices of this process
    place: Callable[[Batch], list[Batch]]  # rows of a whole number of batches, to the devices
    abstract_state: TrainState  # shapes, dtypes and shardings
    mesh: Mesh
    notes: dict[str, str]  # what was decided for these devices: topic -> what and why
    uneven: list[str]  # axes of parameters that stay whole, because the mesh does not divide them


def check_divides(experiment: Experiment, batch: Batch, roles: Roles, mesh: AnyMesh) -> None:
    """Every device must get as many rows of a micro-batch, positions, heads and hidden units."""
    rows = experiment.batch_size // experiment.accumulation
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    shards = experiment.parallel.virtual_shards
    if shards > 1 and shards % shares:
        allowed = f"must be a multiple of the {shares} devices"
        raise FieldError("parallel.virtual_shards", shards, allowed)
    if rows % shares:
        allowed = f"its micro-batches of {rows} rows must be divisible by the {shares} devices"
        raise FieldError("batch_size", experiment.batch_size, allowed)
    sequence, tensor = mesh.shape["sequence"], mesh.shape["tensor"]
    axes = experiment.task.batch_axes
    length = batch["targets"].shape[axes.index("length")] if "length" in axes else 1
    if length % sequence:
        allowed = f"must divide the {length} positions of an example"
        raise FieldError("parallel.sequence", sequence, allowed)
    for leaf in jax.tree.leaves(roles, is_leaf=lambda x: isinstance(x, Leaf)):
        for name, size in zip(leaf.axes, leaf.shape, strict=True):
            # An activation lies so too, and must; what is only a parameter may stay whole.
            if name != "vocab" and AXES[name].along == "tensor" and size % tensor:
                raise FieldError("parallel.tensor", tensor, f"must divide the {size} {name}")


def abstract_variables(experiment: Experiment, batch: Batch) -> Variables:
    """Shapes of a task's variables, boxed with the names of their axes; nothing is computed."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    key = jax.eval_shape(lambda: key_for(0, "init"))
    return jax.eval_shape(experiment.task.init, key, shapes)


def abstract_state(experiment: Experiment, batch: Batch, mesh: AnyMesh) -> tuple[Roles, TrainState]:
    """(roles, shapes, dtypes and shardings of the state); nothing is computed."""
    boxed = abstract_variables(experiment, batch)
    roles = read_roles(boxed["params"])
    first = functools.partial(first_state, experiment, roles)
    shapes = jax.eval_shape(first, meta.unbox(boxed), jax.ShapeDtypeStruct((), jnp.float32))
    return roles, jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_shardings(mesh, roles, shapes),
    )


def compile_program(experiment: Experiment, batch: Batch, mesh: Mesh | None = None) -> Program:
    """Jitted functions of a run on a mesh (None = all devices, as the experiment shares them).

    `batch` is one host batch, for its shapes.
    """
    keep_freed_memory()  # before there are devices, and so is this
    equal_threads(shards := experiment.parallel.virtual_shards)
    mesh = make_mesh(experiment.parallel) if mesh is None else mesh
    roles, abstract = abstract_state(experiment, batch, mesh)
    check_divides(experiment, batch, roles, mesh)
    state = jax.tree.map(lambda x: x.sharding, abstract)
    rows = laid_out(mesh, experiment.task.batch_axes)
    step = jit_step(experiment, batch, mesh, roles, abstract)
    unheard = OnMesh(mesh, {})  # what evaluation decides, training has told
    evaluation = make_eval_step(experiment, split_of(experiment, unheard, abstract))
    options = compiler_options(mesh.devices.flat[0].platform, mesh.size, shards)
    knobs = jax.device_put(first_knobs(experiment), whole(mesh))
    chunk = chunk_of(batch) if jax.process_count() == 1 else 1  # a share of rows in a row

    return Program(
        init=jax.jit(
            make_init(experiment, roles, batch), out_shardings=state, compiler_options=options
        ),
        train_step=one_at_a_time(mesh, step.jitted),
        eval_step=one_at_a_time(
            mesh,
            jax.jit(
                on_mesh(evaluation, unheard),
                in_shardings=(state, rows),
                out_shardings=whole(mesh),
                compiler_options=options,
            ),
        ),
        trace_step=functools.partial(step.trace, knobs),
        fingerprint=Fingerprint(
            abstract,
            lambda salts: jax.device_put(salts, whole(mesh)),
            functools.partial(one_at_a_time, mesh),
        ),
        metric_names=step.metric_names,
        knobs=knobs,
        chunk=chunk,
        share=share_of(rows, chunk * experiment.batch_size),
        place=make_place(rows, experiment.batch_size),
        abstract_state=abstract,
        mesh=mesh,
        notes=step.notes,
        uneven=uneven(roles, mesh),
    )


class JittedStep(NamedTuple):
    """The train step for a mesh, whose devices need not be there."""

    jitted: Any  # donates the state; metrics are packed
    trace: Callable[[Knobs], Any]  # JAX's Traced, which costs nothing twice; shapes will do
    metric_names: tuple[str, ...]
    notes: dict[str, str]  # what was decided for these devices: topic -> what and why


def jit_step(
    experiment: Experiment, batch: Batch, mesh: Mesh, roles: Roles, abstract: TrainState
) -> JittedStep:
    """The train step, jitted and not yet compiled. `batch` is for its shapes, as in a Program."""
    state = jax.tree.map(lambda x: x.sharding, abstract)
    rows, placement = laid_out(mesh, experiment.task.batch_axes), OnMesh(mesh, {})
    step = make_train_step(experiment, roles, split_of(experiment, placement, abstract))
    previous = batch if experiment.optimizer.needs_previous_batch else None
    try:
        told = jax.eval_shape(
            on_mesh(step, placement), abstract, batch, previous, first_knobs(experiment)
        )[1]
    except FieldError as error:  # what a device cannot run is known when it is traced
        raise error.under("task.model") from None

    platform, shards = mesh.devices.flat[0].platform, experiment.parallel.virtual_shards
    body = on_mesh(packed(step), placement)
    if experiment.parallel.compiler == "pmap":
        pmapped.check(experiment, mesh, abstract)
        alike = make_train_step(experiment, roles, pmapped.Pmapped())
        body = pmapped.pmapped(packed(alike), placement)
    jitted = jax.jit(
        body,
        in_shardings=(state, rows, rows, whole(mesh)),
        out_shardings=(state, whole(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(platform, mesh.size, shards),
    )

    def trace(knobs: Knobs) -> Any:
        # Of what lies as the arguments do: then the call that compiles finds it traced and lowered.
        args = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), (batch, previous)
        )
        return jitted.trace(abstract, *args, knobs)

    return JittedStep(jitted, trace, tuple(sorted(told)), dict(placement.notes))


def packed(step: TrainStep) -> Callable[..., tuple[TrainState, Array]]:
    """The step with its metrics in one array."""

    def packed_step(
        state: TrainState, batch: Batch, previous: Batch | None, knobs: Knobs
    ) -> tuple[TrainState, Array]:
        state, metrics = step(state, batch, previous, knobs)
        return state, pack(metrics)

    return packed_step


def first_knobs(experiment: Experiment) -> Knobs:
    """What the experiment says of them, on the host."""
    return Knobs(
        np.asarray(experiment.seed, np.uint32),
        np.asarray(experiment.optimizer.learning_rate, np.float32),
    )


def split_of(experiment: Experiment, placement: OnMesh, abstract: TrainState) -> Split:
    """How the rows of a batch are shared out on this mesh.

    Where nothing is summed over devices but gradients and metrics, those of micro-batches are
    summed on each device first. BatchNorm's statistics are over a whole micro-batch.
    """
    shards, copies = experiment.parallel.virtual_shards, placement.mesh.shape["data"]
    if shards > 1:
        return VirtualShards(placement, shards)
    only_copies = copies == placement.mesh.size > 1
    if experiment.accumulation > 1 and only_copies and not abstract.model_state:
        return EachDevice(placement)
    return WHOLE


def on_mesh(function: Callable[..., Any], placement: OnMesh) -> Callable[..., Any]:
    """The function, whose models lay their activations out over the mesh while it is traced."""

    @functools.wraps(function)
    def placed(*args: Any) -> Any:
        with placing(placement):
            return function(*args)

    return placed


def one_at_a_time(mesh: Mesh, compiled: Any) -> Any:
    """The compiled function; on simulated devices, one that waits for its result.

    XLA runs the collectives of simulated devices in one pool of threads, where two programs under
    way can take each other's threads and wait for ever.
    """
    if mesh.size == 1 or mesh.devices.flat[0].platform != "cpu":
        return compiled

    @functools.wraps(compiled)
    def waiting(*args: Any) -> Any:
        return jax.block_until_ready(compiled(*args))

    waiting.lower = compiled.lower  # type: ignore[attr-defined]  # as a jitted function has it
    return waiting


def chunk_of(batch: Batch) -> int:
    """Batches to make at once: small ones by the dozen, which makes one cost 9 us, not 33."""
    size = sum(x.nbytes for x in batch.values())
    return max(1, min(CHUNK_BATCHES, CHUNK_BYTES // size))


def share_of(rows: NamedSharding, count: int) -> range:
    """Which of `count` rows lie on devices of this process."""
    if jax.process_count() == 1:
        return range(count)
    along = NamedSharding(rows.mesh, PartitionSpec(*rows.spec[:1]))
    cuts = along.addressable_devices_indices_map((count,)).values()
    pieces = [range(count)[cut[0]] for cut in cuts if cut is not None]
    return range(min(piece.start for piece in pieces), max(piece.stop for piece in pieces))


def make_place(rows: NamedSharding, batch_size: int) -> Callable[[Batch], list[Batch]]:
    """The function that copies rows to the devices, as batches that are laid out as `rows` says.

    One jitted call for a whole chunk: jax.device_put takes 100 us for each batch, this 13. Of
    several processes each brings its share of one batch.
    """
    if jax.process_count() > 1:
        return functools.partial(_place_share, rows, batch_size, share_of(rows, batch_size).start)
    stacked = NamedSharding(rows.mesh, PartitionSpec(None, *rows.spec))

    def split(chunk: Batch) -> list[Batch]:
        count = len(jax.tree.leaves(chunk)[0])
        return [jax.tree.map(operator.itemgetter(number), chunk) for number in range(count)]

    compiled = jax.jit(split, in_shardings=stacked, out_shardings=rows)

    def place(host: Batch) -> list[Batch]:
        chunk = {name: x.reshape(-1, batch_size, *x.shape[1:]) for name, x in host.items()}
        with jax.transfer_guard_host_to_device("allow"):
            return compiled(chunk)

    return place


def _place_share(rows: NamedSharding, batch_size: int, start: int, host: Batch) -> list[Batch]:
    def placed(x: np.ndarray) -> Array:
        def at(index: Any) -> np.ndarray:
            cut = range(batch_size)[index[0]]
            return x[(slice(cut.start - start, cut.stop - start), *index[1:])]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), rows, at)

    with jax.transfer_guard_host_to_device("allow"):
        return [{name: placed(x) for name, x in host.items()}]


def make_init(experiment: Experiment, roles: Roles, batch: Batch) -> Callable[[Knobs], TrainState]:
    """The function knobs -> state at step 0, which depends on the seed and on no device."""
    shapes = {name: (x.shape, x.dtype) for name, x in batch.items()}

    def init(knobs: Knobs) -> TrainState:
        example = {name: jnp.zeros(*shape) for name, shape in shapes.items()}
        variables = meta.unbox(experiment.task.init(key_for(knobs.seed, "init"), example))
        return first_state(experiment, roles, variables, knobs.learning_rate)

    return init


def first_state(
    experiment: Experiment, roles: Roles, variables: Variables, learning_rate: Any
) -> TrainState:
    """The state before the first step, of variables without boxes."""
    params = variables["params"]
    model_state = {name: value for name, value in variables.items() if name != "params"}
    opt_state = build_optimizer(experiment, roles, learning_rate).init(params)
    return TrainState(jnp.zeros([], jnp.int32), params, model_state, opt_state)


def prefetch(chunks: Iterable[Batch], place: Callable[[Batch], list[Placed]]) -> Iterator[Placed]:
    """Batches on the devices, at least PREFETCH of them under way beside the one in use; with
    whatever `place` puts beside each."""
    queue: collections.deque[Placed] = collections.deque()
    for chunk in chunks:
        queue.extend(place(chunk))
        while len(queue) > PREFETCH:
            yield queue.popleft()
    yield from queue
