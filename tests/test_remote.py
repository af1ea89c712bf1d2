"""A run whose directory is in an object store, of which a folder is the stand-in.

Objects cannot be appended to, locked or renamed there; Orbax is asked to take the folder for the
store's own driver, since none is at hand.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from etils.epath import backend, gpath
from orbax.checkpoint._src.path import atomicity, gcs_utils

from lmjax import lock, reproduce, runfiles, train
from lmjax.archive import open_run
from lmjax.checkpoint import Checkpoints
from lmjax.console import Console
from lmjax.errors import InputError
from lmjax.seal import SEAL

SCHEME = "gs://"


class Store(backend._OsPathBackend):
    """Everything under gs:// in a folder, without what an object store has not."""

    def __init__(self, folder: Path):
        self.folder, self.opened = folder, []

    def local(self, path: Any) -> str:
        text = os.fspath(path)
        return str(self.folder / text.removeprefix(SCHEME)) if SCHEME in text else text

    def open(self, path: Any, mode: str) -> Any:
        self.opened.append((str(path), mode))
        if "a" in mode or "+" in mode:
            raise OSError(95, "an object cannot be appended to")
        if "w" in mode:
            Path(self.local(path)).parent.mkdir(parents=True, exist_ok=True)
        return super().open(self.local(path), mode)

    def rename(self, path: Any, dst: Any) -> None:
        raise OSError(95, "an object cannot be renamed")

    replace = rename


for name in ("exists", "isdir", "listdir", "glob", "makedirs", "mkdir", "rmtree", "remove", "stat"):

    def routed(self: Store, path: Any, *given: Any, name: str = name, **options: Any) -> Any:
        return getattr(backend._OsPathBackend, name)(self, self.local(path), *given, **options)

    setattr(Store, name, routed)


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.chdir(tmp_path)
    made = Store(tmp_path / "store")
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", made)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    monkeypatch.setattr(
        gcs_utils, "rmtree", lambda path, **_: shutil.rmtree(made.local(path), ignore_errors=True)
    )
    monkeypatch.setattr(
        gcs_utils,
        "get_kvstore_for_gcs",
        lambda path: {"driver": "file", "path": made.local(path)},
    )
    return made


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_run_in_an_object_store_is_resumed_to_the_same_bits(store, tiny_mlp, monkeypatch, capsys):
    whole, real = train.run(tiny_mlp, "whole", quiet=True), train.is_due

    def dies(now: int, every: int, last: int) -> bool:
        if now == 9:
            raise Killed
        return real(now, every, last)

    monkeypatch.setattr(train, "is_due", dies)
    with pytest.raises(Killed):
        train.run(tiny_mlp, "gs://bucket/run")
    monkeypatch.setattr(train, "is_due", real)
    result = train.run(tiny_mlp, "gs://bucket/run")
    told = capsys.readouterr().out
    assert "gs://bucket/run is in an object store, which has no locks" in told
    assert "checkpoints have no SHA256SUMS" in told
    assert "resumed from step 5 of 12" in told
    assert result["state_digest"] == whole["state_digest"]
    inside = store.folder / "bucket" / "run"
    for name in ("metrics.jsonl", "trace.jsonl"):
        assert (inside / name).read_bytes() == Path("whole", name).read_bytes()
    assert not list(inside.rglob(SEAL))
    assert not (inside / "lock").exists()
    assert not Path("gs:").exists()
    report = reproduce.reproduce(open_run("gs://bucket/run"), console=Console(quiet=True))
    assert report.reproduced


def test_a_step_without_its_last_object_does_not_count(store, tiny_mlp):
    train.run(tiny_mlp, "gs://bucket/run", quiet=True)
    folder = epath.Path("gs://bucket/run/checkpoints")
    assert runfiles.COMMITTED == atomicity.COMMIT_SUCCESS_FILE
    assert Checkpoints(folder).steps() == [10, 12]
    (folder / "12" / runfiles.COMMITTED).unlink()
    assert Checkpoints(folder).steps() == [10]
    assert runfiles.newest_checkpoint(epath.Path("gs://bucket/run")) == 10


def test_a_leaf_that_has_changed_in_the_store_is_found(store, tiny_mlp):
    train.run(tiny_mlp, "gs://bucket/run", quiet=True)
    program = train.compile_program(tiny_mlp, train.prepare(tiny_mlp)[1])
    checkpoints = Checkpoints(epath.Path("gs://bucket/run/checkpoints"))
    checkpoints.restore(12, program.abstract_state)
    record = store.folder / "bucket/run/checkpoints/12/record/metadata"
    held = json.loads(record.read_text())
    path = next(iter(held["leaves"]))
    held["leaves"][path] = "0" * 16
    record.write_text(json.dumps(held))
    with pytest.raises(InputError, match=f"1 of 10 leaves are not what was saved: {path}"):
        checkpoints.restore(12, program.abstract_state)


def test_on_a_disk_nothing_of_it_is_said(store, monkeypatch):
    """Negative control: a folder has its lock."""
    said: list[str] = []
    with lock.holding(epath.Path("run"), said.append):
        assert Path("run/lock").exists()
    assert said == []
    with lock.holding(epath.Path("gs://bucket/run"), said.append):
        assert len(said) == 2
