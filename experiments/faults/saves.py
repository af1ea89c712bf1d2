"""One save that is killed, or refused by the disk, at each call that changes a file."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from etils import epath

from experiments.faults import tracer
from experiments.faults.journal import GOOD, LOST, SILENT, Fault, Outcome
from experiments.faults.subject import DATA, Found, shapes_of, small_state
from experiments.faults.tracer import Tracer
from experiments.faults.zygote import FORK, Worker, fork
from lmjax.checkpoint import Checkpoints, SaveError
from lmjax.fingerprint import Fingerprint
from lmjax.runfiles import CHECKPOINTS

SECONDS = 120.0  # after which a save hangs
SAVED = "saved"
KILLED = "SIGKILL at each call of a save that changes a file"
REFUSED = {
    errno.ENOSPC: "ENOSPC at each call of a save that changes a file",
    errno.EIO: "EIO at each call of a save that changes a file",
}


def save_twice(folder: Path, ours: Connection, theirs: Connection) -> None:
    """In a child: step 2 over a checkpoint of step 1, which it removes; then step 3."""
    ours.close()
    checkpoints = Checkpoints(epath.Path(folder) / CHECKPOINTS, 1)
    states = {step: small_state(step) for step in (2, 3)}
    fingerprint = Fingerprint(shapes_of(states[2]))
    fingerprint.read(fingerprint(states[2]))  # compiled
    theirs.send("ready")
    for step in theirs.recv():
        try:
            checkpoints.save(step, states[step], {"config": {}, "data": DATA}, fingerprint)
            checkpoints.wait()
            theirs.send(SAVED)
        except SaveError as error:
            theirs.send(str(error))
    os._exit(0)  # not by Orbax's threads, which a fault may have left waiting


class Saves:
    """Saves in processes of their own, each from a copy of one directory."""

    def __init__(self, reader: Worker, scratch: Path):
        self._reader, self._scratch = reader, scratch
        self._first, self._log = scratch / "first", scratch / "saves.log"
        reader("save_first", str(self._first))
        self._digests = {step: reader("digest_of", step) for step in (1, 2, 3)}

    def faults(self, every: int) -> list[Fault]:
        """Every call, or each of `every`."""
        names = [KILLED, *REFUSED.values()]
        if told := tracer.why_not():
            return [Fault(name, 0, lambda _: Outcome(LOST, ""), told) for name in names]
        count = len(self._save(0, 0, (2,))[2])
        trials: list[Callable[[int], Outcome]] = [self._kill]
        trials += [lambda number, fault=fault: self._refuse(number, fault) for fault in REFUSED]
        return [
            Fault(name, -(-count // every), lambda n, trial=trial: trial(1 + n * every))
            for name, trial in zip(names, trials, strict=True)
        ]

    def _save(
        self, at: int, fault: int, steps: tuple[int, ...]
    ) -> tuple[int | None, list[str], list[tracer.Call]]:
        """Exit status, what the child said of each step, and the calls that it made."""
        folder = self._scratch / "saved"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._first, folder)
        ours, theirs = FORK.Pipe()
        child = fork(self._log, save_twice, folder, ours, theirs)
        theirs.close()
        ours.recv()
        traced = Tracer(child, folder)
        ours.send(steps)
        status = traced.run(at, fault, SECONDS)
        told = []
        while ours.poll():
            try:
                told.append(ours.recv())
            except EOFError:
                break
        ours.close()
        return status, told, traced.calls

    def _kill(self, at: int) -> Outcome:
        status, told, calls = self._save(at, 0, (2,))
        where = f"call {at}, {' '.join(calls[-1])}"
        if status not in (-signal.SIGKILL, 0):  # 0: it made one call fewer than the one before
            return Outcome(LOST, f"{where}: ended with {status}")
        return self._judge(where, told)

    def _refuse(self, at: int, fault: int) -> Outcome:
        status, told, calls = self._save(at, fault, (2, 3))
        where = f"call {at}, {' '.join(calls[min(at, len(calls)) - 1])}"
        if status != 0 or len(told) != 2:
            return Outcome(LOST, f"{where}: ended with {status}, said {told}")
        failed = [x for x in told if x != SAVED]
        if len(failed) > 1 or any("could not be saved" not in x for x in failed):
            return Outcome(LOST, f"{where}: {told}")
        return self._judge(where, told)

    def _judge(self, where: str, told: list[str]) -> Outcome:
        """Whether what is there now is what was saved, and can be gone on from."""
        folder = str(self._scratch / "saved")
        found: Found = self._reader("recover_small", folder)
        least = max((step for step, x in enumerate(told, 2) if x == SAVED), default=1)
        if found.step and found.digest != self._digests[found.step]:
            return Outcome(SILENT, f"{where}: step {found.step} has other bits")
        if found.step < least or found.told:  # a step is there whole or not at all
            return Outcome(LOST, f"{where}: {found}, but {told}")
        if left := self._reader("save_again", folder, 4):
            return Outcome(LOST, f"{where}: {left}")
        return Outcome(GOOD, "; ".join([f"{where}: step {found.step} is taken", *told]))
