"""Whole comparisons: killed and gone on with, shared, computed again, one thing under two names."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from lmjax.cli import main
from lmjax.compare import cells, directory
from lmjax.compare.lease import Leases, Owner, is_stale, me, read_owner, started
from lmjax.compare.queue import Board
from lmjax.compare.schema import check
from lmjax.errors import InputError

ROOT = Path(__file__).parents[1]
EXPERIMENT = '''
"""Two names for one optimizer."""
import dataclasses
from typing import ClassVar
from lmjax.data import Examples
from lmjax.experiment import Experiment
from lmjax.models import MLP
from lmjax.optim import AdamW, Constant
from lmjax.tasks import Classification


@dataclasses.dataclass(frozen=True, kw_only=True)
class Again(AdamW):
    label: ClassVar[str] = "again"


def config():
    return Experiment(
        name="twice", task=Classification(model=MLP(hidden=(8,))), data=Examples(),
        optimizer=AdamW(), schedule=Constant(), steps=600, batch_size=32,
    )
'''
FLAGS = ["--optimizers", "adamw", "again", "--seeds", "2", "--trials", "3", "--strategy", "loop"]
FLAGS += ["--learning-rates", "0.0001", "0.01", "1.0"]
DIVERGING = ["--learning-rates", "0.0001", "0.01", "1e30", "--steps", "60"]
TIMES = {
    "seconds",
    "seconds_of_all_cells",
    "begun",
    "command",
    "costs",
    "speedup_seconds",
    "per_second",
}
TIMES |= {"strategy", "all", "cell", "machine", "updates_in_a_timed_block"}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("experiment") / "twice.py"
    path.write_text(EXPERIMENT)
    return str(path)


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory) -> Path:
    """A comparison that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["compare", experiment, *FLAGS, "--out", str(out)]) == 0
    return out


def without_times(value: Any) -> Any:
    """A report without what is measured, or is a path."""
    if isinstance(value, dict):
        return {k: without_times(x) for k, x in value.items() if k not in TIMES}
    if isinstance(value, list):
        return [without_times(x) for x in value]
    return value


def report_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def cell_files(out: Path) -> dict[str, dict[str, Any]]:
    """ID -> content, without its time."""
    found = {}
    for path in (out / "cells").glob("*/*/*.json"):
        if not path.name.startswith("."):
            held = json.loads(path.read_text())
            del held["seconds"]
            found[held["id"]] = held
    return found


def test_one_optimizer_under_two_names_differs_by_nothing(whole):
    report = report_of(whole)
    check(report)
    assert (whole / "report.html").exists()
    assert (whole / "report.md").exists()
    first, second = report["variants"]
    assert second["verdict"] == "cannot tell"
    assert second["difference"]["mean"] == second["difference"]["low"] == 0.0
    assert second["difference"]["p"] == 1.0
    assert second["final"]["values"] == first["final"]["values"]
    assert second["rate"] == first["rate"]
    assert second["speedup_steps"]["ratio"] == 1.0
    assert second["costs"]["state_copies"] == first["costs"]["state_copies"] == 2.0
    assert all(row["holds"] for row in report["fairness"])
    assert report["partial"] is False
    assert len(report["reproduce"]["cells"]) == 10
    named = {cell["id"] for cell in report["reproduce"]["cells"]}
    assert set(cell_files(whole)) == named
    assert set(second["difference"]["cells"]) <= named
    other = {cell["seed"]: cell["state"] for cell in report["reproduce"]["cells"]}
    assert len(set(other.values())) == len(other)  # seeds do differ


