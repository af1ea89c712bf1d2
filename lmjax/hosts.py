"""Hosts: the processes of one run, on one machine or on many, each with devices of its own.

They find each other by jax.distributed: told where by three flags, or detected from what Slurm,
MPI, Kubernetes or Cloud TPU put into the environment, with the number of processes asserted. What
they say to each other beside their collectives goes through its key-value store (lmjax/meeting.py):
whether they agree on what is to be run, what one of them refuses, that each is still alive.

A collective waits for a peer that is gone for ever, so each process has a thread that watches the
others and ends its own process, with a line that names the one that was not heard of for PATIENCE
and exit status 75. So whoever starts runs again (tpu/babysit.py, tpu/slurm.sbatch) can tell a run
that has lost a process from one that fails by itself, which ends with 1 or 2.
"""

import contextlib
import functools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmjax.errors import PEER_GONE, InputError, RunError
from lmjax.flags import natural, take
from lmjax.meeting import LONG, Meeting
from lmjax.signals import Stopped

JOIN_SECONDS = 120  # that processes wait for each other at the start
BEAT = 1.0  # seconds between two signs of life
PATIENCE = 15.0  # seconds without one, after which a process is given up
AGREE_MS = 3_600_000  # that a process waits for another's word, while it shows signs of life
COUNTS = {  # variables in which launchers tell how many processes there are
    "SLURM_STEP_NUM_TASKS": "Slurm",
    "OMPI_COMM_WORLD_SIZE": "Open MPI",
    "PMI_SIZE": "MPI",
    "LMJAX_PROCESSES": "tpu/worker.sh",
}
LISTS = {"TPU_WORKER_HOSTNAMES": "Cloud TPU"}  # and in which they list them


class Asked(NamedTuple):
    """What a launch was told of its processes; None = to be detected."""

    coordinator: str | None = None  # HOST:PORT of process 0
    processes: int | None = None  # how many there are
    process: int | None = None  # which of them this is, from 0


