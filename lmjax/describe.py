"""What an experiment amounts to, from shapes alone: parameters, memory, operations.

Nothing is allocated, no device is touched and no data is read, so a model of any size describes
itself on a laptop.
"""

import collections
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from lmjax.console import aligned, human
from lmjax.data import Batch
from lmjax.errors import FieldError, InputError, fields_of
from lmjax.experiment import Experiment
from lmjax.mesh import AnyMesh, parameter_spec, shapes_only_mesh
from lmjax.parallel import abstract_state, check_divides
from lmjax.parts import validate
from lmjax.placement import OnPaper, placing
from lmjax.rng import key_for
from lmjax.roles import Leaf, Roles
from lmjax.speed import counted, training_costs
from lmjax.state import TrainState, parameter_count, state_copies
from lmjax.step import as_computed


class Bytes(NamedTuple):
    """How much something takes, altogether and on each device."""

    whole: int
    each: int


class Description(NamedTuple):
    """All that `lmjax describe` tells."""

    experiment: Experiment
    mesh: AnyMesh
    length: int  # positions of an example; 1 where it has none
    roles: Roles
    state: TrainState  # shapes, dtypes and shardings
    memory: dict[str, Bytes]
    costs: dict[str, float]  # convention -> FLOP of training on one token or example
    unseen: frozenset[str]  # what the counted operations leave out


@placing(OnPaper())
def describe(experiment: Experiment) -> Description:
    """Everything about an experiment; raises InputError where no run of it could begin."""
    validate(experiment)
    mesh = shapes_only_mesh(experiment.parallel)
    with fields_of("data"):
        batch = experiment.data.shapes(experiment.batch_size)
    roles, state = fitting_state(experiment, batch, mesh)
    check_divides(experiment, batch, roles, mesh)
    flops, unseen = counted(experiment, state, batch)
    axes = experiment.task.batch_axes
    return Description(
        experiment,
        mesh,
        batch["targets"].shape[axes.index("length")] if "length" in axes else 1,
        roles,
        state,
        memory(experiment, state, batch, mesh),
        {"counted": flops, **training_costs(experiment, state, batch)},
        unseen,
    )


def fitting_state(experiment: Experiment, batch: Batch, mesh: AnyMesh) -> tuple[Roles, TrainState]:
    """Roles and abstract state; raises InputError where task, model and data do not fit.

    A run asks the data itself; here shapes are all there is to tell by.
    """
    task = experiment.task
    task.check_batch(batch)
    try:
        roles, state = abstract_state(experiment, batch, mesh)
        variables = {"params": state.params, **state.model_state}
        jax.eval_shape(task.outcome, bare(variables), batch, None)
    except FieldError as error:  # the model alone knows which shapes it can take
        raise error.under("task.model") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        fit = f"{task.model.label} as {task.label} does not fit {experiment.data.label}"
        raise InputError(f"{fit}: {str(error).splitlines()[0]}") from error
    return roles, state


def memory(
    experiment: Experiment, state: TrainState, batch: Batch, mesh: AnyMesh
) -> dict[str, Bytes]:
    """Bytes of each thing that a step needs, the activations of its backward pass included.

    State and gradients are exact. Activations are those of one micro-batch that the backward pass
    keeps, as jax.vjp says, before a compiler fuses anything and without what single operations use
    besides: 198 MB for char_gpt, where XLA on CPU takes 212 in a scan and 160 unrolled. On each
    device they are taken as cut by its share of the batch and of the length; it computes one
    virtual shard at a time.
    """
    params = tree_bytes(state.params)
    found = {
        "parameters": params,
        "optimizer state": tree_bytes(state.opt_state),
        "model state": tree_bytes(state.model_state),
        "gradients": params,
    }
    if experiment.compute_dtype != "float32":
        found[f"parameters in {experiment.compute_dtype}"] = Bytes(
            params.whole // 2, params.each // 2
        )
    kept = activations(experiment, state, batch)
    shares = mesh.shape["data"] * mesh.shape["fsdp"] * mesh.shape["sequence"]
    found["activations, about"] = Bytes(
        kept, kept // max(shares, experiment.parallel.virtual_shards)
    )
    return found


def tree_bytes(tree: Any) -> Bytes:
    """Of the arrays whose shapes, dtypes and shardings a tree holds."""
    whole = each = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        whole += leaf.size * size
        each += math.prod(leaf.sharding.shard_shape(leaf.shape)) * size
    return Bytes(whole, each)


def activations(experiment: Experiment, state: TrainState, batch: Batch) -> int:
    """Bytes that the forward pass of one micro-batch leaves for the backward pass.

    Parameters, inputs and what is the same array twice do not count.
    """
    rows = experiment.batch_size // experiment.accumulation
    micro = {n: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for n, x in batch.items()}
    params = jax.eval_shape(lambda p: as_computed(experiment, p), bare(state.params))
    key = jax.eval_shape(lambda: key_for(0, "dropout"))

    def left(params: Any, model_state: Any, batch: Batch, key: Any) -> Any:
        def loss(params: Any) -> Any:
            return experiment.task.outcome({"params": params, **model_state}, batch, key).loss.total

        return jax.vjp(loss, params)[1]

    jaxpr = jax.make_jaxpr(left)(params, bare(state.model_state), micro, key).jaxpr
    kept = {x for x in jaxpr.outvars if not isinstance(x, Literal)} - {*jaxpr.invars}
    return sum(x.aval.size * x.aval.dtype.itemsize for x in kept)