def start(experiment: str, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lmjax", "compare", experiment, *FLAGS, *more, "--out", str(out)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def stop_after(process: subprocess.Popen[str], out: Path, count: int, number: int) -> str:
    """Send a signal as soon as so many cells are there; what it said on stderr."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and len(cell_files(out)) < count:
        time.sleep(0.001)
    process.send_signal(number)
    _, told = process.communicate(timeout=100)
    return told


@pytest.mark.bits
def test_killed_and_stopped_it_goes_on_to_the_same_report(experiment, whole, tmp_path, capsys):
    out = tmp_path / "out"
    process = start(experiment, out)
    stop_after(process, out, 1, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*/*/[!.]*.json")}
    assert 1 <= len(kept) < 10
    assert not (out / "report.json").exists()
    process = start(experiment, out)
    told = stop_after(process, out, len(kept) + 2, signal.SIGINT)
    assert process.returncode == 130, told
    assert "was left by process" in told or "goes on" in told
    partial = report_of(out)
    check(partial)
    assert len(kept) + 2 <= partial["partial"]["done"] < partial["partial"]["of"] == 10
    assert f"{partial['partial']['done']} of 10 cells are kept" in told
    assert main(["compare", experiment, *FLAGS, "--out", str(out)]) == 0
    assert "PARTIAL" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing was run twice
    assert cell_files(out) == cell_files(whole)
    assert without_times(report_of(out)) == without_times(report_of(whole))
    assert report_of(out) != report_of(whole)  # times do differ


@pytest.mark.bits
def test_with_a_rate_that_diverges_it_goes_on_and_comes_out_again(experiment, tmp_path, capsys):
    whole, out = tmp_path / "whole", tmp_path / "out"
    words = ["compare", experiment, *FLAGS, *DIVERGING, "--out"]
    assert main([*words, str(whole)]) == 0
    lost = {name: held for name, held in cell_files(whole).items() if held["diverged"] is not None}
    assert set(lost) == {"adamw/lr1e+30/seed1000", "again/lr1e+30/seed1000"}
    assert all(held["bits"]["batches"] is held["bits"]["state"] is None for held in lost.values())
    process = start(experiment, out, *DIVERGING)
    stop_after(process, out, 6, signal.SIGKILL)  # both of them are there
    sharing = [start(experiment, out, *DIVERGING) for _ in range(2)]
    for process in sharing:
        _, told = process.communicate(timeout=200)
        assert process.returncode == 0, told
    assert cell_files(out) == cell_files(whole)
    report = without_times(report_of(out))
    assert report == without_times(report_of(whole))
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*/*/[!.]*.json")}
    assert main([*words, str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.dumps(without_times(report_of(out))) == json.dumps(report)
    check(report_of(out))
    assert [v["verdict"] for v in report["variants"]] == [None, "cannot tell"]
    assert [v["tuning"]["trials"][2]["diverged"] for v in report["variants"]] == [1, 1]
    cell, ended = "adamw/lr1e+30/seed1000", lost["adamw/lr1e+30/seed1000"]["diverged"]
    words = ["reproduce", str(out), "--cell", cell, "--code", experiment]
    capsys.readouterr()
    assert main(words) == 0
    told = f"{cell}: the same bits, up to update {ended}, where it diverges"
    assert told in capsys.readouterr().out
    path = out / "cells" / f"{cell}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"diverged": ended + 1}))
    assert main(words) == 1
    told = f"DIFFERS: the update at which it diverged: {ended + 1} was, {ended} is"
    assert told in capsys.readouterr().out


def test_a_directory_of_another_comparison_is_refused(experiment, whole, capsys):
    assert main(["compare", experiment, *FLAGS, "--out", str(whole), "--steps", "50"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"lmjax: {whole} holds another comparison (experiment.steps: 600 -> 50;")
    assert len(told.splitlines()) == 1


def test_a_cell_comes_out_again_to_the_bit_or_says_where_not(experiment, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    cell = next(name for name in cell_files(out) if "/seed1" in name and "again" in name)
    words = ["reproduce", str(out), "--cell", cell, "--code", experiment]
    assert main(words) == 0
    assert f"{cell}: the same bits, 600 updates and every evaluation" in capsys.readouterr().out
    path = out / "cells" / f"{cell}.json"
    held = json.loads(path.read_text())
    held["train_loss"]["values"][3] *= 1 + 1e-7
    path.write_text(json.dumps(held))
    assert main(words) == 1
    assert "DIFFERS: the training loss of update" in capsys.readouterr().out
    assert main([*words[:3], cell.replace("seed", "sead"), *words[4:]]) == 2
    assert "unknown cell" in capsys.readouterr().err
    assert main([*words, "--steps", "3"]) == 2
    assert "takes no steps" in capsys.readouterr().err
    path.write_text("{}")
    assert main(words) == 2
    assert "damaged" in capsys.readouterr().err


def test_two_processes_share_the_cells(experiment, whole, tmp_path):
    """Without running one: what each of two boards on an empty directory would take."""
    plan, _, _ = directory.open_plan(epath.Path(whole), experiment)
    path = epath.Path(tmp_path)
    with Leases(path, print).beating() as ours, Leases(path, print).beating() as theirs:
        boards = [Board(plan, path, ours, 2), Board(plan, path, theirs, 2)]
        taken = [boards[n % 2].take() or [] for n in range(4)]
        ids = [cell.id for cells in taken for cell in cells]
        assert len(ids) == len(set(ids)) == 6  # three rates of each of two variants
        assert boards[0].take() == boards[1].take() == []  # what comes next waits for these
        held = cells.read(epath.Path(whole), ids[0])
        assert held is not None
        boards[0].done(taken[0][0], held)
        assert boards[1].result(taken[0][0]) == held
        boards[1].done(taken[1][0], None)  # given up: the other may have it
        assert [cell.id for cell in boards[0].take() or []] == [taken[1][0].id]
    with Leases(path, print).beating() as later:
        assert later.take(ids[2])


def test_whose_lease_is_stale(tmp_path):
    here = me()
    assert here.start == started(here.pid)
    assert not is_stale(here, 1e9, locks=False)  # alive, however old
    assert is_stale(here._replace(start="1"), 0.0, locks=False)  # another process has its number
    assert is_stale(here._replace(pid=2**22 + 1), 0.0, locks=False)
    assert is_stale(here, 0.0, locks=True)  # whoever can lock it knows that nobody holds it
    far = Owner("elsewhere", here.pid, here.start)
    assert not is_stale(far, 60.0, locks=True)  # the lock of another host need not be seen here
    assert is_stale(far, 200.0, locks=True)
    told: list[str] = []
    leases = Leases(epath.Path(tmp_path), told.append)
    file = tmp_path / "leases" / "a" / "b.lease"
    file.parent.mkdir(parents=True)
    file.write_text("elsewhere 12 34\n")
    assert not leases.take("a/b")
    os.utime(file, (time.time() - 1000, time.time() - 1000))
    assert leases.take("a/b")
    assert told == [
        "a/b was left by process 12 on elsewhere, which has ended; its lease is taken over"
    ]
    with file.open() as text:
        assert read_owner(text) == here
    assert not leases.take("a/b")
    leases.give_back("a/b")
    assert file.read_text() == ""
    assert leases.take("a/b")
    assert len(told) == 1
    leases.give_back("a/b")


def test_another_strategy_than_a_directory_s_is_refused(whole, experiment, capsys):
    words = [word if word != "loop" else "lanes" for word in FLAGS]
    assert main(["compare", experiment, *words, "--out", str(whole)]) == 2
    assert "--strategy lanes: " in capsys.readouterr().err


def test_a_damaged_cell_is_told(whole, tmp_path):
    path = epath.Path(tmp_path)
    assert cells.read(path, "a/lr1/seed0") is None
    file = cells.path_of(path, "a/lr1/seed0")
    file.parent.mkdir(parents=True)
    for text in ("{}", '{"id": "a/lr1/seed1"}', "[]", "{"):
        file.write_text(text)
        with pytest.raises(InputError, match=r"seed0.json: (damaged|cannot be read|not a JSON)"):
            cells.read(path, "a/lr1/seed0")
    own = {"id": "a/lr1/seed0", "variant": "a", "rate": 1.0, "seed": 0}
    own |= {"seconds": 1.0, "machine": "here"}
    held: dict[str, Any] = {**next(iter(cell_files(whole).values())), **own}
    lost = {**held["bits"], "batches": None, "state": None}
    ended: dict[str, Any] = {**held, "diverged": 3, "bits": lost}
    for whole_or_not in (held, ended):
        file.write_text(json.dumps(whole_or_not))
        assert cells.read(path, "a/lr1/seed0") == whole_or_not
    for wrong in ({**held, "diverged": 3}, {**ended, "diverged": None}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match="damaged"):
            cells.read(path, "a/lr1/seed0")
