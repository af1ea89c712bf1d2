"""One writer for a run directory, whoever dies while it writes."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from lmjax import train
from lmjax.errors import InputError
from lmjax.lock import check_takeable, holding

ROOT = Path(__file__).parents[1]
RUN = epath.Path("run")
HOLD = """
import time
from etils import epath
from lmjax.lock import holding

with holding(epath.Path("run"), print):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_second_process_is_refused_until_the_first_dies(tiny_mlp, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        before = Path("run/lock").read_text()
        assert f"process {first.pid} on " in before
        told = rf"run is in use by process {first.pid} on .*choose another --workdir"
        with monkeypatch.context() as patched:
            patched.setattr(train, "compile_program", None)  # refused before anything is compiled
            with pytest.raises(InputError, match=told):
                train.run(tiny_mlp, "run", quiet=True)
        with pytest.raises(InputError, match=told), holding(RUN, print):
            raise AssertionError
        assert [path.name for path in Path("run").iterdir()] == ["lock"]
        assert Path("run/lock").read_text() == before
        first.send_signal(signal.SIGKILL)
    said: list[str] = []
    check_takeable(RUN)
    with holding(RUN, said.append):
        assert f"run was left by process {first.pid} on " in said[0]
        assert Path("run/lock").read_text() != before
    assert Path("run/lock").read_text() == ""
    with holding(RUN, said.append):
        assert len(said) == 1  # given back in order, so nothing to tell


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_compiled(
    tiny_mlp, monkeypatch
):
    Path("file").write_text("x")
    monkeypatch.setattr(train, "compile_program", None)
    with pytest.raises(InputError, match=r"not writable \(file: not a directory\)"):
        train.run(tiny_mlp, "file/deep/run", quiet=True)
    monkeypatch.setattr("lmjax.lock.os.access", lambda *_: False)
    with pytest.raises(InputError, match=r"not writable \(\.: no permission\)"):
        train.run(tiny_mlp, "run", quiet=True)


def test_a_file_system_without_locks_is_told(monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("lmjax.lock.fcntl.flock", none)
    said: list[str] = []
    with holding(RUN, said.append):
        assert said == ["run is not locked: its file system has no locks"]


def test_a_directory_that_was_claimed_meanwhile_is_looked_at_again(tiny_mlp, monkeypatch):
    """Two new runs of one directory: the one that comes second finds the other's configuration."""
    real = train.compile_program

    def slow(*given):
        monkeypatch.setattr(train, "compile_program", real)
        train.run(dataclasses.replace(tiny_mlp, seed=1, steps=1), "run", quiet=True)
        return real(*given)

    monkeypatch.setattr(train, "compile_program", slow)
    with pytest.raises(InputError, match="seed: 1 -> 0"):
        train.run(tiny_mlp, "run", quiet=True)
