"""Checkpoints: state, data position and record of a run, committed together by Orbax.

What Orbax lacks: each step is sealed (lmjax/seal.py) and its record has the fingerprint of every
leaf, both of which are verified whenever a step is read; what is on disk is read from the disk; a
save that fails is told with its step, and none that is older is removed for it.
"""

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from lmjax.errors import InputError, RunError
from lmjax.fingerprint import Fingerprint
from lmjax.remote import is_remote
from lmjax.runfiles import checkpoint_steps
from lmjax.seal import Damaged, SealedPath, verify
from lmjax.state import TrainState

SCHEMA = 1  # of a step: its items, the fields of its record, and the form of its seal
STATE, RECORD = "state", "record"
FIELDS = {"schema": int, "leaves": dict, "config": dict, "data": dict}  # of the record
ALIGNMENT = 64  # bytes
LEFT_SECONDS = 1.0  # in which the threads of a save that failed have ended


class SaveError(RunError):
    """A checkpoint that could not be saved."""


class Checkpoints:
    """The checkpoints of one run, by step. Saving is asynchronous and atomic."""

    def __init__(self, directory: epath.Path, keep: int | None = None):
        """`keep` newest steps are retained; None = all (for reading)."""
        # Orbax takes absolute paths only; etils takes those of an object store for relative ones.
        self.directory = directory if is_remote(directory) else directory.resolve()
        self._keep = keep
        self._saving = 0  # the step whose save has begun and has not been looked after
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        writes = self._keep is not None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            create=writes,
            cleanup_tmp_directories=writes,  # of saves that a kill or a full disk has cut off
            temporary_path_class=None if is_remote(self.directory) else SealedPath,
        )
        with refused_if_damaged(self.directory):
            return ocp.CheckpointManager(
                self.directory,
                options=options,
                item_handlers={
                    STATE: ocp.StandardCheckpointHandler(),
                    RECORD: ocp.JsonCheckpointHandler(),
                },
            )

    def save(
        self,
        step: int,
        state: TrainState,
        record: dict[str, Any],
        fingerprint: Fingerprint | None = None,
    ) -> None:
        """Copy to the host, return, and write in the background.

        `fingerprint` is that of a program, whose kernels are compiled already. Raises SaveError
        where the save before this one has failed and nobody has asked, or this one cannot begin.
        """
        self.wait()
        leaves = _fingerprints(state, fingerprint)
        kept = jax.tree.map(_undonated, _as_dict(state))
        told = {"schema": SCHEMA, "leaves": leaves, **record}
        self._saving = step
        items = {STATE: ocp.args.StandardSave(kept), RECORD: ocp.args.JsonSave(told)}
        with self._failures_told():
            try:
                begun = self._manager.save(step, args=ocp.args.Composite(**items))
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                # Threads of a save that failed were still writing when what it left was removed.
                time.sleep(LEFT_SECONDS)
                self._manager = self._open()
                begun = self._manager.save(step, args=ocp.args.Composite(**items))
            if not begun:
                raise FileExistsError("there is one of this step or of a later one")

    def latest(self) -> int | None:
        """The newest step on disk."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """All steps on disk, in order."""
        return checkpoint_steps(self.directory)

    def choose(self, step: int | None) -> int:
        """The given step if it is there, or the newest one; raises InputError."""
        steps = self.steps()
        if not steps:
            raise InputError(f"{self.directory} holds no checkpoint yet")
        if step is not None and step not in steps:
            raise InputError(f"{self.directory} has no step {step}; it has {steps}")
        return steps[-1] if step is None else step

    def restore(
        self, step: int, abstract: TrainState, fingerprint: Fingerprint | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """State and record at `step`, the state laid out as `abstract` says.

        Its files are verified, then shapes and dtypes are compared, since Orbax would cast in
        silence, then it is read, and its leaves are verified. Raises Damaged where it is not what
        was saved, InputError where it is of another model or version.
        """
        template = _as_dict(abstract)
        self._verify(step)
        saved = self._record(step)
        check_leaves(self._shapes(step), template, f"{self.directory} step {step}")
        with refused_if_damaged(self.directory / str(step)):
            restored = self._manager.restore(
                step, args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(template)})
            )
        state = TrainState(**restored[STATE])
        self._check_numbers(step, state, saved["leaves"], fingerprint)
        return state, saved

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
        self._check_numbers(step, restored, self._record(step)["leaves"])
        return restored["params"], restored["model_state"]

    def check_weights(self, step: int, params: Any, model_state: Any) -> None:
        """Refuse weights of other shapes or dtypes, and those that are damaged."""
        self._verify(step)
        wanted = {"params": params, "model_state": model_state}
        saved = {name: x for name, x in self._shapes(step).items() if name in wanted}
        check_leaves(saved, wanted, f"{self.directory} step {step}")

    def failure(self) -> str:
        """What has become of a save that failed, once; "" where none did. Waits for nothing."""
        if self._manager.is_saving_in_progress():
            return ""
        try:
            self.wait()
        except SaveError as error:
            return str(error)
        return ""

    def wait(self) -> None:
        """Until the save under way is committed; raises SaveError where it failed."""
        with self._failures_told():
            self._manager.wait_until_finished()
        self._saving = 0

    def close(self) -> None:
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Within it, whatever a save fails of is a SaveError that names its step, once."""
        try:
            yield
        except Exception as error:  # of every kind: of Orbax, TensorStore and the file system
            # One that has failed takes steps that it has not removed for removed.
            self._manager = self._open()
            step, self._saving = self._saving, 0
            newest = self.latest()
            left = "there is none yet" if newest is None else f"the newest is of step {newest}"
            told = f"the checkpoint of step {step} could not be saved ({_first_line(error)}); "
            raise SaveError(told + left) from error

    def _verify(self, step: int) -> None:
        """Raise Damaged where the files of a step are not what was saved, as far as they tell."""
        folder = self.directory / str(step)
        for item in (STATE, RECORD):  # of which Orbax would also warn, twice
            if not (folder / item).is_dir():
                raise Damaged(f"{folder}: damaged, it has no {item}")
        if not is_remote(folder):
            verify(Path(folder))

    def _record(self, step: int) -> dict[str, Any]:
        where = self.directory / str(step) / RECORD
        with refused_if_damaged(self.directory / str(step)):
            args = ocp.args.Composite(**{RECORD: ocp.args.JsonRestore()})
            record = self._manager.restore(step, args=args)[RECORD]
        if not isinstance(record, dict):
            raise Damaged(f"{where}: damaged, not a record")
        if record.get("schema", SCHEMA) != SCHEMA:
            told = f"made by another version of lmjax (schema {record['schema']!r}, not {SCHEMA})"
            raise InputError(f"{where}: {told}")
        for name, kind in FIELDS.items():
            if not isinstance(record.get(name), kind):
                raise Damaged(f"{where}: damaged, it has no {name}")
        return record

    def _check_numbers(
        self,
        step: int,
        tree: Any,
        leaves: dict[str, str],
        fingerprint: Fingerprint | None = None,
    ) -> None:
        """Raise Damaged where a leaf is not what was saved."""
        found = _fingerprints(tree, fingerprint)
        other = sorted(path for path, each in found.items() if leaves.get(path) != each)
        if other:
            told = f"{len(other)} of {len(found)} leaves are not what was saved: {other[0]}"
            raise Damaged(f"{self.directory / str(step)}: damaged, {told}")

    def _shapes(self, step: int) -> dict[str, Any]:
        with refused_if_damaged(self.directory / str(step)):
            tree = self._manager.item_metadata(step)[STATE].tree
        if not isinstance(tree, dict):
            raise Damaged(f"{self.directory / str(step) / STATE}: damaged, no shapes in it")
        return tree


@contextlib.contextmanager
def refused_if_damaged(path: epath.Path) -> Iterator[None]:
    """Within it, whatever Orbax stumbles over is told as Damaged, with the path."""
    try:
        yield
    except Exception as error:  # it raises what its parsers raise, of every kind
        told = _first_line(error)
        # A run that goes on removes its old steps, whoever reads them.
        what = "damaged, cannot be read" if path.exists() else "it is not there any more"
        raise Damaged(f"{path}: {what} ({told})") from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _fingerprints(tree: Any, fingerprint: Fingerprint | None) -> dict[str, str]:
    """Path -> that of each leaf; waits for them."""
    if fingerprint is None:
        # One after the other, since collectives of simulated devices may not run beside each other.
        fingerprint = Fingerprint(
            tree, call=lambda leaf: lambda *x: jax.block_until_ready(leaf(*x))
        )
    return fingerprint.read(fingerprint(tree))


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