class Hosts:
    """This process among those of the run; alone, it agrees with itself at once."""

    def __init__(
        self, index: int = 0, count: int = 1, store: Any = None, meeting: Meeting | None = None
    ):
        self.index, self.count, self._meeting = index, count, meeting
        self._store, self._calls = store, 0
        self._names = [""] * count
        self._heard: dict[int, tuple[str, float]] = {}  # process -> its last sign of life, when
        self._answered = time.monotonic()  # when the store last did
        self._over = threading.Event()
        if count > 1:
            self._names = self.agree(f"{socket.gethostname()}, process id {os.getpid()}")
            for work in (self._beat, self._judge):
                threading.Thread(target=work, daemon=True).start()

    @property
    def first(self) -> bool:
        """Whether this is the one that writes what is written once."""
        return self.index == 0

    def agree(self, value: Any) -> list[Any]:
        """What every process says here, in their order; each must come here as often."""
        if self.count == 1:
            return [value]
        where = self._post(value)
        return [self._read(where, process) for process in range(self.count)]

    def gather(self, value: Any) -> list[Any]:
        """As `agree` for the first process; the others wait for nobody and get []."""
        if self.count == 1:
            return [value]
        where = self._post(value)
        if not self.first:
            return []
        told = [self._read(where, process) for process in range(self.count)]
        self._store.key_value_delete(f"{where}/")
        return told

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What one process refuses within it, all refuse at its end."""
        try:
            yield
        except InputError as error:
            self.agree(str(error))
            raise
        for process, told in enumerate(self.agree("")):
            if told:
                raise InputError(f"{self.name(process)} refuses: {told}")

    def check_same(self, what: Mapping[str, Any]) -> None:
        """Refuse processes that are about to run different things; raises InputError in all."""
        said = self.agree(dict(what))
        for process, theirs in enumerate(said):
            for name, value in said[0].items():
                if theirs[name] != value:
                    raise InputError(
                        f"the processes differ in {name}: {value} in {self.name(0)}, "
                        f"{theirs[name]} in {self.name(process)}"
                    )

    def name(self, process: int) -> str:
        """A process, for a reader."""
        return f"process {process} of {self.count} ({self._names[process]})"

    def leave(self, told: str = "") -> None:
        """Say good-bye: the others then do not wait for this one, and end if `told` says why."""
        if self.count == 1:
            return
        with contextlib.suppress(Exception):  # a store that is gone needs no good-bye
            self._store.key_value_set(f"lmjax/left/{self.index}", told or "done", True)
            if told:
                return
            self.agree("")  # so that nobody misses the store
            self._over.set()
            jax.distributed.shutdown()
            if self._meeting is not None:
                self._meeting.end()

    def blame(self, error: BaseException) -> None:
        """If a collective failed: wait until it is known who is gone, and end with that."""
        first_line, cause = (str(error).splitlines() or [""])[0], error
        while cause is not None and not isinstance(cause, jax.errors.JaxRuntimeError):
            cause = cause.__context__
        if self.count == 1 or cause is None or "RESOURCE_EXHAUSTED" in str(cause):
            return
        time.sleep(PATIENCE + 3 * BEAT)
        raise RunError(f"a collective failed, though all processes are there: {first_line}")

    def end(self, status: int) -> None:
        """Where there are others, end at once: on its way out JAX would wait for them, or abort."""
        if self.count > 1 and status:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _post(self, value: Any) -> str:
        self._calls += 1
        where = f"lmjax/said/{self._calls}"
        self._store.key_value_set(f"{where}/{self.index}", json.dumps(value))
        return where

    def _read(self, where: str, process: int) -> Any:
        return json.loads(self._store.blocking_key_value_get(f"{where}/{process}", AGREE_MS))

    def _beat(self) -> None:
        """Show signs of life, and take in those of the others."""
        number = 0
        while not self._over.wait(BEAT):
            number += 1
            with contextlib.suppress(Exception):  # what a store says that is gone; see _judge
                self._store.key_value_set(f"lmjax/alive/{self.index}", str(number), True)
                left = _numbered(self._store.key_value_dir_get("lmjax/left/"))
                alive = _numbered(self._store.key_value_dir_get("lmjax/alive/"))
                now = self._answered = time.monotonic()
                for process, told in left.items():
                    if told != "done" and process != self.index:
                        # Of a failure of its own, which would be the same another time.
                        _end(f"{self.name(process)} has ended: {told}", 1)
                for process in range(self.count):
                    sign = "left" if process in left else alive.get(process, "")
                    if process not in self._heard or self._heard[process][0] != sign:
                        self._heard[process] = sign, now

    def _judge(self) -> None:
        """End this process when another is given up; beside `_beat`, which a dead store holds."""
        while not self._over.wait(BEAT):
            now = time.monotonic()
            left = {process for process, (sign, _) in self._heard.items() if sign == "left"}
            if now - self._answered > PATIENCE and not self.first and 0 not in left:
                _end(_silent(self.name(0)))
            if now - self._answered > PATIENCE:
                continue
            for process, (_, heard) in list(self._heard.items()):
                if process not in left and now - heard > PATIENCE:
                    _end(_silent(self.name(process)))


_current = Hosts()


def current() -> Hosts:
    """This process among those that `join` has found; alone where nobody called it."""
    return _current


def join(asked: Asked, environment: Mapping[str, str] = os.environ) -> Hosts:
    """Find the other processes, if there are to be any; before JAX is asked for its devices.

    Raises InputError where the flags make no sense or another number of processes is found.
    """
    global _current
    check(asked)
    expected = asked.processes or detected(environment)
    if expected in (None, 1) and asked.coordinator is None:
        return _current
    from jax._src.clusters import ClusterEnv  # what jax.distributed finds, before it acts on it
    from jax._src.distributed import global_state  # and its key-value store, as Orbax has it

    address, count, process, devices = asked.coordinator, asked.processes, asked.process, None
    try:
        if address is None:
            found = ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, JOIN_SECONDS
            )
            address, count, process, devices = found
            devices = None if sees_its_own(environment) else devices
        if address is None or count is None or process is None:
            raise InputError(
                "no launcher was detected: add --coordinator HOST:PORT and --process I"
            )
        if expected is not None and count != expected:
            raise InputError(f"--processes {expected}: the launcher has started {count}")
        meeting = _meet(address, count, process, devices)
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:
        told = (str(error).splitlines() or [""])[0]
        raise InputError(f"{count} processes could not find each other: {told}") from None
    _current = Hosts(process, count, global_state.client, meeting)
    return _current


def _meet(address: str, count: int, process: int, devices: Any) -> Meeting | None:
    """jax.distributed.initialize, its service in another process, and an end to its patience."""
    jax.config.update("jax_enable_preemption_service", False)  # signals are heard by us
    told = f"not all of {count} processes came to {address} within {JOIN_SECONDS} s"
    late = threading.Timer(JOIN_SECONDS, _end, [told])
    late.daemon = True
    late.start()
    meeting = Meeting(address.rpartition(":")[2], count) if process == 0 else None
    jax.distributed.initialize(
        address,
        count,
        process,
        devices,
        initialization_timeout=2 * JOIN_SECONDS,
        heartbeat_timeout_seconds=LONG,
        shutdown_timeout_seconds=int(PATIENCE),
        # Process 0 starts a service whatever one asks for: here nobody comes.
        coordinator_bind_address="localhost:0",
        cluster_detection_method="deactivate",  # or it would choose one device again
    )
    late.cancel()
    return meeting


def hearing(mesh: Mesh) -> Callable[[int], int]:
    """From the signal that this process has heard, 0 = none, to the one that all of them have."""
    return int if _current.count == 1 else StopAnywhere(mesh)


class StopAnywhere:
    """The request to stop that any process has heard, as all of them learn it at the same step.

    Each step all hand in what they heard, and read what was handed in one step before, for which
    the step that was dispatched since leaves time.
    """

    def __init__(self, mesh: Mesh):
        everywhere = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._waits = mesh.devices.flat[0].platform == "cpu"  # see lmjax.parallel.one_at_a_time
        self._largest = jax.jit(
            lambda x: x.max(), out_shardings=NamedSharding(mesh, PartitionSpec())
        )
        self._flags = functools.cache(
            lambda number: jax.make_array_from_callback(
                (mesh.size,), everywhere, lambda at: np.full(mesh.size, number, np.int32)[at]
            )
        )
        self._before: Any = None

    def __call__(self, number: int) -> int:
        """The signal's number, 0 where none was heard anywhere."""
        with jax.transfer_guard_host_to_device("allow"):
            before, self._before = self._before, self._largest(self._flags(number))
        if self._waits:
            jax.block_until_ready(self._before)
        return 0 if before is None else int(before)


