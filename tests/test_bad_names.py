"""Names that lead nowhere, out of the folder or into the terminal: a line of the table each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import ROOT, refused

NUL, LONG = "a\0b", "x" * 300
TRAIN = ["train", "char_gpt", "--workdir"]
RUN = [*TRAIN, "run"]
TOKENIZE = ["data", "tokenize", "python_docs", "--out"]
ROWS = [  # words, what is told
    # NUL, which no path can hold
    ([*TRAIN, NUL], "--workdir = 'a\\\\x00b': must not hold a NUL"),
    ([*RUN, "--data.source", f"text:{NUL}"], "--data.source = 'text:a\\\\x00b': must not hold a"),
    ([*RUN, "--name", NUL], "--name = 'a\\\\x00b': must not hold a NUL"),
    ([*RUN, "--init-from", NUL], "--init-from = 'a\\\\x00b': must not hold a NUL"),
    (["eval", NUL], "word 2 = 'a\\\\x00b': must not hold a NUL"),
    (["eval", "x", "--choices", NUL], "--choices = 'a\\\\x00b': must not hold a NUL"),
    (["describe", "char_gpt", "--json", NUL], "--json = 'a\\\\x00b': must not hold a NUL"),
    ([*TOKENIZE, NUL], "--out = 'a\\\\x00b': must not hold a NUL"),
    # buckets, which epath would ask the network for
    ([*TRAIN, "az://bucket/run"], "--workdir = 'az://bucket/run': must lie in the file system"),
    ([*RUN, "--data.source=tokens:s3://bucket/ids"], "must lie in the file system of this mach"),
    ([*RUN, "--data.source", "text:gs://bucket/a"], "data.source = 'text:gs://bucket/a': must"),
    ([*RUN, "--init-from", "az://bucket/run"], "--init-from = 'az://bucket/run': must lie in"),
    (["eval", "hf://bucket/run"], "word 2 = 'hf://bucket/run': must lie in the file system"),
    (["list", "gs://bucket"], "word 2 = 'gs://bucket': must lie in the file system"),
    (["data", "list", "--data-dir", "gs://bucket"], "--data-dir = 'gs://bucket': must lie in"),
    (["compare", "char_gpt_tiny", "--out", "gs://b/c"], "--out = 'gs://b/c': must lie in the"),
    # control characters, which would break the line or steer a terminal
    ([*RUN, "--init-from", "a\nb"], "a\\nb is not a run directory"),
    (["eval", "a\x1b[31mb"], "a\\x1b[31mb is not a run directory"),
    (["train", "a\rb"], "unknown experiment 'a\\\\rb'"),
    (["list", "a\u2028b"], "a\\u2028b: no such directory"),
    ([*RUN, "--data.source", "text:\udcff"], "text:\\\\udcff"),
    # names of 300 characters
    ([*TRAIN, f"a/{LONG}"], "xxx: not writable (the name is too long)"),
    ([*RUN, "--name", LONG], "must be up to 80 letters, digits and underscores"),
    ([*RUN, "--init-from", LONG], "xxx: the name is too long"),
    ([*RUN, "--data.source", f"text:{LONG}"], "xxx': no such file"),
    (["train", f"{LONG}.py"], "File name too long"),
    (["eval", LONG], "xxx is not a run directory"),
    (["export", "x", "--out", LONG], "xxx: the name is too long"),
    # names of runs that would lead out of their folder
    ([*RUN, "--name", "../x"], "name = '../x': must be up to 80 letters, digits and underscores"),
    ([*RUN, "--name", "/etc"], "name = '/etc': must be up to 80 letters"),
    ([*RUN, "--name", "a\nb"], "name = 'a\\\\nb': must be up to 80 letters"),
    ([*RUN, "--name", ".."], "name = '..': must be up to 80 letters"),
    ([*RUN, "--name="], "name = '': must be up to 80 letters"),
    ([*RUN, "--data.source", "tfds:/etc/passwd"], "'tfds:/etc/passwd' is no data set of TFDS"),
    (["data", "prepare", "tfds:--help"], "'tfds:--help' is no data set of TFDS"),
    # links and what is no folder
    ([*TRAIN, "loop"], "run directory loop: not writable (loop: a link that leads nowhere)"),
    ([*TRAIN, "loop/run"], "run directory loop/run: not writable (loop: a link that leads nowh"),
    ([*TRAIN, "dangling"], "dangling: not writable (dangling: a link that leads nowhere)"),
    ([*TRAIN, "file/run"], "run directory file/run: not writable (file: not a directory)"),
    ([*TRAIN, "pipe"], "run directory pipe: not"),
    (["eval", "loop"], "loop is a link that leads nowhere, not a run directory"),
    (["eval", "file"], "file is a file, not a run directory"),
    (["eval", "odd"], "odd/config.json: cannot be read (not a file)"),  # a pipe, which would wait
    (["report", "odd"], "odd/config.json: cannot be read (not a file)"),
    ([*RUN, "--init-from", "odd"], "odd/config.json: cannot be read (not a file)"),
    ([*RUN, "--data.source", "text:loop"], "data.source = 'text:loop': no such file"),
    ([*RUN, "--data.source", "text:pipe"], "data.source = 'text:pipe': no such file"),
    ([*TOKENIZE, "dangling"], "--out dangling is there already"),
    ([*TOKENIZE, "loop/x"], "--out loop/x: cannot be written"),
    (["export", "x", "--out", "dangling"], "dangling is a symbolic link; choose another --out"),
    (["compare", "char_gpt_tiny", "--out", "loop"], "--out loop: not writable (loop: a link that"),
    (["describe", "char_gpt", "--json", "loop"], "--json loop: not writable (a link that leads n"),
    (["list", ".", "--table", "loop"], "loop: no such file"),
    (["eval", ""], "RUN is empty; name a run directory"),
    (["train", "char_gpt", "--workdir="], "--workdir needs a directory"),
]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / "config.json")
    return tmp_path


@pytest.mark.parametrize(("words", "told"), ROWS)
def test_a_name_that_cannot_be_used(folder, words, told):
    line = refused(folder, words, told.replace("\\\\", "\\"))
    assert line[:-1].isprintable()


@pytest.mark.parametrize("name", ["../a.bin", "/etc/passwd", "a/b", "..", "", ".", "a\0b", 3, None])
def test_a_file_that_an_index_may_not_name(tmp_path, name):
    file = {"file": name, "count": 1, "sha256": "0" * 64}
    split = {"text_bytes": 1, "shards": [file], "documents": file}
    held = {"format": 1, "source": "", "licence": "", "tokenizer": "bytes", "vocab_size": 256}
    held |= {"tokenizer_sha256": "0" * 64, "end_of_text": None, "dtype": "uint16"}
    held["splits"] = {"train": split, "validation": split}
    (tmp_path / "index.json").write_text(json.dumps(held))
    told = "splits.train.shards.0.file = "
    refused(tmp_path, ["train", "char_gpt", "--data.source", "tokens:."], told, "plain name of a")


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "a/b", "..", "", "a\0b"])
def test_a_file_that_an_index_of_weights_may_not_name(tmp_path, name):
    text = json.dumps({"weight_map": {"a": name}})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    words = [*RUN, "--init-from", "."]
    told = refused(tmp_path, words, "index")
    assert "outside of its folder" in told or "lacks files that its index names" in told


def test_the_real_command(tmp_path):
    (tmp_path / "dangling").symlink_to("nowhere")
    words = [sys.executable, "-m", "lmjax", *TRAIN, str(tmp_path / "dangling")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "a link that leads nowhere" in done.stderr


def test_a_prompt_may_name_anything(tmp_path):
    refused(tmp_path, ["sample", "x", "--prompt", "gs://a\0b"], "x is not a run directory")
