"""Checkpoints: state, data position and record of a run, committed together by Orbax."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from lmjax.errors import InputError
from lmjax.state import TrainState

STATE, RECORD = "state", "record"
ALIGNMENT = 64  # bytes


class Checkpoints:
    """The checkpoints of one run, by step. Saving is asynchronous and atomic."""

    def __init__(self, directory: epath.Path, keep: int | None = None):
        """`keep` newest steps are retained; None = all (for reading)."""
        self.directory = directory.resolve()  # Orbax takes absolute paths only
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=keep is not None)
        with refused_if_damaged(self.directory):
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=options,
                item_handlers={
                    STATE: ocp.StandardCheckpointHandler(),
                    RECORD: ocp.JsonCheckpointHandler(),
                },
            )

    def save(self, step: int, state: TrainState, record: dict[str, Any]) -> None:
        """Copy to the host, return, and write in the background."""
        kept = jax.tree.map(_undonated, _as_dict(state))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{STATE: ocp.args.StandardSave(kept), RECORD: ocp.args.JsonSave(record)}
            ),
        )

    def latest(self) -> int | None:
        """The newest step on disk."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All steps on disk, in order."""
        return sorted(self._manager.all_steps())

    def choose(self, step: int | None) -> int:
        """The given step if it is there, or the newest one; raises InputError."""
        steps = self.steps()
        if not steps:
            raise InputError(f"{self.directory} holds no checkpoint yet")
        if step is not None and step not in steps:
            raise InputError(f"{self.directory} has no step {step}; it has {steps}")
        return steps[-1] if step is None else step

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State and record at `step`, the state laid out as `abstract` says.

        Shapes and dtypes are compared first, since Orbax would cast in silence. Raises InputError
        where they differ, and where a file is damaged so that it cannot be read.
        """
        template = _as_dict(abstract)
        check_leaves(self._shapes(step), template, f"{self.directory} step {step}")
        with refused_if_damaged(self.directory / str(step)):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{STATE: ocp.args.StandardRestore(template), RECORD: ocp.args.JsonRestore()}
                ),
            )
        state, record = TrainState(**restored[STATE]), restored[RECORD]
        if not isinstance(record, dict) or not {"config", "data"} <= record.keys():
            raise InputError(f"{self.directory / str(step) / RECORD}: damaged, not a record")
        return state, record

    def restore_weights(self, step: int, abstract: TrainState) -> tuple[Any, Any]:
        """(params, model_state) at `step`, whatever optimizer made them."""
        self.check_weights(step, abstract.params, abstract.model_state)
        wanted = {"params": abstract.params, "model_state": abstract.model_state}
        args = ocp.args.PyTreeRestore(
            wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        with (
            refused_if_damaged(self.directory / str(step)),
            ocp.CheckpointManager(
                self.directory, item_handlers={STATE: ocp.PyTreeCheckpointHandler()}
            ) as reader,
        ):
            restored = reader.restore(step, args=ocp.args.Composite(**{STATE: args}))[STATE]
        return restored["params"], restored["model_state"]

    def check_weights(self, step: int, params: Any, model_state: Any) -> None:
        """Refuse weights of other shapes or dtypes, and those whose shapes cannot be read."""
        wanted = {"params": params, "model_state": model_state}
        saved = {name: x for name, x in self._shapes(step).items() if name in wanted}
        check_leaves(saved, wanted, f"{self.directory} step {step}")

    def wait(self) -> None:
        """Until the save under way is committed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def _shapes(self, step: int) -> dict[str, Any]:
        for item in (STATE, RECORD):  # of which Orbax would also warn, twice
            if not (self.directory / str(step) / item).is_dir():
                raise InputError(f"{self.directory / str(step)}: damaged, it has no {item}")
        with refused_if_damaged(self.directory / str(step)):
            tree = self._manager.item_metadata(step)[STATE].tree
        if not isinstance(tree, dict):
            raise InputError(f"{self.directory / str(step) / STATE}: damaged, no shapes in it")
        return tree


@contextlib.contextmanager
def refused_if_damaged(path: epath.Path) -> Iterator[None]:
    """Within it, whatever Orbax stumbles over is an InputError that names the path."""
    try:
        yield
    except Exception as error:  # it raises what its parsers raise, of every kind
        told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        # A run that goes on removes its old steps, whoever reads them.
        what = "damaged, cannot be read" if path.exists() else "it is not there any more"
        raise InputError(f"{path}: {what} ({told})") from None


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "params": state.params,
        "model_state": state.model_state,
        "opt_state": state.opt_state,
    }


def _undonated(x: jax.Array) -> jax.Array:
    """The array, in memory that no step donates where Orbax would keep a view of it.

    It does so on a CPU. The next step, which may not write where somebody looks, then copies each
    array that it is given, in 800 ms for 1.5 GB. jax.device_put takes 370, this 200: NumPy asks for
    memory in large pages (experiments/benchmarks/checkpoint_stall.py). From other devices Orbax
    copies to the host before it returns.
    """
    if next(iter(x.devices())).platform != "cpu":
        return x
    pieces = [jax.device_put(_aligned(y.data), y.device) for y in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, pieces)


def _aligned(x: jax.Array) -> np.ndarray:
    """A copy that XLA on a CPU takes as it is; what is not aligned it would copy once more."""
    memory = np.empty(x.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    np.copyto(copy, x)
    return copy


def check_leaves(saved: Any, wanted: Any, where: str) -> None:
    """Refuse a checkpoint whose leaves are missing, unexpected or of another shape or dtype."""
    old, new = _flat(saved), _flat(wanted)
    told = [f"missing {path}" for path in new.keys() - old.keys()]
    told += [f"unexpected {path}" for path in old.keys() - new.keys()]
    told += [
        f"{path} is {old[path]}, not {new[path]}"
        for path in old.keys() & new.keys()
        if old[path] != new[path]
    ]
    if told:
        raise InputError(f"{where} does not fit this model: {'; '.join(sorted(told))}")


def _flat(tree: Any) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(
            path, simple=True, separator="/"
        ): f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for path, leaf in leaves
    }
