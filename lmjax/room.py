"""Whether a run fits into the memory of its machine, told from shapes, before anything is made."""

import math
import os

import jax

from lmjax.console import human
from lmjax.data import Dataset
from lmjax.errors import FieldError, InputError
from lmjax.experiment import Experiment
from lmjax.state import TrainState


def check_batch(experiment: Experiment, dataset: Dataset) -> None:
    """Refuse batches that this machine cannot hold; a row of one is read."""
    row = dataset.batch(experiment.seed, 0, 1)
    size, memory = sum(x.nbytes for x in row.values()) * experiment.batch_size, host_memory()
    if size > memory:
        allowed = f"a batch takes {human(size)}, and this machine has {human(memory)}"
        raise FieldError("batch_size", experiment.batch_size, allowed)


def check_state(state: TrainState) -> None:
    """Refuse a state whose share, and that of the gradients, no device can hold.

    Of `state` only shapes, dtypes and shardings count. Activations come on top of it.
    """
    size, memory = size_of(state), device_memory()
    if size > memory:
        raise InputError(
            f"the state and its gradients take {human(size)} on each device, which has "
            f"{human(memory)}; choose a smaller task.model, or share it by --parallel.fsdp"
        )


def check_restored(state: TrainState, where: str) -> None:
    """Refuse a state that the first device could not hold, before its checkpoint is read."""
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    memory = device_memory()
    if size > memory:
        told = f"its state takes {human(size)}, and the device has {human(memory)}"
        raise InputError(f"{where}: {told}")


def size_of(state: TrainState) -> int:
    """Bytes that a state and its gradients take on each device."""
    leaves = [*jax.tree.leaves(state), *jax.tree.leaves(state.params)]  # gradients are as params
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def out_of_memory(experiment: Experiment, state: TrainState) -> str:
    """What a device that has run out of memory had to hold, and what to lower."""
    rows, pieces = experiment.batch_size, experiment.accumulation
    return (
        f"out of memory: of {human(device_memory())} on each device the state and its gradients "
        f"take {human(size_of(state))}, the rest are activations of {rows // pieces} rows "
        f"(batch_size {rows} / accumulation {pieces}); raise accumulation, or lower batch_size or "
        "task.model; the same command resumes"
    )


def device_memory() -> int:
    """Bytes that each device has; simulated devices share those of the host."""
    told = jax.local_devices()[0].memory_stats()
    if told and "bytes_limit" in told:
        return told["bytes_limit"]
    return host_memory() // jax.local_device_count()


def host_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
