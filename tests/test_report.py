"""`lmjax report`, on run directories made by hand and on a real one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pages
import pytest

from lmjax import cli, report, train
from lmjax.compare import page

ROOT = Path(__file__).parents[1]
RESULT = {
    "steps": 900,
    "parameters": 842_496,
    "validation": {"loss": 1.5, "bits_per_byte": 2.1722},
    "baselines": {"bits_per_byte": {"trigram": 2.467, "bigram": 3.3401}},
    "state_digest": "ee79fab90cb9f4cafb1d824cea9c2cab",
    "seconds": 145.6,
    "resumed_from": 0,
    "tokens_per_second": 52_300.0,
    "mfu": {"6N": 0.412},
    "devices": {"kind": "cpu", "count": 1, "processes": 1, "cores": 2},
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(path: str, *, rate: float = 0.002, steps: int = 600, result: dict | None = None) -> None:
    """A run of char_gpt that has logged so many steps."""
    folder = Path(path)
    folder.mkdir(parents=True)
    config = {
        "lmjax": "0.1.0",
        "experiment": "char_gpt",
        "words": ["--optimizer.learning-rate", str(rate)],
        "headline": "bits_per_byte",
        "overrides": {"optimizer.learning_rate": [0.002, rate]},
        "data": {"name": "python_docs", "digest": "12ab"},
        "config": {
            "part": "experiment",
            "steps": 900,
            "optimizer": {"part": "adamw", "learning_rate": rate},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    lines = []
    for step in range(1, steps + 1):
        lines.append({"kind": "train", "step": step, "loss": 1000.0 / step})
        if step % 100 == 0:
            bits = 3.0 - step / 1000
            lines.append({"kind": "validation", "step": step, "loss": bits, "bits_per_byte": bits})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))


def test_runs_stand_beside_each_other(capsys):
    made("runs/a", steps=900, result=RESULT)
    made("runs/b", rate=0.004)
    os.utime("runs/b/metrics.jsonl", (0, 0))
    os.utime("runs/b/config.json", (0, 0))
    assert cli.main(["report", "runs/a", "runs/b", "--out", "pages/both"]) == 0
    assert capsys.readouterr().out == "pages/both/report.html\n"
    found = sorted(file.name for file in Path("pages/both").iterdir())
    assert found == ["report.html", "report.json", "report.md"]
    told = json.loads(Path("pages/both/report.json").read_text())
    assert told == report.make(["runs/a", "runs/b"])
    assert told["config_diff"] == [
        {"field": "optimizer.learning_rate", "values": {"a": 0.002, "b": 0.004}}
    ]
    assert [run["state"] for run in told["runs"]] == ["finished", "stopped"]
    tree = pages.parse(Path("pages/both/report.html").read_text())
    opening = tree.all("header")[0].text
    assert "Unfinished. b (stopped) stands at step 600 of 900." in opening
    assert "a: bits per byte 2.172 after 900 steps, beside trigram 2.467, bigram 3.340" in opening
    assert "b: bits per byte 2.400 after 600 steps" in opening
    row = tree.by_id("numbers").all("tr")[1]
    cells = [x.text for x in row.inner if isinstance(x, pages.Node)]
    assert cells == [
        *("a", "finished", "1.500", "2.172", "900", "842,496", "2 min 26 s"),
        *("52.3 k tokens/s", "41.2% (6N)", "ee79fab90cb9f4ca"),
    ]
    assert "uv run lmjax train char_gpt --optimizer.learning-rate 0.004" in tree.text
    figures = [x["id"] for x in tree.all("figure")]
    assert figures == ["validation-bits_per_byte", "validation-loss", "training"]
    for svg in tree.all("svg"):
        names = {x.all("title")[0].text for x in svg.all("text", "label")}
        assert {"a", "b"} <= names


def test_a_long_curve_is_thinned_to_means():
    """By hand: 600 steps in buckets of 3; the mean of each, at its last step."""
    made("run")
    curve = report.make(["run"])["runs"][0]["train"]
    assert curve["steps"] == list(range(3, 601, 3))
    for n in (0, 57, 199):
        expected = sum(1000.0 / step for step in range(3 * n + 1, 3 * n + 4)) / 3
        assert curve["values"][n] == pytest.approx(expected, rel=1e-12)
    assert report.thinned({"steps": [1, 2], "values": [None, 3.0]})["values"] == [None, 3.0]
    many = {"steps": list(range(480)), "values": [None, 2.0] * 240}
    assert report.thinned(many) == {"steps": list(range(1, 480, 2)), "values": [2.0] * 240}


def test_a_single_run_is_shown_beside_its_experiment():
    made("deep/run", rate=0.004, result=RESULT, steps=900)
    told = report.make(["deep/run"])
    assert told["runs"][0]["label"] == "run"
    assert told["config_diff"] == [
        {"field": "optimizer.learning_rate", "values": {"experiment": 0.002, "run": 0.004}}
    ]


def test_a_torn_last_line_and_a_loss_that_is_not_finite_are_no_damage():
    made("run", steps=5)
    path = Path("run/metrics.jsonl")
    text = path.read_text() + '{"kind": "train", "step": 6, "loss": NaN}\n{"kind": "tra'
    path.write_text(text)
    curve = report.make(["run"])["runs"][0]["train"]
    assert curve["steps"] == [1, 2, 3, 4, 5, 6]
    assert curve["values"][4:] == [200.0, None]


def test_a_run_that_has_only_begun_is_a_page(capsys):
    made("run", steps=0)
    Path("run/metrics.jsonl").unlink()
    assert cli.main(["report", "run"]) == 0
    text = Path("report/report.html").read_text()
    assert "run: not evaluated yet, at step 0" in text
    assert "<svg" not in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere is not a run directory (no config.json)"),
        ([""], "RUN is empty; name a run directory, such as `lmjax list` shows"),
        (["empty"], "empty is not a run directory (no config.json)"),
        (["good", "good/../good"], "good/../good: given twice"),
        (["good", "torn"], "torn/metrics.jsonl: line 3 is damaged"),
        (["foreign"], "foreign/config.json: cannot be read"),
        (["odd"], "odd: damaged (KeyError: 'bits_per_byte')"),
        (["worse"], "worse: baselines = [1]: must be an object"),
        (["text"], "text: train.values[1] = 'x': must be a number"),
        (["bare"], "bare/config.json: overrides: missing"),
        (["good", "--out", "good"], "--out good: has a config.json, of a run or a comparison"),
        (["good", "--out", "mine"], "--out mine: has a report.md that is no report of runs"),
        (["good", "--out", "good/config.json"], "--out good/config.json: not writable"),
        (["good/config.json"], "good/config.json is a file, not a run directory"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_what_is_no_run_is_told_of_in_one_line(words, told, capsys):
    made("good", steps=3)
    made("torn", steps=3)
    lines = Path("torn/metrics.jsonl").read_text().splitlines()
    Path("torn/metrics.jsonl").write_text("\n".join([*lines[:2], '{"kind": "tr', lines[2]]) + "\n")
    Path("empty").mkdir()
    Path("mine").mkdir()
    Path("mine/report.md").write_text("my own")
    Path("foreign").mkdir()
    Path("foreign/config.json").write_text("{")
    made("odd", steps=900, result={**RESULT, "validation": {"loss": 1.0}})
    made("worse", steps=900, result={**RESULT, "baselines": [1]})
    made("text", steps=1)
    with Path("text/metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 2, "loss": "x"}\n')
    made("bare", steps=1)
    config = json.loads(Path("bare/config.json").read_text())
    del config["overrides"]
    Path("bare/config.json").write_text(json.dumps(config))
    before = sorted(map(str, Path().rglob("*")))
    assert cli.main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert sorted(map(str, Path().rglob("*"))) == before


def test_a_real_run_is_read_as_it_was_written(tiny_mlp):
    result = train.run(tiny_mlp, "run", quiet=True)
    told = report.make(["run"])
    (run,) = told["runs"]
    assert run["state"] == "finished"
    assert run["final"] == result["validation"]
    assert run["rate"] == result["examples_per_second"]
    assert run["unit"] == "examples"
    assert run["train"]["steps"] == list(range(1, 13))
    assert told["commands"] == []  # tiny_mlp is none of our experiments
    tree = pages.parse(page.to_html(page.make(told)))
    assert f"{result['validation']['loss']:.3g}"[:4] in tree.text


def test_the_command_needs_no_jax():
    made("run", steps=3)
    code = "import sys; from lmjax import cli; cli.main(['report', 'run']); "
    code += "print(sorted({'jax', 'numpy', 'flax', 'tyro'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines() == ["report/report.html", "[]"]
