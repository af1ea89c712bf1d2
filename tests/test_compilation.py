"""Compiled programs are kept in a private place, and only when the command line asks for it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lmjax import cli, compilation, train
from lmjax.errors import InputError

RUN = """
import dataclasses, json, sys
import jax
from lmjax import compilation, train
from lmjax.data import Examples
from lmjax.experiment import Experiment
from lmjax.models import MLP
from lmjax.optim import SGD, Constant
from lmjax.tasks import Classification

before = jax.config.jax_compilation_cache_dir
compilation.use_cache()
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
digests = []
for rate in (0.1, 0.2):
    experiment = Experiment(
        name="tiny", task=Classification(model=MLP(hidden=(16,))), data=Examples(),
        optimizer=SGD(learning_rate=rate), schedule=Constant(), steps=3, batch_size=32,
    )
    result = train.run(experiment, f"{sys.argv[1]}/{rate}", quiet=True)
    digests.append(result["state_digest"])
hits = found.count("/jax/compilation_cache/cache_hits")
misses = found.count("/jax/compilation_cache/cache_misses")
print(json.dumps([before, hits, misses, digests]))
"""


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """No directory is set, and the user's cache is an empty one; what is set is put back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    old = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    for name, value in old.items():
        jax.config.update(name, value)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.smoke
def test_the_directory_is_private_whatever_the_umask(unset):
    old = os.umask(0)
    try:
        compilation.use_cache()
    finally:
        os.umask(old)
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder.is_relative_to(unset / "lmjax" / "xla")
    assert [mode(path) for path in (folder, folder.parent, folder.parent.parent)] == [0o700] * 3
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_a_directory_that_was_open_is_closed(unset):
    folder = compilation.cache_folder()
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    compilation.use_cache()
    assert mode(folder) == 0o700


def test_the_directory_of_another_user_is_refused(unset, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InputError, match="belongs to another user"):
        compilation.use_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_directory_that_is_set_is_left_alone(unset, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    compilation.use_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    assert not unset.exists()


def test_other_cores_have_another_directory(monkeypatch):
    here = compilation.machine()
    assert compilation.machine() == here
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(99)))
    assert compilation.machine() != here


@pytest.fixture
def started(monkeypatch):
    """The cache directory at each start of a run, none of which trains."""
    found = []
    monkeypatch.setattr(
        train, "run", lambda *_, **__: found.append(jax.config.jax_compilation_cache_dir)
    )
    return found


def test_training_keeps_what_it_compiles(unset, started):
    assert cli.main(["train", "digits_fcn"]) == 0
    assert started == [str(compilation.cache_folder())]


def test_where_nothing_can_be_kept_training_goes_on(unset, started, capsys):
    unset.write_text("a file where a directory should be")
    assert cli.main(["train", "digits_fcn"]) == 0
    assert started == [None]
    assert "compiled programs are not kept" in capsys.readouterr().err


def test_a_program_that_was_kept_gives_the_same_bits(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def run(name):
        words = [sys.executable, "-c", RUN, str(tmp_path / name)]
        told = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return json.loads(told.stdout.splitlines()[-1])

    cold, warm = run("cold"), run("warm")
    assert cold[0] is None  # importing lmjax sets nothing
    assert cold[1] < cold[2]
    assert warm[2] == 0 < warm[1]
    assert cold[3] == warm[3]
    assert cold[3][0] != cold[3][1]  # another rate gives other bits
