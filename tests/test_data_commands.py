"""`lmjax data`: what it says, and that bad input is one line and status 2."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmjax import cli
from lmjax.data import download, embedded, prepare, prepared


def told(capsys, *words: str) -> str:
    assert cli.main(["data", *words]) == 0
    return capsys.readouterr().out


def refused(capsys, *words: str, status: int = 2) -> str:
    """The one line on stderr of a command that is refused."""
    assert cli.main(list(words)) == status
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert output.err.startswith("lmjax: ")
    return output.err


def test_an_embedded_set_is_prepared_listed_and_described(tmp_path, capsys):
    where = ["--data-dir", str(tmp_path)]
    line = told(capsys, "prepare", "tfds:breast_cancer", *where)
    assert line == f"tfds:breast_cancer is prepared in {tmp_path}/breast_cancer/1.0.0\n"
    listed = told(capsys, "list", *where)
    assert "tfds:breast_cancer:1.0.0" in listed
    for name in embedded.FACTS:
        assert f"\n{name} " in listed
    row = next(line for line in listed.splitlines() if line.startswith("tfds:"))
    assert row.split("  ")[-1] == "prepared"
    assert "569 examples" in row
    assert "CC BY 4.0" in row
    described = told(capsys, "describe", "tfds:breast_cancer", *where)
    for part in (
        "splits      train 455, test 114",
        "licence     CC BY 4.0",
        "citation    @misc{breast_cancer",
        "input: Tensor (30,)",
        "content     reads as it was written",
        "classes     malignant, benign",
    ):
        assert part in described
    plain = told(capsys, "describe", "breast_cancer")
    assert plain.splitlines()[-1] == described.splitlines()[-1]  # the digest


def test_texts_are_described(tmp_path, capsys):
    plain = told(capsys, "describe", "python_docs")
    assert f"text        {len(b''.join(embedded.python_docs().values())):,} bytes" in plain
    described = told(capsys, "describe", "tfds:python_docs", "--data-dir", str(tmp_path))
    assert f"splits      train {len(embedded.python_docs())}" in described
    assert "reads as it was written" in described


def test_a_set_that_reads_otherwise_than_it_was_written_is_refused(tmp_path, capsys):
    where = ["--data-dir", str(tmp_path)]
    told(capsys, "prepare", "tfds:python_docs", *where)
    written = prepared.find("tfds:python_docs", str(tmp_path)) / "metadata.json"
    written.write_text(json.dumps({"sha256": {"train": "0" * 64}}))
    line = refused(capsys, "data", "describe", "tfds:python_docs", *where)
    assert "does not read as it was written" in line


def test_what_is_not_readable_is_listed_as_such(tmp_path, write_tfds, capsys):
    part = (np.zeros((4, 6, 6, 1), np.uint8), np.arange(4))
    write_tfds(tmp_path, {"train": part, "test": part})
    info = tmp_path / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    listed = told(capsys, "list", "--data-dir", str(tmp_path))
    assert "not readable here: lmjax data prepare tfds:mnist:3.0.1" in listed
    info.write_text("{")
    assert "damaged: dataset_info.json" in told(capsys, "list", "--data-dir", str(tmp_path))


def test_a_folder_of_images_is_described(tmp_path, capsys):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / name / f"{number}.png")
    described = told(capsys, "describe", f"images:{tmp_path}")
    assert "cannot be used as they are: held_out = 360" in described


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data", "lst"], "nearest: list"),
        (["data", "list", "more"], "unrecognized arguments: more"),
        (["data", "describe"], "required: source"),
        (["data", "describe", "digit"], "nearest: digits"),
        (["data", "describe", "images:nowhere"], "no such folder"),
        (["data", "describe", "images:"], "no such folder"),
        (["data", "describe", "tfds:../x"], "no data set of TFDS"),
        (["data", "list", "--data-dir", "nowhere"], "--data-dir nowhere: no such directory"),
        (["data", "describe", "tfds:mnst"], "nearest: tfds:mnist; or `lmjax data prepare tfds:mn"),
        (["train", "digits_fcn", "--data.source", "tfds:mnst"], "nearest: tfds:mnist; or"),
        (["data", "describe", "tfds:nothing"], "`lmjax data prepare tfds:nothing --data-dir"),
        (["data", "prepare", "digits"], "digits is embedded, and needs no preparation"),
        (["data", "prepare", "tfds:/etc/passwd"], "write tfds:NAME"),
        (["train", "digits_fcn", "--data.source", "tfds:nothing"], "is not prepared in"),
        (["train", "digits_fcn", "--data.source", "tfds:.."], "no data set of TFDS"),
        (["train", "digits_fcn", "--data.source", "images:nowhere"], "no such folder"),
        (["train", "digits_fcn", "--data.source", "images:"], "no such folder"),
        (["train", "digits_fcn", "--data.source", "image:nowhere"], "nearest: images:PATH"),
        (["train", "digits_fcn", "--data.memory-gb", "-1"], "data.memory_gb = -1.0"),
        (["train", "digits_fcn", "--data.image-size", "-1"], "data.image_size = -1"),
        (["train", "digits_fcn", "--data.held-out", "1700"], "held_out = 1700"),
        (["train", "digits_fcn", "--data.source", "breast_cancer"], "held_out = 360"),
    ],
)
def test_bad_input_is_one_line_and_two(capsys, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    where = ["--data-dir", str(tmp_path)] if told.endswith("--data-dir") else []
    assert told in refused(capsys, *words, *where)
    assert not Path("runs").exists()


def test_what_needs_tensorflow_runs_in_an_environment_of_its_own():
    words = prepare.command("mnist", prepared.folder("there"))
    assert words[:2] == ["uv", "run"]
    assert {"--isolated", "--no-project", "tensorflow-cpu"} <= set(words)
    version = importlib.metadata.version("tensorflow-datasets")
    assert f"tensorflow-datasets=={version}" in words
    assert words[-3:] == [download.__file__, "mnist", "there"]


def test_importing_the_readers_imports_no_library_of_theirs():
    code = """
import sys
from lmjax.data import catalogue, commands, download, images, prepare, prepared, records
heavy = {"tensorflow_datasets", "array_record", "PIL", "sklearn", "jax"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def fake(code: str):
    return lambda name, root: [sys.executable, "-c", code]


def test_its_failure_is_one_line(tmp_path, capsys, monkeypatch):
    words = ["data", "prepare", "tfds:mnist", "--data-dir", str(tmp_path)]
    failing = "import sys; print('a\\nb\\nno network', file=sys.stderr); sys.exit(%d)"
    monkeypatch.setattr(prepare, "command", fake(failing % 1))
    line = refused(capsys, *words, status=1)
    assert line == "lmjax: tfds:mnist could not be prepared: no network\n"
    monkeypatch.setattr(prepare, "command", fake(failing % download.UNKNOWN))
    assert refused(capsys, *words) == "lmjax: tfds:mnist: no network\n"
    monkeypatch.setattr(prepare, "command", fake("pass"))
    assert "is not prepared in" in refused(capsys, *words)
    monkeypatch.setattr(prepare, "command", lambda name, root: ["no-such-program"])
    assert "pip install uv" in refused(capsys, *words)
