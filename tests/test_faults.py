"""Faults that one machine can show: a run ends with the bits of one that never met them.

SIGKILL while saving, damaged checkpoints, taken locks, data that hang and what is not finite have
files of their own; this one has the rest.
"""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lmjax import lock, seal, train, writers
from lmjax.data import Tokens
from lmjax.errors import InputError, RunError
from lmjax.parts import replace
from lmjax.signals import Stopped

ROOT = Path(__file__).parents[1]
LINES = ("metrics.jsonl", "trace.jsonl")
# With evaluations, which a run that is stopped must not lose or make twice.
OFTEN = {"save_every": 2, "evaluate_every": 4, "log_every": 3}


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def often(tiny_mlp):
    return dataclasses.replace(tiny_mlp, **OFTEN)


@pytest.fixture(scope="module")
def unbroken(often, tmp_path_factory) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The result and the lines of the run that nothing happened to."""
    path = tmp_path_factory.mktemp("unbroken") / "run"
    result = train.run(often, str(path), quiet=True)
    other = train.run(replace(often, "seed", 1), str(path.with_name("other")), quiet=True)
    assert other["state_digest"] != result["state_digest"]  # so that equality says something
    return result, {name: (path / name).read_bytes() for name in LINES}


def assert_same(result: dict[str, Any], unbroken, names=LINES) -> None:
    for name in ("state_digest", "validation"):
        assert result[name] == unbroken[0][name]
    for name in names:
        assert Path("run", name).read_bytes() == unbroken[1][name]


def at_step(step: int, call, monkeypatch) -> None:
    """Have the loop call it once, right after it has dispatched a step."""
    assert threading.current_thread() is threading.main_thread()
    real, called = train.is_due, []

    def is_due(now: int, every: int, last: int) -> bool:
        if now == step and not called:
            called.append(now)
            call()
        return real(now, every, last)

    monkeypatch.setattr(train, "is_due", is_due)


@pytest.mark.bits
@pytest.mark.parametrize(
    ("step", "number"),
    [(1, signal.SIGTERM), (4, signal.SIGINT), (7, signal.SIGTERM), (12, signal.SIGINT)],
)
def test_a_run_stopped_at_any_step_goes_on_to_the_bits_of_the_unbroken_one(
    often, unbroken, monkeypatch, step, number
):
    with monkeypatch.context() as patched:
        at_step(step, lambda: signal.raise_signal(number), patched)
        with pytest.raises(Stopped, match=f"stopped by {number.name} and saved at step {step};"):
            train.run(often, "run", quiet=True)
    result = train.run(often, "run", quiet=True)
    assert result["resumed_from"] == step
    # The trace has the leaves of the step that was saved out of turn, too.
    assert_same(result, unbroken, ["metrics.jsonl"])


@pytest.mark.bits
def test_a_second_signal_during_the_save_loses_nothing(often, unbroken, monkeypatch):
    real = seal.seal

    def seal_and_interrupt(folder: Path) -> None:
        if folder.name.startswith("7."):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        real(folder)

    with monkeypatch.context() as patched:
        patched.setattr(seal, "seal", seal_and_interrupt)
        at_step(7, lambda: signal.raise_signal(signal.SIGTERM), patched)
        with pytest.raises(Stopped):
            train.run(often, "run", quiet=True)
    result = train.run(often, "run", quiet=True)
    assert result["resumed_from"] == 7
    assert_same(result, unbroken, ["metrics.jsonl"])


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at(step: int, experiment, monkeypatch) -> None:
    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patched:
        at_step(step, kill, patched)
        with pytest.raises(Killed):
            train.run(experiment, "run", quiet=True)


def steps_saved() -> list[int]:
    return sorted(int(path.name) for path in Path("run/checkpoints").iterdir())


@pytest.mark.bits
def test_a_kill_during_the_deletion_of_an_old_step_is_in_nobody_s_way(often, unbroken, monkeypatch):
    kill_at(9, often, monkeypatch)
    assert steps_saved() == [6, 8]
    shutil.rmtree("run/checkpoints/6/state")
    result = train.run(often, "run", quiet=True)
    assert result["resumed_from"] == 8
    assert_same(result, unbroken)
    assert steps_saved() == [10, 12]


@pytest.mark.bits
def test_steps_are_ordered_by_number_whatever_the_clock_says(often, unbroken, monkeypatch):
    kill_at(9, often, monkeypatch)
    for age, path in enumerate([*Path("run/checkpoints").rglob("*"), Path("run/checkpoints/8")]):
        os.utime(path, (1e9 - age, 1e9 - age))  # the newest step is the oldest file
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 1e8)
    monkeypatch.setattr(time, "time_ns", lambda: int((real() - 1e8) * 1e9))
    result = train.run(often, "run", quiet=True)
    assert result["resumed_from"] == 8
    assert_same(result, unbroken)
    assert steps_saved() == [10, 12]


@pytest.mark.bits
@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_refuses_to_sync_a_checkpoint_is_told_and_the_run_goes_on(
    often, unbroken, monkeypatch, capsys, fault
):
    real, synced = seal.sync, []

    def sync(path: Path) -> None:
        if "/8." in str(path) and not synced:
            synced.append(path)
            raise OSError(fault, os.strerror(fault))
        real(path)

    monkeypatch.setattr(seal, "sync", sync)
    result = train.run(often, "run")
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "could not be saved" in x]
    assert f"step 8 could not be saved (OSError: [Errno {fault}] {os.strerror(fault)})" in line
    assert_same(result, unbroken)


@pytest.mark.bits
@pytest.mark.parametrize("where", [(writers.MetricsLog, "flush"), (train.manifest, "begin")])
def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on(
    often, unbroken, monkeypatch, where
):
    """While it trains, and as it begins."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(*where, full)
        with pytest.raises(RunError, match="the run stops: run: No space left on device; the same"):
            train.run(often, "run", quiet=True)
    assert_same(train.run(often, "run", quiet=True), unbroken)