def bare(tree: Any) -> Any:
    """Shapes and dtypes without a mesh."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def modules(roles: Roles) -> dict[str, int]:
    """Path of a module -> number of parameters in it and below; "" is the whole model."""
    sizes: dict[str, int] = collections.Counter()
    for path, leaf in leaves(roles):
        names = path.split("/")
        for depth in range(len(names)):
            sizes["/".join(names[:depth])] += leaf.size
    return dict(sizes)


def leaves(roles: Roles) -> list[tuple[str, Leaf]]:
    """(path, parameter) of each."""
    found, _ = jax.tree_util.tree_flatten_with_path(roles, is_leaf=lambda x: isinstance(x, Leaf))
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in found]


def to_text(d: Description) -> str:
    """For a reader."""
    many, optimizer = d.mesh.size > 1, d.experiment.optimizer
    count, unit = parameter_count(d.state.params), d.experiment.task.unit.removesuffix("s")
    shares = " x ".join(f"{name} {size}" for name, size in d.mesh.shape.items() if size > 1)
    memory = dict(d.memory)
    memory["sum"] = Bytes(*(sum(column) for column in zip(*memory.values(), strict=True)))
    head = ["", "bytes", *([f"on each of {d.mesh.size} devices ({shares})"] if many else [])]
    held = [[name, *map(human, pair if many else pair[:1])] for name, pair in memory.items()]
    spent = [[name, human(round(flops), ""), MEANING[name]] for name, flops in d.costs.items()]
    state = [[path, by(leaf.shape), str(leaf.dtype)] for path, leaf in state_leaves(d)]
    blocks = [
        aligned(parameter_rows(d)),
        aligned([["module", "parameters", "share"], *module_rows(d)]),
        f"{count:,} parameters",
        aligned([["model state", "shape", "dtype"], *state]) if state else "",
        aligned([head, *held]),
        "activations are taken as cut over batch and length alone" if many else "",
        aligned([[f"training on one {unit}", "FLOP", ""], *spent]),
        f"not counted: {', '.join(sorted(d.unseen))}" if d.unseen else "",
        f"optimizer:{optimizer.label}: {optimizer.caution}" if optimizer.caution else "",
    ]
    return "\n\n".join(block for block in blocks if block)


MEANING = {
    "counted": "3 times the multiplications and additions of the forward pass's products",
    "causal": "6 N + 6 L d T: N parameters, L layers of attention d wide, half of T tokens seen",
    "full": "6 N + 12 L d T: the same with all T tokens seen, as PaLM and nanoGPT count",
}


def parameter_rows(d: Description) -> list[list[str]]:
    """A row for each parameter, with the mesh axes that cut it where there are many devices."""
    many = d.mesh.size > 1
    rows = [["parameter", "shape", "axes", "role", "decays", "number", *(["cut"] if many else [])]]
    for path, leaf in leaves(d.roles):
        decays = "yes" if leaf.decays else "no"
        row = [path, by(leaf.shape), " ".join(leaf.axes), leaf.role, decays, f"{leaf.size:,}"]
        cut = [
            str(axis) for axis in parameter_spec(leaf, d.mesh) if axis and d.mesh.shape[axis] > 1
        ]
        rows.append([*row, *([" ".join(cut)] if many else [])])
    return rows


def module_rows(d: Description) -> list[list[str]]:
    """A row for each module, indented below the one that it is part of."""
    sizes = modules(d.roles)
    rows = []
    for path, size in sizes.items():
        indent = "  " * (path.count("/") + 1) if path else ""
        name = path.rpartition("/")[2] or "model"
        rows.append([indent + name, f"{size:,}", f"{size / sizes['']:.1%}"])
    return rows


def state_leaves(d: Description) -> list[tuple[str, Any]]:
    """(path, shape) of what the model carries beside its parameters."""
    found = jax.tree_util.tree_leaves_with_path(d.state.model_state)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in found]


def to_json(d: Description) -> dict[str, Any]:
    """For a program; bytes, and FLOP of training on one token or example."""
    return {
        "experiment": d.experiment.name,
        "parameters": parameter_count(d.state.params),
        "leaves": [
            {
                "path": path,
                "shape": leaf.shape,
                "axes": leaf.axes,
                "role": leaf.role,
                "decays": leaf.decays,
                "spec": [*parameter_spec(leaf, d.mesh)],
            }
            for path, leaf in leaves(d.roles)
        ],
        "modules": modules(d.roles),
        "model_state": [
            {"path": path, "shape": leaf.shape, "dtype": str(leaf.dtype)}
            for path, leaf in state_leaves(d)
        ],
        "mesh": dict(d.mesh.shape),
        "bytes": {name: pair._asdict() for name, pair in d.memory.items()},
        "state_copies": state_copies(d.state),
        "flops": {"unit": d.experiment.task.unit, "length": d.length, **d.costs},
        "not_counted": sorted(d.unseen),
    }


def by(shape: Sequence[int]) -> str:
    """A shape for a reader: 2 x 3."""
    return " x ".join(map(str, shape))
