"""The command line as a user meets it; most in this process, a handful through the real command."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import digits_fcn
from lmjax import cli, train
from lmjax.parts import replace

ROOT = Path(__file__).parents[1]
SMALL = ["--steps", "4", "--batch-size", "16"]


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(*words: str, module: str = "lmjax") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def refused(capsys, *words: str) -> str:
    """The one line on stderr of a command that ends with 2."""
    assert cli.main(list(words)) == 2
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert "Traceback" not in output.err
    assert output.err.startswith("lmjax: ")
    return output.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "nearest: train"),
        (["train", "chr_gpt"], "nearest: char_gpt"),
        (["train", "nowhere.py"], "no such file"),
        (["train", "char_gpt", "--step", "20"], "nearest: --steps"),
        (["train", "char_gpt", "--steps", "many"], "--steps = many: must be a whole number"),
        (
            ["train", "char_gpt", "--optimizer.learning-rate", "-1"],
            "learning_rate = -1.0: must be > 0",
        ),
        (["train", "char_gpt", "--optimizer.learning-rate", "nan"], "learning_rate = nan"),
        (["train", "char_gpt", "optimizer:moun"], "nearest: muon"),
        (["train", "char_gpt", "--steps", "20"], "20 steps; add --schedule.warmup-steps 5"),
        (["train", "char_gpt", "--batch-size", "2147483647"], "batch_size = 2147483647: a batch"),
        (
            ["train", "char_gpt", "--task.model.vocab-size", "2147483647"],
            "take 4.398 TB on each",
        ),
        (["train", "char_gpt", "--task.model.depth", "9" * 20], "must be >= 1 and <= 2147483647"),
        (["train", "char_gpt", "--task.showcase-length", "100000000"], "must be >= 0 and <= 10000"),
        (["train", "char_gpt", "--init-from", "a\nb"], "a\\nb is not a run directory"),
        (["train", "char_gpt", "--optimizer.learning-rate", "a\nb"], "= a\\nb: must be a number"),
        (["train", "char_gpt", "--init-from", "x" * 300], "xxx: the name is too long"),
        (["train", "char_gpt", "--init-from", "run@\u0661"], "must be RUN, RUN@STEP or a folder"),
        (["train", f"{'x' * 300}.py"], "File name too long"),
        (["describe", f"{'x' * 300}.py"], "File name too long"),
        (["describe", "digits_fcn", "--data.held-out", "1700"], "data.held_out = 1700"),
        (["sample", "nowhere", "--length", "9" * 20], "length = 99999999999999999999: must be"),
        (["sample", "nowhere", "--length", "1_0"], "'1_0' must be a whole number"),
        (["sample", "nowhere", "--temperature", "\u0661"], "must be a number"),
        (["sample", "nowhere", "--temperature", "1e-300"], "temperature = 1e-300: is 0 in float32"),
        (["sample", "nowhere", "--temperature", "1e300"], "must be finite in float32"),
        (["sample", "nowhere", "--top-p", "1e-320"], "must be > 0 and <= 1 in float32"),
        (["train", "char_gpt", "--data.source", "python_dosc"], "nearest: python_docs"),
        (["train", "char_gpt", "--data.sequence-length", "256"], "task.model.max_length 128"),
        (["train", "char_gpt", "task:classification"], "needs labels"),
        (["train", "char_gpt", "task.model:mlp"], "known: gpt"),
        (["train", "digits_fcn", "--task.model.window", "8"], "task.model.window"),
        (["train", "digits_fcn", "--task.model.classes", "9"], "task.model.classes = 9"),
        (["train", "char_gpt", "--workdir"], "--workdir needs a directory"),
        (["sample"], "run"),
        (["sample", "nowhere"], "nowhere is not a run directory"),
        (["sample", "nowhere", "--length", "0"], "length = 0"),
        (["sample", "nowhere", "--temperature", "-1"], "temperature"),
        (["sample", "nowhere", "--top-p", "0"], "top_p = 0.0: must be > 0 and <= 1"),
        (["describe"], "needs the name"),
        (["describe", "chr_gpt"], "nearest: char_gpt"),
        (["describe", "char_gpt", "--json"], "--json needs a path"),
        (["describe", "char_gpt", "--json", "no/where.json"], "--json no/where.json: not writable"),
        (["describe", "char_gpt", "--data.sequence-length", "256"], "task.model.max_length 128"),
        (["describe", "char_gpt", "--task.model.depth", "0"], "task.model.depth = 0"),
        (["train", "digits_fcn", "--profile"], "--profile needs START:STOP"),
        (["train", "digits_fcn", "--profile", "9"], "--profile 9: must be START:STOP"),
        (["train", "digits_fcn", "--profile", "0:9"], "must be 1 <= START < STOP <= 2000"),
        (["train", "digits_fcn", "--profile", "9:2001"], "must be 1 <= START < STOP <= 2000"),
        (["eval"], "run"),
        (["eval", "nowhere"], "nowhere is not a run directory"),
        (["eval", "nowhere", "--step", "x"], "--step"),
        (["eval", ""], "RUN is empty"),
        (["sample", ""], "RUN is empty"),
        (["sample", "/dev/null"], "/dev/null is a file, not a run directory"),
        # Before it is computed what would be lost, and before the run is looked for.
        (["eval", "nowhere", "--json", "no/x.json"], "--json no/x.json: not writable"),
        (["eval", "nowhere", "--json", "."], "--json .: not writable (is a folder)"),
        (["list", ""], "no such directory"),
        (["list", "nowhere"], "nowhere: no such directory"),
        (["list", ".", "--jso", "x"], "unrecognized arguments: --jso"),
        (["list", ".", "--table", "nowhere.md"], "nowhere.md: no such file"),
        (["list", ".", "--json", "no/where.json"], "--json no/where.json: not writable"),
    ],
)
def test_bad_input_is_one_line_and_two(capsys, words, told):
    assert told in refused(capsys, *words)
    assert not Path("runs").exists()


def test_modules_that_are_no_experiments_are_refused(capsys):
    Path("empty.py").write_text("")
    assert "no config()" in refused(capsys, "train", "empty.py")
    Path("wrong.py").write_text("def config():\n    return 3\n")
    assert "must return an Experiment" in refused(capsys, "train", "wrong.py")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = 1\ndef config(:\n", "mine.py, line 2: SyntaxError: invalid syntax"),
        ("\nimport nowhere_at_all\n", "mine.py, line 2: ModuleNotFoundError: No module named"),
        ("def config():\n    raise ValueError('one\\ntwo')\n", "line 2: ValueError: one two"),
        ("def config():\n    return int('x')\n", "line 2: ValueError: invalid literal"),
        ("from lmjax.errors import InputError\nraise InputError('no')\n", "mine.py: no"),
        ("x = '\0'\n", "mine.py"),
    ],
)
def test_what_a_file_of_one_s_own_raises_is_told_with_its_line(capsys, code, told):
    Path("mine.py").write_text(code)
    assert told in refused(capsys, "train", "mine.py")
    assert told in refused(capsys, "describe", "mine.py")


def test_a_file_of_one_s_own_takes_no_module_s_name():
    import re

    Path("re.py").write_text("from experiments.digits_fcn import config\n")
    Path("binary.py").write_bytes(bytes(range(256)))
    assert cli.main(["describe", "re.py"]) == 0
    assert sys.modules["re"] is re
    assert cli.main(["describe", "binary.py"]) == 2


def test_what_was_computed_is_told_before_it_is_written(capsys):
    """/dev/full takes no byte, and nobody can know before."""
    assert cli.main(["list", ".", "--json", "/dev/full"]) == 2
    told = capsys.readouterr()
    assert told.out == "no runs\n"
    assert "--json /dev/full: not writable" in told.err


def test_a_directory_below_a_file_is_not_writable(capsys):
    Path("file").write_text("")
    assert "not writable" in refused(capsys, "train", "digits_fcn", "--workdir", "file/run")


def test_a_loss_that_is_not_finite_ends_with_one(capsys):
    words = ["train", "digits_fcn", *SMALL, "--optimizer.learning-rate", "1e30"]
    assert cli.main(words) == 1
    assert capsys.readouterr().err.startswith("lmjax: step ")


@pytest.mark.smoke
def test_the_three_ways_to_launch_are_the_same_call(capsys):
    words = [*SMALL, "--optimizer.learning-rate", "0.2"]
    assert cli.main(["train", "digits_fcn", *words, "--workdir", "a"]) == 0
    Path("mine.py").write_text("from experiments.digits_fcn import config\n")
    assert cli.main(["train", "mine.py", *words, "--workdir", "b"]) == 0
    module = command(*words, "--workdir", "c", module="experiments.digits_fcn")
    assert module.returncode == 0, module.stderr
    experiment = digits_fcn.config()
    for path, value in [("steps", 4), ("batch_size", 16), ("optimizer.learning_rate", 0.2)]:
        experiment = replace(experiment, path, value)
    train.run(experiment, "d", quiet=True)
    digests = {json.loads(Path(name, "result.json").read_text())["state_digest"] for name in "abcd"}
    assert len(digests) == 1
    held = json.loads(Path("a/config.json").read_text())
    assert held["overrides"] == {
        "optimizer.learning_rate": [0.1, 0.2],
        "steps": [2000, 4],
        "batch_size": [128, 16],
    }
    assert held["config"] == json.loads(Path("d/config.json").read_text())["config"]


@pytest.mark.smoke
def test_the_lines_that_a_run_prints_do_what_they_say(capsys):
    words = [
        "train",
        "char_gpt",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--task.model.depth",
        "1",
        "--task.model.width",
        "16",
        "--task.model.unroll",
        "1",
        "--task.showcase-length",
        "5",
        "--schedule.warmup-steps",
        "0",
    ]
    assert cli.main(words) == 0
    told = dict(
        line.split(maxsplit=1)
        for line in capsys.readouterr().out.splitlines()
        if line.split(" ")[0] in ("resume", "longer", "sample", "load")
    )
    assert told.keys() == {"sample", "load"}  # no more steps under a schedule that counts them

    assert told["sample"].startswith("uv run lmjax sample")
    assert cli.main([*shlex.split(told["sample"])[3:], "--length", "9"]) == 0
    written = capsys.readouterr().out
    assert written.startswith("The")
    assert len(written.encode()) >= 9
    prompts = ["--prompt", "A", "--prompt", "Bcd", "--length", "3", "--top-k", "5"]
    assert cli.main(["sample", shlex.split(told["sample"])[4], *prompts]) == 0
    first, second = capsys.readouterr().out.split("\n---\n")
    assert (first[0], second[:3]) == ("A", "Bcd")

    names: dict = {}
    exec(told["load"], names)
    assert names["run"].step == 2
    assert names["run"].params["embedding"].shape == (256, 16)


def test_the_line_that_gives_a_file_of_one_s_own_more_steps_does(capsys):
    folder = Path("a folder")
    folder.mkdir()
    (folder / "mine.py").write_text("from experiments.digits_fcn import config\n")
    words = [*SMALL, "schedule:constant", "--name", "other", "--workdir", "a run"]
    assert cli.main(["train", "a folder/mine.py", *words]) == 0
    told = capsys.readouterr().out
    line = next(x for x in told.splitlines() if x.startswith("longer"))
    assert cli.main(shlex.split(line)[4:]) == 0
    assert "resumed from step 4 of 8" in capsys.readouterr().out
    held = Path("a run/config.json").read_bytes()
    assert "steps = 4: must be at least 8" in refused(capsys, "train", "a folder/mine.py", *words)
    assert Path("a run/config.json").read_bytes() == held


def test_a_config_that_lacks_a_field_is_refused(capsys):
    assert cli.main(["train", "digits_fcn", *SMALL, "--workdir", "run"]) == 0
    held = json.loads(Path("run/config.json").read_text())
    del held["data"]
    Path("run/config.json").write_text(json.dumps(held))
    capsys.readouterr()
    assert "no field data" in refused(capsys, "train", "digits_fcn", *SMALL, "--workdir", "run")
    assert "no field data" in refused(capsys, "sample", "run")


def test_a_finished_run_is_listed_evaluated_and_put_into_a_table(capsys):
    assert cli.main(["train", "digits_fcn", *SMALL, "--workdir", "run"]) == 0
    result = json.loads(Path("run/result.json").read_text())
    capsys.readouterr()
    Path("table.md").write_text("<!-- results: begin -->\n<!-- results: end -->\n")
    assert cli.main(["list", ".", "--json", "list.json", "--table", "table.md"]) == 0
    assert "run  finished  4/4   accuracy" in capsys.readouterr().out
    (listed,) = json.loads(Path("list.json").read_text())["runs"]
    assert listed["value"] == result["validation"]["accuracy"]
    assert "| digits_fcn --steps 4 --batch-size 16 | Does the" in Path("table.md").read_text()

    assert cli.main(["eval", "run", "--json", "eval.json"]) == 0
    assert "beside commonest class" in capsys.readouterr().out
    assert json.loads(Path("eval.json").read_text())["validation"] == result["validation"]
    for words, told in (
        (["--step", "3"], "has no step 3; it has [4]"),
        (["--steps", "3"], "only --data.FIELD may be changed"),
        (["--data.held-out", "0"], "data.held_out = 0"),
        (["--data.heldout", "10"], "nearest: --data.held-out"),
        (["data:tokens"], "needs labels"),
        (["--data.held-out", "1700"], "data.held_out = 1700"),
    ):
        assert told in refused(capsys, "eval", "run", *words)


def test_a_run_that_writes_no_text_is_not_sampled(capsys):
    assert cli.main(["train", "digits_fcn", *SMALL, "--workdir", "run"]) == 0
    assert "writes no text" in refused(capsys, "sample", "run")


def test_help_lists_fields_defaults_and_parts(capsys):
    assert cli.main(["train", "char_gpt", "optimizer:muon", "--help"]) == 0
    told = capsys.readouterr().out
    for part in (
        "--optimizer.momentum",
        "0.95",
        "optimizer:{ada",
        ",muon,muon-optax,nadamw,",
        "schedule:{constant,cosine,exponential,infinite-cosine,inverse-sqrt,linear,one-cycle,",
        "--workdir",
        "--strict",
        "--on-nonfinite {stop,skip,rollback}",
    ):
        assert part in told
    assert "--optimizer.b1" not in told
    for words in (["--strict"], []):
        assert cli.main(["train", "char_gpt", "optimizer:muon", *words, "--help"]) == 0
        assert capsys.readouterr().out == told
    assert cli.main(["--help"]) == 0
    assert "\n  --strict  " in capsys.readouterr().out


def test_describe_prints_the_roles_table(capsys):
    assert (
        cli.main(["describe", "char_gpt", "--task.model.depth", "2", "--task.model.unroll", "1"])
        == 0
    )
    told = capsys.readouterr().out
    row = next(line for line in told.splitlines() if line.startswith("layers/attention/qkv "))
    assert "2 x 128 x 4 x 3 x 32  layers embed heads qkv head_dim" in row
    assert f"{256 * 128 + 128 * 128 + 2 * (12 * 128**2 + 13 * 128) + 2 * 128:,} parameters" in told


def test_doctor_names_versions_devices_and_pairing(capsys):
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    for part in ("jax ", "flax ", "optax ", "fits", "device   0: cpu"):
        assert part in told


def test_doctor_tells_a_pair_that_does_not_fit():
    from lmjax.doctor import PACKAGES, pairing

    versions = dict.fromkeys(PACKAGES, "0.0.1")
    assert "does NOT fit" in pairing(versions)


def test_the_real_command_answers_and_refuses():
    begun = time.monotonic()
    told = command("--help")
    assert told.returncode == 0
    assert "train [NAME|PATH.py]" in told.stdout
    assert time.monotonic() - begun < 5  # the README's second is measured by hand, not here
    refused = command("train", "char_gpt", "--steps", "-5")
    assert refused.returncode == 2
    assert refused.stderr == "lmjax: steps = -5: must be >= 1\n"
    assert refused.stdout == ""


def test_neither_import_nor_help_brings_in_jax():
    code = (
        "import sys, lmjax, lmjax.cli; lmjax.cli.main(['--help']);"
        "sys.exit(bool({'jax', 'tyro', 'numpy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True
        ).returncode
        == 0
    )
    code = code.replace("lmjax.cli;", "lmjax.cli, lmjax.train;")
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True
        ).returncode
        == 1
    )


def test_importing_everything_has_no_effect():
    """No device is touched, no flag, environment variable or configuration is changed."""
    code = """
import os, sys
before = dict(os.environ)
import jax
config = dict(jax.config.values)
import lmjax.train, lmjax.load, lmjax.sample, lmjax.cli, lmjax.doctor, lmjax.summary
import lmjax.describe, lmjax.evaluate, lmjax.flops, lmjax.profile, lmjax.results, lmjax.runs
import experiments.char_gpt, experiments.digits_fcn, experiments.mlp_backprop
from jax._src import xla_bridge
assert not xla_bridge._backends
assert dict(os.environ) == before
changed = {k for k, v in jax.config.values.items() if config.get(k) != v}
assert not changed, changed
heavy = {"tyro", "tensorflow_datasets", "grain", "array_record", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
