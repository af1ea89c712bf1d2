"""`python -m experiments.faults`: what it counts and keeps, and a small part of what it tries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.faults.journal import (
    GOOD,
    LOST,
    SILENT,
    Fault,
    Journal,
    Outcome,
    table,
    write_table,
)
from lmjax.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Killed(BaseException):
    """Stands for the end of the process."""


WRITES = """
import os, sys, threading
from pathlib import Path
from experiments.faults.tracer import Tracer

folder, at, fault = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
go, begin = os.pipe()
child = os.fork()
if not child:
    os.read(go, 1)
    told = []

    def write(names):
        for name in names:
            try:
                (folder / name).write_bytes(b"x")
            except OSError as error:
                told.append(error.errno)

    for names in ("ab", "cd"):  # one thread after the other, each with four calls
        thread = threading.Thread(target=write, args=(names,))
        thread.start()
        thread.join()
    os._exit(told[0] if told else 0)
tracer = Tracer(child, folder)
os.write(begin, b"x")
print(tracer.run(at, fault, 60.0), " ".join(call.name for call in tracer.calls))
"""


@pytest.mark.parametrize(
    ("at", "fault", "told", "left"),
    [
        (0, 0, "0 openat write openat write openat write openat write", {"a", "b", "c", "d"}),
        (7, 0, "-9 openat write openat write openat write openat", {"a", "b", "c"}),
        (8, 0, "-9 openat write openat write openat write openat write", {"a", "b", "c", "d"}),
        (7, 28, "28 openat write openat write openat write openat", {"a", "b", "c"}),
    ],
)
def test_the_tracer_counts_calls_over_all_threads(at, fault, told, left):
    asked = [sys.executable, "-c", "from experiments.faults import tracer; print(tracer.why_not())"]
    if why := subprocess.check_output(asked, text=True).strip():  # which forks
        pytest.skip(why)
    Path("files").mkdir()
    words = [sys.executable, "-c", WRITES, str(Path("files").resolve()), str(at), str(fault)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"{told}\n", done.stderr
    assert {path.name for path in Path("files").iterdir()} == left
    if at == 8:
        assert Path("files/d").read_bytes() == b""


def test_trials_are_kept_and_counted_and_make_a_table():
    tried: list[int] = []
    verdicts = [GOOD, SILENT, LOST, GOOD]

    def trial(number: int) -> Outcome:
        tried.append(number)
        if len(tried) == 3:
            raise Killed
        return Outcome(verdicts[number], "told")

    faults = [Fault("a fault", 4, trial), Fault("another", 0, trial, "no superuser")]
    said: list[str] = []
    with pytest.raises(Killed):
        Journal(Path("kept.jsonl"), {"seed": 0}, said.append).run(faults)
    with Path("kept.jsonl").open("a") as file:
        file.write('{"fault": "a fault", "tri')  # torn
    journal = Journal(Path("kept.jsonl"), {"seed": 0}, said.append)
    journal.run(faults)
    assert tried == [0, 1, 2, 2, 3]
    assert journal.count(faults[0]) == {GOOD: 2, SILENT: 1, LOST: 1}
    assert [line for line in said if ": told" in line] == [
        "a fault 1: SILENT: told",
        "a fault 2: LOST: told",
    ]
    with pytest.raises(InputError, match="of other settings or code"):
        Journal(Path("kept.jsonl"), {"seed": 1}, print)
    text = table(faults, journal)
    assert "| a fault | 4 | 2 | 1 |" in text
    assert "| another | not run: no superuser |  |  |" in text
    assert text.endswith("| all | 4 | 2 | 1 |")
    Path("README.md").write_text("before\n<!-- faults -->\nold\n<!-- /faults -->\nafter\n")
    write_table(Path("README.md"), text)
    held = Path("README.md").read_text()
    assert held == f"before\n<!-- faults -->\n{text}\n<!-- /faults -->\nafter\n"
    Path("README.md").write_text("before\n")
    with pytest.raises(InputError, match="needs the marks"):
        write_table(Path("README.md"), text)


def test_a_small_part_of_all_faults_is_survived():
    words = [sys.executable, "-m", "experiments.faults", "--quick", "--json", "found.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(Path("found.json").read_text())
    assert all(row["good"] == row["trials"] for row in found["faults"])
    assert sum(row["trials"] for row in found["faults"]) > 80
    assert found["controls"]["holds"]
    assert found["controls"]["silent"] > 0