def test_a_full_disk_is_no_lock_s_business(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(lock.os, "write", full)
        with lock.holding(train.epath.Path("run"), print):
            pass
    assert Path("run/lock").read_text() == ""


@pytest.mark.bits
@pytest.mark.parametrize("torn", [b'{"step": 9, "los', b"\x00" * 512])
def test_a_torn_last_line_is_written_again(often, unbroken, monkeypatch, torn):
    kill_at(9, often, monkeypatch)
    for name in LINES:
        with Path("run", name).open("ab") as file:
            file.write(torn)
    assert_same(train.run(often, "run", quiet=True), unbroken)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_data_that_were_damaged_meanwhile_are_refused(tiny_gpt, monkeypatch, kind):
    file = Path("data.bin")
    wide = b"\0" if kind == "tokens" else b""  # ids of 16 bits, little-endian
    file.write_bytes(b"".join(bytes([x]) + wide for x in b"one text, " * 200))
    data = Tokens(source=f"{kind}:data.bin", sequence_length=16, validation_fraction=0.2)
    if kind == "tokens":
        data = dataclasses.replace(data, end_of_text=0, vocab_size=256)
    changes = {"data": data, "save_every": 2, "evaluate_every": 0, "steps": 6}
    experiment = dataclasses.replace(tiny_gpt, **changes)
    kill_at(5, experiment, monkeypatch)
    shutil.copyfile(file, "kept")
    before = {x: x.read_bytes() for x in Path("run").rglob("*") if x.is_file()}
    half = len(file.read_bytes()) // 2
    for damage in (flip, Path.unlink, lambda x: os.truncate(x, half), lambda x: os.truncate(x, 0)):
        damage(file)
        with pytest.raises(InputError) as error:
            train.run(experiment, "run", quiet=True)
        assert "data" in str(error.value)
        assert {x: x.read_bytes() for x in Path("run").rglob("*") if x.is_file()} == before
        shutil.copyfile("kept", file)
    assert train.run(experiment, "run", quiet=True)["resumed_from"] == 4


CACHED = """
import json, sys
import jax
from experiments.faults.subject import experiment
from lmjax import train

found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
result = train.run(experiment(), sys.argv[2], quiet=True)
print(json.dumps([result["state_digest"], found.count("/jax/compilation_cache/cache_hits")]))
"""


@pytest.mark.bits
def test_programs_that_were_damaged_where_they_are_kept_are_compiled_anew():
    def run(name: str) -> tuple[str, int]:
        words = [sys.executable, "-c", CACHED, "programs", name]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return tuple(json.loads(done.stdout.splitlines()[-1]))

    cold, _ = run("cold")
    files = sorted(path for path in Path("programs").iterdir() if path.name.endswith("-cache"))
    damages = [flip, lambda file: os.truncate(file, 100), lambda file: os.truncate(file, 0)]
    assert len(files) > len(damages)
    for number, file in enumerate(files):
        damages[number % len(damages)](file)
    damaged, hits = run("damaged")
    assert (damaged, hits) == (cold, 0)


HOLD = """
import time
from etils import epath
from lmjax.lock import holding

with holding(epath.Path("run"), print):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_process_that_is_stuck_keeps_its_lock(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        first.send_signal(signal.SIGSTOP)
        with pytest.raises(InputError, match=f"in use by process {first.pid} on "):
            lock.check_takeable(train.epath.Path("run"))
        first.kill()
    lock.check_takeable(train.epath.Path("run"))
