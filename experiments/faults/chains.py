"""Runs that are killed ten times at random and starved of disk twice, and go on each time."""

import ctypes
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from experiments.faults.journal import GOOD, LOST, SILENT, Fault, Outcome
from experiments.faults.subject import experiment
from experiments.faults.zygote import fork, wait
from lmjax import train
from lmjax.errors import InputError, RunError
from lmjax.runfiles import CHECKPOINTS, METRICS, RESULT, TRACE, newest_checkpoint

KILLS, STARVED = 10, 2  # of each run
STEPS, SAVE_EVERY = 240, 3
SECONDS = 600.0  # after which a launch hangs
WITHIN = 0.2  # seconds after a checkpoint, in which half of the kills come; the others at start
FULL = (1, 2)  # exit status of a run that its disk has stopped, or that could not begin
DISK = 2**26  # bytes of the small file system
NEWNS, REC, PRIVATE, DETACH = 0x20000, 0x4000, 0x40000, 2  # of sched.h and sys/mount.h


class Unbroken(NamedTuple):
    """What a chain must end with."""

    result: dict  # result.json
    files: dict[str, bytes]  # whose bytes are those of the run
    startup: float  # seconds until its first checkpoint


def launch(folder: Path, seed: int, room: int | None) -> int:
    """In a child: train to the end; with `room`, no file may become longer than so many bytes."""
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        train.run(experiment(STEPS, SAVE_EVERY, seed), str(folder))
    except (RunError, InputError) as error:
        print(f"lmjax: {error}", flush=True)
        return 1 if isinstance(error, RunError) else 2
    return 0


class Chains:
    """Runs below a folder, which lies on a small file system of its own where there can be one."""

    def __init__(self, scratch: Path, seed: int):
        self._scratch, self._seed = scratch, seed
        self._disk = scratch / "disk"
        self._disk.mkdir()
        self.mounted = mount_small(self._disk)
        self._unbroken = self._run_whole(scratch / "unbroken", 0)

    def close(self) -> None:
        """The small file system goes."""
        if self.mounted:
            ctypes.CDLL(None).umount2(str(self._disk).encode(), DETACH)

    def _run_whole(self, folder: Path, seed: int) -> Unbroken:
        begun = time.monotonic()
        child = fork(folder.with_suffix(".log"), launch, folder, seed, None)
        while newest(folder) is None and time.monotonic() - begun < SECONDS:
            time.sleep(0.005)
        startup = time.monotonic() - begun
        if wait(child, SECONDS) != 0:
            raise RunError(
                f"the unbroken run has failed; {folder.with_suffix('.log')} says of what"
            )
        files = {name: (folder / name).read_bytes() for name in (METRICS, TRACE)}
        return Unbroken(json.loads((folder / RESULT).read_text()), files, startup)

    def sees_another_seed(self) -> bool:
        """The control: a run of another seed ends otherwise."""
        other = self._run_whole(self._scratch / "other", 1)
        return bool(self._difference(other.result, other.files))

    def fault(self, chains: int) -> Fault:
        """The chains as trials."""
        how = "a small file system" if self.mounted else "a limit on the length of files"
        name = f"a run killed {KILLS} times at random and starved of disk twice ({how})"
        return Fault(name, chains, self._chain)

    def _chain(self, number: int) -> Outcome:
        random = np.random.default_rng([self._seed, number])
        folder = self._disk / "run"
        shutil.rmtree(folder, ignore_errors=True)
        log = self._scratch / f"chain{number}.log"
        blows = random.permutation([True] * KILLS + [False] * STARVED)
        done = {True: 0, False: 0}
        for kills in blows:
            told = self._kill(folder, log, random) if kills else self._starve(folder, log, random)
            if told:
                return Outcome(
                    LOST, f"after {done[True]} kills and {done[False]} starvings: {told}"
                )
            if (folder / RESULT).exists():
                break
            done[bool(kills)] += 1
        status = wait(fork(log, launch, folder, 0, None), SECONDS)
        told = f"{done[True]} kills, {done[False]} starvings"
        if status != 0:
            return Outcome(LOST, f"{told}: the last launch ended with {status}; {log}: {last(log)}")
        files = {name: (folder / name).read_bytes() for name in (METRICS, TRACE)}
        other = self._difference(json.loads((folder / RESULT).read_text()), files)
        if other:
            return Outcome(SILENT, f"{told}: other {', '.join(other)}")
        if (done[True], done[False]) != (KILLS, STARVED):
            return Outcome(LOST, f"{told} only: the run was too short")
        return Outcome(GOOD, f"{told}: digest {self._unbroken.result['state_digest'][:16]}")

    def _kill(self, folder: Path, log: Path, random: np.random.Generator) -> str:
        """A launch killed while it starts, or soon after a save; "" or what went wrong."""
        before = newest(folder)
        child = fork(log, launch, folder, 0, None)
        starts = random.random() < 0.5
        limit = random.uniform(0, self._unbroken.startup) if starts else SECONDS
        deadline = time.monotonic() + limit
        # A save ends the start, too, which may be quicker than that of the unbroken run was.
        while (status := wait(child, 0.005)) is None and newest(folder) == before:
            if time.monotonic() > deadline:
                break
        if status is None and newest(folder) != before:
            status = wait(child, random.uniform(0, WITHIN))
        if status is None:
            os.kill(child, signal.SIGKILL)
            wait(child, SECONDS)
            return ""
        return "" if status == 0 else f"a launch ended with {status} of itself; {last(log)}"

    def _starve(self, folder: Path, log: Path, random: np.random.Generator) -> str:
        """A launch without room for another checkpoint; "" or what went wrong."""
        ballast = self._disk / "ballast"
        size = self._checkpoint_size()
        room = int(random.uniform(0, size))
        if self.mounted:
            free = os.statvfs(self._disk)
            ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
        child = fork(log, launch, folder, 0, None if self.mounted else room)
        status = wait(child, SECONDS)
        ballast.unlink(missing_ok=True)
        if status is None:
            os.kill(child, signal.SIGKILL)
            wait(child, SECONDS)
            return f"a launch without room hangs; {last(log)}"
        return "" if status in FULL else f"a launch without room ended with {status}; {last(log)}"

    def _checkpoint_size(self) -> int:
        files = (self._scratch / "unbroken" / CHECKPOINTS).rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file()) // 2

    def _difference(self, result: dict, files: dict[str, bytes]) -> list[str]:
        """What is not as in the unbroken run."""
        names = ("state_digest", "validation", "baselines")
        found = [name for name in names if result[name] != self._unbroken.result[name]]
        return found + [name for name in files if files[name] != self._unbroken.files[name]]


def newest(folder: Path) -> int | None:
    """The newest checkpoint of a run whose files come and go."""
    try:
        return newest_checkpoint(epath.Path(folder))
    except FileNotFoundError:
        return None


def last(log: Path) -> str:
    """The last line of a log."""
    return (log.read_text(errors="replace").splitlines() or [""])[-1]


def mount_small(folder: Path) -> bool:
    """Put a small file system there, which nobody else sees and which ends with this process.

    False where that is not permitted; it takes a superuser.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEWNS) or libc.mount(None, b"/", None, REC | PRIVATE, None):
        return False
    options = f"size={DISK}".encode()
    return libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options) == 0
