"""Damaged checkpoints: told, set aside, and never read in silence."""

import dataclasses
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lmjax import cli, seal, train
from lmjax.checkpoint import Checkpoints
from lmjax.errors import InputError
from lmjax.load import load
from lmjax.seal import SEAL, Damaged
from lmjax.state import TrainState

# What Orbax still had under way when it failed to read ends as callbacks of a loop that is closed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]


def files_of(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def largest(step: Path) -> Path:
    return max(files_of(step), key=lambda path: path.stat().st_size)


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flipped(file: Path) -> None:
    flip(file, 4 * file.stat().st_size)


DAMAGES = [truncated, flipped, Path.unlink, lambda file: file.write_bytes(b"")]


def test_the_sums_are_those_of_sha256sum(run):
    step = run / "checkpoints" / "12"
    listed = (step / SEAL).read_text().splitlines()
    assert len(listed) == len(files_of(step)) - 1 > 3
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", SEAL], cwd=step, capture_output=True, check=False
    )
    assert checked.returncode == 0
    flip(largest(step), 0)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", SEAL], cwd=step, capture_output=True, check=False
    )
    assert checked.returncode == 1


@pytest.mark.parametrize("damage", DAMAGES, ids=["truncated", "flipped", "deleted", "emptied"])
def test_each_file_of_a_step_is_missed_when_it_is_damaged(run, damage):
    step = run / "checkpoints" / "12"
    seal.verify(step)
    for file in files_of(step):
        if file.stat().st_size:
            shutil.copytree(step, "copy")
            damage("copy" / file.relative_to(step))
            with pytest.raises(Damaged, match=file.name):
                seal.verify(Path("copy"))
            shutil.rmtree("copy")


def test_no_flipped_bit_of_a_step_passes(run):
    step = run / "checkpoints" / "12"
    random, files = np.random.default_rng(0), files_of(step)
    sizes = np.array([file.stat().st_size for file in files])
    for _ in range(100):
        file = files[random.choice(len(files), p=sizes / sizes.sum())]
        bit = int(random.integers(8 * file.stat().st_size))
        flip(file, bit)
        with pytest.raises(Damaged):
            seal.verify(step)
        flip(file, bit)
    for bit in range(8 * 80):  # and the first line of the seal, every one
        flip(step / SEAL, bit)
        with pytest.raises(Damaged):
            seal.verify(step)
        flip(step / SEAL, bit)
    seal.verify(step)


def test_a_damaged_newest_step_is_set_aside_and_the_run_ends_as_the_unbroken_one(
    run, tiny_mlp, capsys
):
    unbroken = json.loads((run / "result.json").read_text())
    kept = {name: (run / name).read_bytes() for name in ("metrics.jsonl", "trace.jsonl")}
    (run / "result.json").unlink()
    file = largest(run / "checkpoints" / "12")
    flipped(file)
    result = train.run(tiny_mlp, "run")
    told = capsys.readouterr().out
    (line,) = [line for line in told.splitlines() if "damaged" in line]
    assert f"{file}: damaged, its SHA-256 is" in line
    assert line.endswith("; moved to run/damaged/12-1, and step 10 is taken")
    assert "resumed from step 10 of 12" in told
    assert result["state_digest"] == unbroken["state_digest"]
    assert {name: (run / name).read_bytes() for name in kept} == kept
    assert [path.name for path in (run / "damaged").iterdir()] == ["12-1"]
    seal.verify(run / "checkpoints" / "12")


def test_where_no_step_is_whole_the_run_stops_with_one_line(run, tiny_mlp, capsys):
    (run / "result.json").unlink()
    for step in (10, 12):
        flipped(largest(run / "checkpoints" / str(step)))
    before = {path: path.read_bytes() for path in files_of(run)}

    def launch() -> None:
        train.run(tiny_mlp, "run")

    assert cli._guarded(launch) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lmjax: no checkpoint is whole, so the run stops: ")
    assert err.count("\n") == 1
    assert "checkpoints/10" in err
    assert "checkpoints/12" in err
    assert {path: path.read_bytes() for path in files_of(run)} == before


