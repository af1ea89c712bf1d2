"""Two processes with two devices each, over gloo, beside one process with four."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import simulated

from lmjax import hosts
from lmjax.errors import PEER_GONE, InputError
from lmjax.meeting import Meeting

WORDS = ["breast_cancer", "--batch-size", "64", "--save-every", "20", "--log-every", "5"]
SHARDS = [*WORDS, "--parallel.virtual-shards", "4"]
WITHIN = 30.0  # seconds after which nobody may still wait for a peer that is gone


class Pair:
    """Two processes of one run."""

    def __init__(self, words: list[str], *own: list[str]):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self.words = words
        self.processes = [
            launch([*words, *(own[i] if own else []), "--coordinator", address, "--processes", "2",
                    "--process", str(i)], 2)
            for i in range(2)
        ]  # fmt: skip

    def wait(self, seconds: float = 240.0) -> list[tuple[int, str]]:
        """Exit status and standard error of each."""
        return [finished(process, seconds) for process in self.processes]

    def trains(self, path: Path, steps: int) -> None:
        """Until so many steps are in the metrics."""
        deadline = time.monotonic() + 240
        while not (path / "metrics.jsonl").exists() or last_step(path) < steps:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in self.processes), self.wait(1)
            time.sleep(0.2)


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """Whatever a failed test leaves, its processes end with it."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def launch(words: list[str], devices: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lmjax", "train", *words],
        env={**os.environ, "XLA_FLAGS": simulated.flags(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def finished(process: subprocess.Popen[str], seconds: float = 240.0) -> tuple[int, str]:
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    told = [line for line in errors.splitlines() if line.startswith("lmjax: ")]
    return process.returncode, "\n".join(told) or errors[-2000:]


def last_step(path: Path) -> int:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def notes() -> list[str]:
    """What meetings have noted beside each other; one that is over has left nothing."""
    return sorted(path.name for path in Path(tempfile.gettempdir()).glob("lmjax-meeting-*"))


def files_of(path: Path) -> tuple[str, str, str]:
    digest = json.loads((path / "result.json").read_text())["state_digest"]
    return digest, (path / "trace.jsonl").read_text(), (path / "metrics.jsonl").read_text()


def run_alone(path: Path, steps: int) -> Path:
    """The run of one process with four devices, to which nothing happens."""
    status, told = finished(launch([*SHARDS, "--steps", str(steps), "--workdir", str(path)], 4))
    assert status == 0, told
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_alone(tmp_path_factory.mktemp("alone") / "run", 60)


def test_two_processes_have_the_bits_of_one(alone: Path, tmp_path: Path) -> None:
    """State, metrics, and the digest of every batch, of which each process has made one half."""
    path, before = tmp_path / "run", notes()
    ends = Pair([*SHARDS, "--steps", "60", "--workdir", str(path)]).wait()
    assert [status for status, _ in ends] == [0, 0], ends
    assert files_of(path) == files_of(alone)
    other = tmp_path / "other"
    finished(launch([*SHARDS, "--steps", "60", "--seed", "1", "--workdir", str(other)], 4))
    assert files_of(other)[0] != files_of(alone)[0]
    assert set(notes()) <= set(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_alone(tmp_path_factory.mktemp("unbroken") / "run", 300)


@pytest.mark.parametrize(
    ("number", "which", "then"),
    [(signal.SIGKILL, 1, 2), (signal.SIGKILL, 0, 1), (signal.SIGSTOP, 1, 1)],
)
def test_a_peer_that_is_gone_is_named_and_the_run_resumes(
    number: int, which: int, then: int, unbroken: Path, tmp_path: Path
) -> None:
    """And ends on `then` processes as if nothing had been."""
    path, words = tmp_path / "run", [*SHARDS, "--steps", "300"]
    pair = Pair([*words, "--workdir", str(path)])
    pair.trains(path, 45)
    gone, other = pair.processes[which], pair.processes[1 - which]
    gone.send_signal(number)
    begun = time.monotonic()
    status, told = finished(other)
    assert time.monotonic() - begun < WITHIN
    assert status == PEER_GONE, told
    assert f"process {which} of 2" in told
    assert f"process id {gone.pid}" in told
    gone.kill()
    gone.communicate()
    again = [*words, "--workdir", str(path)]
    ends = Pair(again).wait() if then == 2 else [finished(launch(again, 4))]
    assert all(status == 0 for status, _ in ends), ends
    assert files_of(path) == files_of(unbroken)


class Store:
    """The key-value store, as process 1 of 2 finds it."""

    def __init__(self, left: str = ""):
        self.left = [("lmjax/left/0", left)] if left else []

    def key_value_set(self, *_: object) -> None:
        pass

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        return self.left if folder == "lmjax/left/" else [("lmjax/alive/0", "1")]


class Exited(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def exiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would end this process at once raises Exited with its status."""

    def leave(status: int) -> None:
        raise Exited(status)

    monkeypatch.setattr(os, "_exit", leave)


@pytest.fixture
def watching(exiting: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """What process 1 of 2 exits with, by one of the threads that watch process 0."""

    def watch(thread: str, left: str = "", heard: float = 0.0, answered: float = 0.0) -> int:
        peers, now = hosts.Hosts(index=1, store=Store(left)), time.monotonic()
        peers.count, peers._names = 2, ["here", "there"]
        peers._heard, peers._answered = {0: ("1", now - heard)}, now - answered
        with pytest.raises(Exited) as exited:
            getattr(peers, thread)()
        return exited.value.args[0]

    monkeypatch.setattr(hosts, "BEAT", 0.01)
    return watch


def test_exit_statuses_tell_a_peer_that_is_gone_from_one_that_failed(
    watching: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Since the first may end otherwise another time, and the second will not."""
    assert watching("_judge", heard=60.0) == PEER_GONE
    assert watching("_judge", answered=60.0) == PEER_GONE
    assert "process 0 of 2 (here) has not been heard of for 15 s" in capsys.readouterr().err
    assert watching("_beat", left="the loss is not finite") == 1
    assert "process 0 of 2 (here) has ended: the loss is not finite" in capsys.readouterr().err


class AtOnce:
    """A timer whose time is over when it starts."""

    def __init__(self, _: float, function: Callable[..., None], args: list[object]):
        self.start = lambda: function(*args)


def test_processes_that_do_not_all_come_end_with_that_of_a_peer_that_is_gone(
    exiting: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(hosts.threading, "Timer", AtOnce)
    with pytest.raises(Exited) as exited:
        hosts._meet("localhost:80", 2, 1, None)
    assert exited.value.args[0] == PEER_GONE
    assert "not all of 2 processes came to localhost:80" in capsys.readouterr().err


def test_a_signal_that_one_hears_stops_both_at_the_same_step(tmp_path: Path) -> None:
    path = tmp_path / "run"
    pair = Pair([*SHARDS, "--steps", "100000", "--workdir", str(path)])
    pair.trains(path, 25)
    pair.processes[1].send_signal(signal.SIGTERM)
    (first, told), (second, also) = pair.wait(WITHIN)
    assert (first, second) == (143, 143)
    assert told == also
    steps = [int(step.name) for step in (path / "checkpoints").iterdir() if step.name.isdecimal()]
    assert f"saved at step {max(steps)};" in told


# breast_cancer, with a NaN in one row of the batch of step 7.
SPOILT = """
import dataclasses
import numpy as np
from experiments import breast_cancer
from lmjax.data import Examples
from lmjax.data.examples import LabelledExamples
from lmjax.data.tables import in_memory

class Rows(LabelledExamples):
    def rows(self, seed, start, count):
        found, place = super().rows(seed, start, count), 6 * 64 + 40 - start
        if 0 <= place < count:
            found["inputs"][place] = np.nan
        return found

@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoilt(Examples):
    label = "spoilt"

    def load(self):
        return Rows(self.source, in_memory(self.read(), self.memory_gb), self.standardize)

def config():
    base = breast_cancer.config()
    kept = {f.name: getattr(base.data, f.name) for f in dataclasses.fields(base.data)}
    return dataclasses.replace(base, name="spoilt", data=Spoilt(**kept))
"""


@pytest.mark.parametrize("shared", ["--parallel.virtual-shards", "--parallel.fsdp"])
def test_both_go_back_and_on_without_a_step_that_is_not_finite(shared: str, tmp_path: Path) -> None:
    """By the row of one process alone. With virtual shards it has the bits of one process; where
    each process has a part of the state, those of a run that goes back to another checkpoint."""
    (tmp_path / "spoilt.py").write_text(SPOILT)
    words = [str(tmp_path / "spoilt.py"), *WORDS[1:], shared, "4", "--steps", "30"]
    words += ["--on-nonfinite", "rollback", "--workdir"]
    path, other = tmp_path / "run", tmp_path / "other"
    ends = Pair([*words, str(path)]).wait()
    assert [status for status, _ in ends] == [0, 0], ends
    if shared == "--parallel.fsdp":
        ends = Pair([*words, str(other), "--save-every", "5"]).wait()
    else:
        ends = [finished(launch([*words, str(other)], 4))]
        assert files_of(path) == files_of(other)
    assert {status for status, _ in ends} == {0}, ends
    assert files_of(path)[0] == files_of(other)[0]
    results = [json.loads((run / "result.json").read_text()) for run in (path, other)]
    assert [result["skipped"] for result in results] == [[7], [7]]


def test_processes_that_differ_are_refused_in_both(tmp_path: Path) -> None:
    words = [*WORDS, "--steps", "20", "--workdir", str(tmp_path / "run")]
    ends = Pair(words, ["--seed", "0"], ["--seed", "1"]).wait()
    assert [status for status, _ in ends] == [2, 2]
    assert all("the processes differ in configuration" in told for _, told in ends)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (hosts.Asked("here", 2, 0), "--coordinator here: must be HOST:PORT"),
        (hosts.Asked("here:0", 2, 0), "--coordinator here:0: must be HOST:PORT"),
        (hosts.Asked("here:80"), "needs --processes N and --process I"),
        (hosts.Asked("here:80", 2, 2), "--process 2: must be from 0 to 1"),
        (hosts.Asked(None, 0, None), "--processes 0: must be at least 1"),
        (hosts.Asked(None, None, 1), "--process needs --coordinator"),
    ],
)
def test_bad_flags_are_one_line(asked: hosts.Asked, told: str) -> None:
    with pytest.raises(InputError, match=told):
        hosts.check(asked)


@pytest.mark.parametrize(
    ("told", "all_of_them"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,2"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "2", "JAX_LOCAL_DEVICE_IDS": "0,1"}, True),
        ({}, False),
    ],
)
def test_one_process_on_a_host_has_all_of_its_gpus(told: dict[str, str], all_of_them: bool) -> None:
    assert hosts.sees_its_own(told) is all_of_them


def test_what_slurm_starts_finds_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what srun sets for one task on each of two nodes, as far as to jax.distributed."""
    told = {"JOB_ID": 7, "STEP_NODELIST": "node[1-2]", "NTASKS": 2, "PROCID": 1, "LOCALID": 0}
    told |= {"STEP_NUM_TASKS": 2, "STEP_TASKS_PER_NODE": "1(x2)"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    asked: list[tuple[object, ...]] = []

    def meet(*words: object) -> None:
        asked.append(words)
        raise RuntimeError("nobody is there")

    monkeypatch.setattr(hosts, "_meet", meet)
    with pytest.raises(InputError, match="2 processes could not find each other: nobody is there"):
        hosts.join(hosts.Asked())
    assert asked == [("node1:61447", 2, 1, None)]
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2")
    with pytest.raises(InputError):
        hosts.join(hosts.Asked())
    assert asked[1] == ("node1:61447", 2, 1, [0])


def test_a_port_of_a_living_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what has outlived its run is ended."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    first = Meeting(port, 2)
    note = next(tmp_path.iterdir())
    while not Path(f"/proc/{first._process.pid}/cmdline").read_bytes():
        time.sleep(0.01)  # it is only just there
    with pytest.raises(InputError, match=f"port {port} .* process id {os.getpid()}"):
        Meeting(port, 2)
    meeting, _ = note.read_text().split()
    note.write_text(f"{meeting} 1")  # as of a process 0 that is gone
    second = Meeting(port, 2)
    assert first._process.wait(10) == -signal.SIGKILL
    first.end()
    second._process.kill()
    second._process.wait()
    second.end()


def test_launchers_are_detected_by_what_they_set() -> None:
    assert hosts.detected({"SLURM_STEP_NUM_TASKS": "4"}) == 4
    assert hosts.detected({"OMPI_COMM_WORLD_SIZE": "2"}) == 2
    assert hosts.detected({"TPU_WORKER_HOSTNAMES": "a,b,c"}) == 3
    assert hosts.detected({"LMJAX_PROCESSES": "4"}) == 4
    assert hosts.detected({"SLURM_JOB_ID": "7"}) is None
    words = "WARNING: could not determine TPU worker hostnames, please set it"
    assert hosts.detected({"TPU_WORKER_HOSTNAMES": words}) is None
