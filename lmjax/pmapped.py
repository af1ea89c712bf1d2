"""The train step by jax.pmap, for code and habits that have it; jit over a mesh is the default.

Each device has the whole state and a share of each batch's rows, and sums over rows are psums. It
has the same signature and the same arrays on the same devices, so that checkpoints, evaluation and
fingerprints are jit's. Only sums are in another order: all agrees as between two meshes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmjax.data import Batch
from lmjax.errors import FieldError
from lmjax.experiment import Experiment
from lmjax.mesh import OnEach, OnMesh
from lmjax.placement import placing
from lmjax.shards import ALONG
from lmjax.state import TrainState


class Pmapped(NamedTuple):
    """lmjax.step.Split inside a pmap: this device's rows, and sums over all devices."""

    def rows(self, function: Callable[[Any, Batch], Batch], shared: Any, batch: Batch) -> Batch:
        return function(shared, _renumbered(batch))

    def sums(
        self, function: Callable[[Any, Batch], tuple[Any, Any]], shared: Any, batch: Batch
    ) -> tuple[Any, Any]:
        return jax.lax.psum(function(shared, _renumbered(batch))[0], ALONG), {}

    def apart(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


def _renumbered(batch: Batch) -> Batch:
    """With the numbers that its rows have in the whole batch, by which models drop out."""
    before = jax.lax.axis_index(ALONG) * len(batch["targets"])
    return {**batch, "rows": jnp.arange(len(batch["targets"])) + before}


def check(experiment: Experiment, mesh: Mesh, abstract: TrainState) -> None:
    """Refuse what pmap cannot do; raises FieldError."""
    if jax.process_count() > 1:
        raise FieldError("parallel.compiler", "pmap", "is for one process; jit is for many")
    if abstract.model_state:
        allowed = "needs a model without statistics over the batch, such as BatchNorm's; use jit"
        raise FieldError("parallel.compiler", "pmap", allowed)
    if mesh.size != mesh.shape[ALONG]:
        raise FieldError("parallel.compiler", "pmap", "needs copies of the state alone; use jit")


def pmapped(step: Callable[..., Any], placement: OnMesh) -> Callable[..., Any]:
    """The function (state, batch, previous, knobs) of a step whose Split is Pmapped."""
    mesh = placement.mesh

    def alone(*arguments: Any) -> Any:
        with placing(OnEach(placement)):
            return step(*arguments)

    mapped = jax.pmap(
        alone,
        axis_name=ALONG,
        in_axes=(None, 0, 0, None),
        out_axes=(None, None),
        devices=list(mesh.devices.flat),
    )

    def cut(rows: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), rows)

    apart = jax.jit(cut, out_shardings=NamedSharding(mesh, PartitionSpec(ALONG)))

    def train_step(state: Any, batch: Any, previous: Any, knobs: Any) -> Any:
        return mapped(state, apart(batch), apart(previous), knobs)

    return train_step
