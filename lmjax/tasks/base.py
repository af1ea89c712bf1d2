"""What the trainer needs of a task. It knows no other: a task is how a run has a meaning."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lmjax.data import Batch, Dataset
from lmjax.data.batch import row_numbers
from lmjax.errors import FieldError
from lmjax.losses import accuracy, cross_entropy
from lmjax.metrics import Mean, Metrics
from lmjax.models import Model
from lmjax.models.base import ROWS
from lmjax.parts import Part
from lmjax.placement import OnPaper, placing

Variables = dict[str, Any]  # Flax's collections: {"params": ..., further ones: model state}


class Outcome(NamedTuple):
    """What a batch costs under some variables. All sums, never means."""

    loss: Mean  # nats or whatever is minimised, over the batch's weight
    metrics: Metrics  # further pairs, without the loss
    model_state: Variables  # the collections beside "params", after the batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Part):
    """Turns a model's output into a loss and metrics. Most tasks differ in `metrics` alone."""

    unit: ClassVar[str] = "examples"  # what throughput is counted in
    headline: ClassVar[str] = "loss"  # the validation metric that a run is judged by
    rising: ClassVar[frozenset[str]] = frozenset({"accuracy"})  # metrics of which more is better
    batch_axes: ClassVar[tuple[str, ...]] = ("batch",)  # leading axes of all arrays of a batch

    model: Model

    def check(self, dataset: Dataset) -> None:
        """Raise FieldError where the model cannot take this data."""

    def check_batch(self, batch: Batch) -> None:
        """Raise FieldError where the model cannot take batches of these shapes."""

    def module(self) -> Any:
        """The model, from inputs to logits."""
        return self.model.build()

    def init(self, key: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables, each parameter boxed with the names of its axes."""
        with placing(OnPaper()):  # parameters are the same on every device
            return self.module().init(key, batch["inputs"], train=False)

    def extras(self, batch: Batch) -> dict[str, Any]:
        """Keyword arguments of the module, beside its inputs."""
        return {}

    def augment(self, batch: Batch, key: PRNGKeyArray) -> Batch:
        """What training sees in place of the batch; inside the compiled step."""
        return batch

    def apply(
        self, variables: Variables, batch: Batch, key: PRNGKeyArray | None, **asked: Any
    ) -> tuple[Any, Variables]:
        """What the module makes of a batch, and the model state after it; `key` means training.

        `asked` are further arguments of the module.
        """
        params = variables["params"]
        inputs, extras = batch["inputs"], {**self.extras(batch), **asked}
        if jnp.issubdtype(inputs.dtype, jnp.floating):  # token ids have no precision to follow
            inputs = inputs.astype(jax.tree.leaves(params)[0].dtype)
        if key is None:
            return self.module().apply(variables, inputs, train=False, **extras), _state(variables)
        # A micro-batch is known by its first row: without it, all would drop out the same.
        first = row_numbers(batch)[0]
        made, updated = self.module().apply(
            variables,
            inputs,
            train=True,
            **extras,
            rngs={"dropout": jax.random.fold_in(key, first), ROWS: key},
            mutable=[name for name in variables if name != "params"],
        )
        return made, {**_state(variables), **updated}

    def logits(
        self, variables: Variables, batch: Batch, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "*b C"], Variables]:
        """Logits and the model state after the batch; `key` (for dropout) means training."""
        return self.apply(variables, batch, key)

    def outcome(self, variables: Variables, batch: Batch, key: PRNGKeyArray | None) -> Outcome:
        """Loss and metrics of one batch; `key` (for dropout) means training."""
        logits, model_state = self.logits(variables, batch, key)
        targets, weights = batch["targets"], batch["weights"]
        loss = cross_entropy(logits, targets, weights)
        metrics = {"accuracy": accuracy(logits, targets, weights), **self.metrics(loss, batch)}
        return Outcome(loss, metrics, model_state)

    def metrics(self, loss: Mean, batch: Batch) -> Metrics:
        """Metrics of this task beside loss and accuracy."""
        return {}

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """What follows from the means over a whole held-out split, and is no mean itself."""
        return {}

    def headline_for(self, dataset: Dataset) -> str:
        """The metric that a run on this data is judged by."""
        return self.headline

    def with_sampled_targets(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Batch:
        """The batch with targets drawn from the model's own prediction (Gauss-Newton methods).

        Row i draws from fold_in(key, i), with i its number in the whole batch.
        """
        logits, _ = self.logits(variables, batch, None)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, row_numbers(batch))
        drawn = jax.vmap(jax.random.categorical)(keys, logits.astype(jnp.float32))
        return {**batch, "targets": drawn.astype(jnp.int32)}

    def count(self, batch: Batch) -> int:
        """Units in one batch, for throughput."""
        return batch["targets"].size

    def baselines(self, dataset: Dataset) -> dict[str, float]:
        """Name -> headline metric, on the same held-out split, of methods that need no training
        by us; a run that does not beat them has shown nothing."""
        return {}

    def showcase(self, params: Any, dataset: Dataset, key: PRNGKeyArray) -> str:
        """Something a reader can look at, made by the trained model; "" = nothing to show."""
        return ""

    def commands(self, run: str) -> dict[str, str]:
        """Name -> command line that does something with a finished run of this task."""
        return {}


def check_shape(field: str, value: int, needed: int, what: str) -> None:
    """Refuse a size of the model that the data does not fit into."""
    if value < needed:
        raise FieldError(field, value, f"must be at least {needed}, {what}")


def _state(variables: Variables) -> Variables:
    return {name: value for name, value in variables.items() if name != "params"}
