"""`lmjax reproduce`: what it prints, what it refuses in one line, and that it changes nothing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from lmjax import cli, environment, reproduce, runfiles, train
from lmjax.archive import open_run
from lmjax.errors import InputError
from lmjax.replay import Window, plan

ROOT = Path(__file__).parents[1]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_reproduced_is_told_and_nothing_is_written_into_the_run(run, capsys):
    before = content(run), {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert cli.main(["reproduce", "run", "--json", "found.json"]) == 0
    assert before == (content(run), {path: path.stat().st_mtime_ns for path in run.rglob("*")})
    told, error = capsys.readouterr()
    lines = told.splitlines()
    assert lines[0].startswith("run: tiny_mlp, 12 steps in 1 launch, leaves at 7 of them; claims ")
    assert "checkpoints: 10, 12" in lines
    assert "can be shown: R3, every step and leaf to the bit" in lines
    assert "window: steps 1 to 12, from the seed" in lines
    assert lines[-1] == "REPRODUCED R3: 12 of 12 steps, 10 of 10 leaves bitwise at 7 of them"
    assert error == ""
    found = json.loads(Path("found.json").read_text())
    assert (found["verdict"], found["rung"], found["steps_compared"]) == ("reproduced", "R3", 12)


def test_what_is_apart_ends_with_1(run, capsys, monkeypatch):
    monkeypatch.setattr(environment, "visible_cores", lambda: [0])
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(jax.random, "key", lambda seed, impl=None: real(seed + 1, impl=impl))
    assert cli.main(["reproduce", "run", "--steps", "1", "--json", "found.json"]) == 1
    told, _ = capsys.readouterr()
    cores = len(os.sched_getaffinity(0))
    assert f"not as in the run: visible cores {cores}, now 1" in told.splitlines()
    assert "can be shown: R7, unless the bits agree all the same" in told.splitlines()
    assert told.splitlines()[-1].startswith("DIVERGED at step 0: keys differ, ")
    assert told.splitlines()[-1].endswith(
        "-> init: keys of init, dropout, augment, labels, text: "
        "derived otherwise from the same seed"
    )
    assert json.loads(Path("found.json").read_text())["verdict"] == "diverged"


real = jax.random.key


def edit(name: str, change: Callable[[Any], Any], known: bool = False) -> Callable[[Path], None]:
    """Changes a JSON file of the run; `known` = the result says that it was written so."""

    def damage(run: Path) -> None:
        held = json.loads((run / name).read_text())
        change(held)
        (run / name).write_text(json.dumps(held))
        if known:
            accept(run)

    return damage


def accept(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    result["files"] = runfiles.digests(runfiles.epath.Path(run))
    (run / "result.json").write_text(json.dumps(result))


def trace(change: Callable[[list[bytes]], Any], known: bool = False) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        lines = (run / "trace.jsonl").read_bytes().splitlines(keepends=True)
        change(lines)
        (run / "trace.jsonl").write_bytes(b"".join(lines))
        if known:
            accept(run)

    return damage


def other_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "10")
    shutil.copytree(run / "checkpoints" / "12", run / "checkpoints" / "10")


REFUSED: list[tuple[Callable[[Path], Any], list[str], str]] = [
    (shutil.rmtree, [], "run is not a run directory (no config.json)"),
    (lambda run: (run / "config.json").unlink(), [], "is not a run directory"),
    (lambda run: (run / "result.json").unlink(), [], "run is unfinished, at step 12; what trained"),
    (edit("manifest.json", lambda x: x.update(schema=9)), [], "another version of lmjax (schema 9"),
    (
        edit("manifest.json", lambda x: x["launches"][0].pop("code")),
        [],
        "manifest.json: launches.0.code is missing",
    ),
    (edit("manifest.json", lambda x: x.update(keys=3)), [], "manifest.json: keys = 3: malformed"),
    (lambda run: (run / "manifest.json").write_text("{"), [], "manifest.json: cannot be read"),
    (lambda run: (run / "manifest.json").unlink(), [], "made by an older lmjax"),
    (
        edit("manifest.json", lambda x: x["launches"][0].update(from_step=5)),
        [],
        "begun by an older lmjax",
    ),
    (edit("result.json", lambda x: x.pop("files")), [], "made by an older lmjax"),
    (edit("result.json", lambda x: x.update(steps=0)), [], "result.json: damaged (steps)"),
    (
        edit("config.json", lambda x: x["config"].update(seed=1)),
        [],
        "run/config.json has been changed since the run wrote it",
    ),
    (
        edit("config.json", lambda x: x["config"].update(seed=1), known=True),
        [],
        "run/config.json is not what manifest.json says",
    ),
    (edit("config.json", lambda x: x.update(experiment="os")), [], "config.json has been changed"),
    (trace(lambda x: x.reverse()), [], "run/trace.jsonl has been changed since the run wrote it"),
    (lambda run: (run / "trace.jsonl").unlink(), [], "run/trace.jsonl is missing"),
    (trace(lambda x: x.pop(5), known=True), [], "trace.jsonl: damaged, no line of step 5"),
    (trace(lambda x: x.pop(), known=True), [], "trace.jsonl: damaged, no line of step 12"),
    (trace(lambda x: x.insert(3, b"{}\n"), known=True), [], "trace.jsonl: line 4 is damaged"),
    (lambda run: None, ["--from", "3"], "has no step 3; it has [10, 12]"),
    (lambda run: None, ["--from", "12"], "--from = 12: must be below 12"),
    (lambda run: None, ["--windows", "0"], "--windows = 0: must be at least 1"),
    (lambda run: None, ["--steps", "0"], "--steps = 0: must be at least 1"),
    (lambda run: None, ["--from", "10", "--windows", "2"], "--from and --windows exclude"),
    (lambda run: None, ["--steps", "x"], "'x' must be a whole number"),
    (lambda run: None, ["--json", "no/where.json"], "not writable (no folder no)"),
]


@pytest.mark.parametrize(("damage", "words", "told"), REFUSED)
def test_what_cannot_be_checked_is_one_line(run, monkeypatch, capsys, damage, words, told):
    def compiles(*_):
        raise AssertionError("something is compiled")

    monkeypatch.setattr(reproduce, "compile_program", compiles)
    damage(run)
    before = content(run)
    assert cli.main(["reproduce", "run", *words]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("lmjax: ")
    assert error.count("\n") == 1
    assert told in error
    assert content(run) == before


def test_a_checkpoint_that_the_run_did_not_have_is_refused(run, capsys):
    other_checkpoint(run)
    assert cli.main(["reproduce", "run", "--from", "10"]) == 2
    assert "10 of its leaves are not those that the run had" in capsys.readouterr().err


def test_nothing_is_imported_by_a_name_in_a_file(run, monkeypatch):
    """A module of that name lies where Python would find it."""
    Path("planted.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(os.getcwd())
    change = edit("config.json", lambda x: x["config"]["task"].update(part="planted.Task"), True)
    edit("config.json", lambda x: x.update(experiment="planted"), True)(run)
    change(run)
    manifest = edit(
        "manifest.json",
        lambda x: x["launches"][0].update(
            config_sha256=runfiles.sha256(runfiles.epath.Path("run/config.json"))
        ),
        True,
    )
    manifest(run)
    with pytest.raises(InputError, match=r"unknown .*part 'planted.Task'"):
        open_run("run")
    assert "planted" not in sys.modules


def test_a_run_does_not_go_on_with_a_manifest_that_it_would_lose(run, tiny_mlp):
    (run / "result.json").unlink()
    edit("manifest.json", lambda x: x["launches"][0].pop("code"))(run)
    before = content(run)
    with pytest.raises(InputError, match=r"manifest\.json: launches\.0\.code is missing"):
        train.run(tiny_mlp, "run", quiet=True)
    assert content(run) == before


def test_windows_begin_where_a_run_can_be_gone_on_from():
    assert plan(900, [800, 900], None, None, None) == [Window(0, 900)]
    assert plan(900, [800, 900], 800, 30, None) == [Window(800, 830)]
    assert plan(900, [800, 900], 800, None, None) == [Window(800, 900)]
    assert plan(900, [800, 900], None, None, 3) == [Window(0, 22), Window(800, 822)]
    kept = list(range(100, 901, 100))
    assert plan(900, kept, None, None, 3) == [Window(0, 15), Window(400, 415), Window(800, 815)]
    assert plan(900, kept, None, 200, 2) == [Window(0, 200), Window(800, 900)]
    assert plan(900, kept, None, 200, 9)[3] == Window(300, 400)
    assert plan(900, [], None, None, 5) == [Window(0, 45)]
    assert plan(3, [], None, None, 1) == [Window(0, 2)]


def test_a_process_is_given_the_cores_and_devices_of_the_run(run, monkeypatch):
    """As many cores as there were, by number where more are needed than are visible."""
    asked: list[Any] = []
    visible = {0, 1, 2, 3}

    def set_affinity(_, cores):
        asked.append(set(cores))
        visible.clear()
        visible.update(set(cores) & set(range(8)))

    monkeypatch.setattr(environment, "visible_cores", lambda: sorted(visible))
    monkeypatch.setattr(os, "sched_setaffinity", set_affinity)
    monkeypatch.setattr(reproduce, "simulate", lambda count: asked.append(count) or True)
    held = open_run("run")

    def adjusted(cores: list[int], devices: int = 1) -> list[str]:
        asked.clear()
        held.launches[0]["machine"]["cores"] = cores
        held.launches[0]["devices"]["count"] = devices
        return reproduce.adjust(held)

    assert adjusted([4, 5]) == ["this process uses 2 of its cores, as the run did"]
    assert asked == [{0, 1}]
    assert adjusted([4, 5, 6]) == ["this process uses 3 of its cores, as the run did"]
    assert visible == {4, 5, 6}
    assert adjusted([6, 7, 8, 9]) == []  # there are no such cores: all is as it was
    assert visible == {4, 5, 6}
    assert adjusted([0, 1, 2]) == []
    assert asked == []
    assert adjusted([0, 1, 2], 4) == ["4 simulated devices, as the run had"]
    assert asked == [4]


@pytest.mark.sweep
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is but one core")
def test_a_run_on_one_core_is_reproduced_where_there_are_more(tmp_path):
    """By processes: the run saw one core, and `reproduce` uses as many."""

    def lmjax(*words: str, cores: set[int]) -> str:
        code = f"import os, sys; os.sched_setaffinity(0, {cores}); from lmjax.cli import main; "
        done = subprocess.run(
            [sys.executable, "-c", code + "sys.exit(main(sys.argv[1:]))", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    whole = os.sched_getaffinity(0)
    path, first = str(tmp_path / "run"), {min(whole)}
    lmjax(
        "train",
        "char_gpt",
        "--steps",
        "6",
        "--schedule.warmup-steps",
        "2",
        "--data.validation-windows",
        "16",
        "--task.showcase-length",
        "0",
        "--workdir",
        path,
        cores=first,
    )
    told = lmjax("reproduce", path, cores=whole)
    assert "this process uses 1 of its cores, as the run did" in told
    assert "REPRODUCED R3: 6 of 6 steps" in told