@contextlib.contextmanager
def parting() -> Iterator[None]:
    """Within it a run is made; whatever ends it, the other processes are told."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Stopped)  # which all of them do
        _current.leave("" if stopped else str(error) or type(error).__name__)
        raise
    _current.leave()


def read(words: Sequence[str]) -> tuple[Asked, list[str]]:
    """What the words of a command say of its processes, and the other words."""
    coordinator, words = take(words, "--coordinator", "HOST:PORT")
    numbers = []
    for flag in ("--processes", "--process"):
        word, words = take(words, flag, "a number")
        if word is not None and natural(word) is None:
            raise InputError(f"{flag} {word}: must be a whole number")
        numbers.append(None if word is None else natural(word))
    return Asked(coordinator, *numbers), words


def check(asked: Asked) -> None:
    """Refuse flags that make no sense together; raises InputError."""
    if asked.processes is not None and asked.processes < 1:
        raise InputError(f"--processes {asked.processes}: must be at least 1")
    if asked.coordinator is None:
        if asked.process is not None:
            raise InputError("--process needs --coordinator HOST:PORT and --processes N")
        return
    host, colon, port = asked.coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise InputError(f"--coordinator {asked.coordinator}: must be HOST:PORT of process 0")
    if asked.processes is None or asked.process is None:
        raise InputError("--coordinator needs --processes N and --process I")
    if not 0 <= asked.process < asked.processes:
        allowed = f"must be from 0 to {asked.processes - 1}"
        raise InputError(f"--process {asked.process}: {allowed}")


def detected(environment: Mapping[str, str]) -> int | None:
    """How many processes a launcher says that there are; None where there is none."""
    for name in COUNTS:
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    for name in LISTS:
        names = environment.get(name, "").split(",")
        if all(names) and not any(map(str.isspace, environment[name])):  # libtpu puts words there
            return len(names)
    return None


def sees_its_own(environment: Mapping[str, str]) -> bool:
    """Whether this process may take all the GPUs that it sees, and not JAX's one a process."""
    if environment.get("JAX_LOCAL_DEVICE_IDS"):
        return True  # which JAX reads then
    if environment.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0:
        return True  # the launcher has given it one
    here = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or environment.get(
        "SLURM_STEP_TASKS_PER_NODE", ""
    )
    return bool(re.fullmatch(r"1(\(x\d+\))?", here))  # Slurm's for one on each of so many nodes


def check_joined(say: Callable[[str], None]) -> None:
    """Refuse to run as one of several processes that nobody has joined; asks for the devices."""
    if jax.process_count() != _current.count:
        raise InputError(
            f"JAX sees {jax.process_count()} processes, and this run {_current.count}: "
            f"add --processes {jax.process_count()}"
        )
    if _current.count > 1:
        say(f"processes: {_current.count}, {jax.local_device_count()} devices in the first")


def _numbered(entries: list[tuple[str, str]]) -> dict[int, str]:
    """Process -> value, of a folder of the store."""
    return {int(key.rpartition("/")[2]): value for key, value in entries}


def _silent(name: str) -> str:
    return f"{name} has not been heard of for {PATIENCE:.0f} s"


def _end(told: str, status: int = PEER_GONE) -> NoReturn:
    """At once, from a thread, whatever the others are waiting for."""
    sys.stdout.flush()
    print(f"lmjax: {told}; this process ends, the same command resumes", file=sys.stderr)
    sys.stderr.flush()
    os._exit(status)