def test_bits_that_changed_before_the_files_were_hashed_are_caught_by_the_leaves(run, tiny_mlp):
    """A seal made anew over a state with one leaf negated."""
    program = train.compile_program(tiny_mlp, train.prepare(tiny_mlp)[1])
    where = epath.Path("run/checkpoints")
    checkpoints = Checkpoints(where)
    state, record = checkpoints.restore(12, program.abstract_state)
    checkpoints.close()
    params = {
        **state.params,
        "head": {**state.params["head"], "bias": -state.params["head"]["bias"]},
    }
    other = dataclasses.replace(state, params=params)
    kept = {name: record[name] for name in ("leaves", "config", "data")}
    for tree, told in (
        (other, r"1 of \d+ leaves are not what was saved: params/head/bias"),
        (state, ""),
    ):
        shutil.rmtree("run/checkpoints/12")
        writer = Checkpoints(where, 5)
        writer.save(12, tree, kept)  # whose leaves take the place of those of the tree
        writer.close()
        reader = Checkpoints(where)
        if told:
            with pytest.raises(Damaged, match=told):
                reader.restore(12, program.abstract_state)
            with pytest.raises(Damaged, match="params/head/bias"):
                reader.restore_weights(12, program.abstract_state)
        else:
            reader.restore(12, program.abstract_state)
            reader.restore_weights(12, program.abstract_state)
        reader.close()


def test_another_schema_is_named(run):
    step = run / "checkpoints" / "12"
    held = json.loads((step / "record" / "metadata").read_text())
    assert held["schema"] == 1
    (step / "record" / "metadata").write_text(json.dumps({**held, "schema": 2}))
    (step / SEAL).unlink()
    seal.seal(step)
    with pytest.raises(InputError, match=r"another version of lmjax \(schema 2, not 1\)"):
        load("run")


class Full:
    """A disk that has no room for the saves of some steps."""

    def __init__(self, monkeypatch, *steps: int):
        real = seal.seal

        def full(folder: Path) -> None:
            if int(folder.name.partition(".")[0]) in steps:
                raise OSError(28, "No space left on device")
            real(folder)

        monkeypatch.setattr(seal, "seal", full)


def test_a_save_that_fails_is_told_and_no_older_one_is_lost_for_it(
    tiny_mlp, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Full(monkeypatch, 5)
    experiment = dataclasses.replace(tiny_mlp, save_every=2, keep=1, log_every=1)
    whole = train.run(experiment, "whole")
    assert "could not" not in capsys.readouterr().out
    Full(monkeypatch, 6)
    told = train.run(experiment, "run")
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "could not" in x]
    assert line == (
        "the checkpoint of step 6 could not be saved (OSError: [Errno 28] No space left on "
        "device); the newest is of step 4"
    )
    assert told["state_digest"] == whole["state_digest"]
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["12"]


def test_a_last_save_that_fails_is_an_error_and_leaves_the_one_before(
    tiny_mlp, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        Full(patched, 12)
        with pytest.raises(train.RunError, match=r"step 12 could not .* the newest is of step 10"):
            train.run(tiny_mlp, "run", quiet=True)
    assert Checkpoints(epath.Path("run/checkpoints")).steps() == [5, 10]
    assert not Path("run/result.json").exists()
    assert train.run(tiny_mlp, "run", quiet=True)["resumed_from"] == 10


def test_a_checkpoint_of_the_present_format_still_loads(tmp_path):
    """A change of the format must say what becomes of what was written by schema 1."""
    with zipfile.ZipFile(
        Path(__file__).parent / "references" / "checkpoint_schema_1.zip"
    ) as stored:
        stored.extractall(tmp_path / "checkpoints")
    shape, where = jax.ShapeDtypeStruct, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = TrainState(
        shape((), np.int32, sharding=where),
        {
            "w": shape((2, 3), np.float32, sharding=where),
            "b": shape((2,), jnp.bfloat16, sharding=where),
        },
        {},
        {"count": shape((), np.int32, sharding=where)},
    )
    checkpoints = Checkpoints(epath.Path(tmp_path / "checkpoints"))
    state, record = checkpoints.restore(checkpoints.choose(None), abstract)
    assert record["schema"] == 1
    assert state.params["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert state.params["b"].tolist() == [1.5, -2]
    assert (int(state.step), int(state.opt_state["count"])) == (3, 3)
