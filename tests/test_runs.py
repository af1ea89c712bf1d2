"""`lmjax list` and the table of results, on run directories made by hand and on real ones."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmjax import results, runs, train
from lmjax.errors import InputError

ROOT = Path(__file__).parents[1]
NOW = 1_700_000_000.0
REAL_TIME = time.time
RESULT = {
    "steps": 900,
    "validation": {"loss": 1.5, "bits_per_byte": 2.1722},
    "baselines": {"bits_per_byte": {"trigram": 2.467, "bigram": 3.3401}},
    "seconds": 145.6,
    "resumed_from": 0,
    "devices": {"kind": "cpu", "count": 1, "processes": 1, "cores": 2},
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
}


@pytest.fixture(autouse=True)
def at_a_fixed_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.time, "time", lambda: NOW)


def made(
    path: str,
    age: float,
    *,
    experiment: str = "char_gpt",
    words: tuple[str, ...] = (),
    metrics: str = "",
    result: dict | None = None,
    checkpoint: int = 0,
) -> None:
    """A run directory whose newest file is `age` seconds old."""
    folder = Path(path)
    (folder / "checkpoints" / f"{checkpoint}").mkdir(parents=True)
    (folder / "checkpoints" / f"{checkpoint + 99}.orbax-tmp").mkdir()
    config = {
        "experiment": experiment,
        "words": list(words),
        "headline": "bits_per_byte",
        "config": {"steps": 900},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text(metrics)
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    for file in folder.rglob("*"):
        os.utime(file, (NOW - 10 * age, NOW - 10 * age))
    os.utime(folder / "metrics.jsonl", (NOW - age, NOW - age))


def line(kind: str, step: int, **metrics: float) -> str:
    return json.dumps({"kind": kind, "step": step, **metrics}) + "\n"


def test_every_state_of_a_run_is_told():
    made("runs/char_gpt/done", 7200, result=RESULT, metrics=line("train", 900, loss=1.4))
    early = line("validation", 100, bits_per_byte=3.5) + line("train", 101, loss=2.0)
    late = line("validation", 200, bits_per_byte=3.25) + line("train", 217, loss=1.9)
    made("runs/char_gpt/going", 20, metrics=early + late + '{"kind": "validation", "step": 2')
    made("runs/char_gpt/halted", 3600, metrics=early, checkpoint=100)
    made("runs/deep/er/fresh", 5)
    longer = {**RESULT, "steps": 450}  # the result of a run that was then given more steps
    made("runs/char_gpt/extended", 90, result=longer, checkpoint=450)
    found = runs.list_runs("runs")
    assert [(r.path, r.state, r.step, r.value, r.age) for r in found.runs] == [
        ("runs/deep/er/fresh", "running", 0, None, 5),
        ("runs/char_gpt/going", "running", 217, 3.25, 20),
        ("runs/char_gpt/extended", "running", 450, None, 90),
        ("runs/char_gpt/halted", "stopped", 101, 3.5, 3600),
        ("runs/char_gpt/done", "finished", 900, 2.1722, 7200),
    ]
    assert found.others == []
    told = runs.to_text(found, "runs").splitlines()
    assert told[0].split() == ["run", "state", "step", "validation", "written"]
    assert " ".join(told[2].split()) == (
        "char_gpt/going running 217/900 bits_per_byte 3.25 20 s ago"
    )
    assert told[5].endswith("2 h ago")
    assert runs.list_runs("runs/char_gpt/done").runs[0].state == "finished"


def test_what_is_no_run_or_is_damaged_is_named_and_the_rest_is_listed():
    made("runs/good", 60)
    made("runs/torn", 60)
    Path("runs/torn/config.json").write_text("{")
    made("runs/older", 60)
    made("runs/endless", 60)
    Path("runs/endless/config.json").write_text(
        '{"experiment": "a", "words": [], "headline": "b", "config": {"steps": Infinity}}'
    )
    made("runs/deep", 60)
    Path("runs/deep/config.json").write_text("[" * 100_000)
    held = json.loads(Path("runs/older/config.json").read_text())
    del held["headline"]
    Path("runs/older/config.json").write_text(json.dumps(held))
    made("runs/odd", 60, result={**RESULT, "validation": {"loss": 1.0}})
    Path("runs/.hidden/inside").mkdir(parents=True)
    Path("runs/photos/2024/may").mkdir(parents=True)
    Path("runs/notes.txt").write_text("x")
    found = runs.list_runs("runs")
    assert [run.path for run in found.runs] == ["runs/good"]
    told = "\n".join(found.others)
    assert len(found.others) == 6
    for part in (
        "runs/torn/config.json: cannot be read",
        "runs/endless: damaged (OverflowError",
        "runs/deep/config.json: cannot be read",
        "runs/older: damaged (KeyError: 'headline')",
        "runs/odd: damaged (KeyError: 'bits_per_byte')",
        "runs/photos: no run",
    ):
        assert part in told
    assert runs.to_text(found, "runs").endswith("runs/photos: no run")


def test_links_that_lead_round_in_a_circle_end():
    made("loop/run", 60)
    for name in ("a", "b"):
        Path("loop", name).symlink_to(".")
        Path("loop/run", name).symlink_to("..")
    Path("loop/also").symlink_to("run")
    found = runs.list_runs("loop")
    assert [run.path for run in found.runs] == ["loop/run"]
    assert found.others == []


def test_an_empty_directory_is_no_error_and_a_missing_one_is():
    Path("runs").mkdir()
    assert runs.to_text(runs.list_runs("runs"), "runs") == "no runs"
    with pytest.raises(InputError, match="nowhere: no such directory"):
        runs.list_runs("nowhere")


def test_a_real_run_is_listed_as_it_is(tiny_gpt, monkeypatch):
    monkeypatch.setattr(runs.time, "time", REAL_TIME)
    result = train.run(tiny_gpt, "run", quiet=True)
    (run,) = runs.list_runs(".").runs
    assert (run.state, run.step, run.steps) == ("finished", 20, 20)
    assert run.value == result["validation"]["bits_per_byte"]
    Path("run/result.json").unlink()
    (run,) = runs.list_runs(".").runs
    assert (run.state, run.step) == ("running", 20)
    assert run.value == result["validation"]["bits_per_byte"]


@pytest.mark.smoke
def test_neither_listing_nor_the_table_needs_jax():
    code = (
        "import sys; from lmjax import cli; cli.main(['list', '.', '--table', 'table.md']);"
        "sys.exit(bool({'jax', 'tyro', 'numpy'} & set(sys.modules)))"
    )
    made("runs/a", 10, result=RESULT)
    Path("table.md").write_text(f"{results.BEGIN}\n{results.END}\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert told.returncode == 0, told.stderr
    assert "table.md: 1 rows" in told.stdout


def table(text: str) -> list[list[str]]:
    """The rows between the marks, as cells."""
    rows = text.partition(results.BEGIN)[2].partition(results.END)[0].strip().splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_table_is_made_of_what_runs_recorded():
    made("runs/a", 500, result=RESULT)
    muon = {
        **RESULT,
        "validation": {"bits_per_byte": 1.6738},
        "seconds": 3725.2,
        "resumed_from": 300,
        "devices": {**RESULT["devices"], "processor": "Abacus 9"},
    }
    made("runs/b", 400, result=muon, words=("optimizer:muon",))
    made("runs/old", 900, result={**RESULT, "validation": {"bits_per_byte": 9.0}})
    made("runs/piped", 300, result=RESULT, words=("--data.source", "text:a|b c"))
    made("runs/mine", 300, result=RESULT, experiment="mine")
    made("runs/dotted", 300, result=RESULT, experiment="a.b.c")
    made("runs/going", 10, experiment="going")
    Path("README.md").write_text(
        f"# Results\n\nBefore.\n\n{results.BEGIN}\n| experiment | x |\n|---|---|\n"
        f"| kept | by hand |\n| char_gpt | out of date |\n{results.END}\n\nAfter.\n"
    )
    assert results.write_table("README.md", runs.list_runs("runs").runs) == (4, 2)
    text = Path("README.md").read_text()
    assert text.startswith("# Results\n\nBefore.\n\n")
    assert text.endswith("\n\nAfter.\n")
    head, dashes, *rows = table(text)
    assert head == list(results.HEAD)
    assert [row[0] for row in rows] == [
        "kept",
        "char_gpt",
        "char_gpt optimizer:muon",
        "char_gpt --data.source 'text:a\\|b c'",
    ]
    question = "How well does a small GPT learn English reference text, beside models that only "
    assert rows[1] == [
        "char_gpt",
        question + "count bytes?",
        "2.172 bits per byte",
        "trigram 2.467, bigram 3.340",
        "900, 2 min 26 s",
        "1 x cpu, 2 cores, Python 3.11.7, JAX 0.10.2",
    ]
    assert rows[2][2] == "1.674 bits per byte"
    assert rows[2][4] == "900, 1 h 2 min from step 300"
    assert rows[2][5] == "1 x cpu, 2 cores of Abacus 9, Python 3.11.7, JAX 0.10.2"
    assert [rows[2][1], rows[3][1]] == ["", ""]  # it has been asked above
    assert results.write_table("README.md", runs.list_runs("runs").runs) == (4, 2)
    assert Path("README.md").read_text() == text  # writing again changes nothing


def test_what_no_table_can_be_made_of_is_refused():
    made("runs/a", 60, result={name: x for name, x in RESULT.items() if name != "seconds"})
    found = runs.list_runs("runs").runs
    with pytest.raises(InputError, match=r"nowhere\.md: no such file"):
        results.write_table("nowhere.md", found)
    Path("bare.md").write_text("no marks\n")
    with pytest.raises(InputError, match="needs the marks"):
        results.write_table("bare.md", found)
    marked = f"{results.BEGIN}\n{results.END}\n"
    Path("marked.md").write_text(marked)
    with pytest.raises(InputError, match=r"runs/a: result\.json has no 'seconds'"):
        results.write_table("marked.md", found)
    assert Path("marked.md").read_text() == marked
    Path("latin.md").write_bytes(marked.encode() + b"\xe9")
    with pytest.raises(InputError, match=r"latin\.md: cannot be read"):
        results.write_table("latin.md", found)
    loose = f"{results.BEGIN}\n| a | b |\n|---|---|\nno row\n{results.END}\n"
    Path("loose.md").write_text(loose)
    with pytest.raises(InputError, match=r"what is no row of a table: 'no row'"):
        results.write_table("loose.md", found)
    assert Path("loose.md").read_text() == loose


@pytest.mark.parametrize(
    ("field", "value"), [("seconds", None), ("devices", 5), ("steps", "x"), ("baselines", [])]
)
def test_a_damaged_result_is_refused(field, value):
    made("runs/a", 60, result=RESULT)
    found = runs.list_runs("runs").runs
    Path("runs/a/result.json").write_text(json.dumps(RESULT | {field: value}))
    Path("table.md").write_text(f"{results.BEGIN}\n{results.END}\n")
    with pytest.raises(InputError, match=r"runs/a: result\.json is damaged") as error:
        results.write_table("table.md", found)
    assert "\n" not in str(error.value)


def test_the_committed_table_has_the_form_that_is_written():
    text = (ROOT / "experiments" / "README.md").read_text()
    head, _, *rows = table(text)
    assert head == list(results.HEAD)
    assert rows
    asked = set()
    for row in rows:
        assert len(row) == len(head)
        name = row[0].split()[0]
        assert row[1] == ("" if name in asked else results.question(name))
        asked.add(name)
