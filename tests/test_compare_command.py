"""`lmjax compare` refuses in one line what cannot be compared, and tells what it would do."""

import dataclasses
import json
import subprocess
import sys

import pytest

from lmjax import catalog, overrides
from lmjax.cli import main, parse_value
from lmjax.compare import command, fairness, spaces, variants
from lmjax.compare.plan import evaluation_steps, from_full_record, full_record
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.optim import SOAP, LogGrid, Muon
from lmjax.parts import replace, swap

LONG = (  # words whose label is longer than labels may be
    "optimizer:adamw schedule:wsd --optimizer.b1 0.9 --optimizer.b2 0.99 "
    "--optimizer.weight-decay 0.01 --schedule.decay-fraction 0."
)
TINY = ["compare", "digits_fcn", "--steps", "4", "--batch-size", "8", "--trials", "3"]


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    """The one line on stderr."""
    few = [] if {"--optimizers", "--axis"} & set(words) else ["--optimizers", "adamw", "sgd"]
    assert main([*TINY, *few, *words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    return line.removeprefix("lmjax: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--optimizers", "adamw", "moun"], "unknown optimizer 'moun'; nearest: muon"),
        (["--optimizers", "adamw", "adamw"], "variant 'adamw' is given twice"),
        (["--optimizers", "adamw"], "a comparison needs 2 variants or more, and has 1"),
        (["--seeds", "1"], "--seeds: 1 seed; must be at least 2: from one seed nothing tells"),
        (["--seeds", "0"], "--seeds: 0 seed; must be at least 2"),
        (["--seeds", "five"], "--seeds five: must be how many (5) or which (3,7,9"),
        (["--seeds", "3,3,4"], "--seeds: a seed is given twice"),
        (["--seeds", "0,-1"], "--seeds: seeds must be >= 0"),
        (["--tune-seeds", "0"], "--tune-seeds: must be at least 1"),
        (["--tune-seeds", "9,4"], "--tune-seeds: 4 is a report seed too"),
        (["--seeds", "1001"], "--seeds: 1001 seeds; at most 1000"),
        (["--trials", "2"], "--trials 2: must be 3 to 50"),
        (["--trials", "x"], "compare EXPERIMENT [OVERRIDES]: argument --trials"),
        (["--metric", "acuracy"], "unknown metric 'acuracy'; nearest: accuracy"),
        (["--baseline", "adam"], "unknown baseline 'adam'; nearest: adamw"),
        (["--steps", "0"], "adamw: steps = 0: must be >= 1"),
        (["--stepz", "9"], "unknown option '--stepz'; nearest: --steps"),
        (["--axis", "schedule:cosin", "schedule:wsd"], "unknown schedule 'cosin'; nearest: cosine"),
        (["--axis", "task.model.depth=2,4"], "unknown option '--task.model.depth'; it is a field"),
        (["--axis", "task.model.hidden=2,2"], "variant 'hidden=2' is given twice"),
        (
            ["--axis", "a: schedule:wsd", "b: schedule:wsd"],
            "variants 'a' and 'b' differ in nothing",
        ),
        (["--axis", "log-every=1,2"], "variants 'log_every=1' and 'log_every=2' differ in nothing"),
        (["--axis", "seed=1,2"], "seed=1: seed: every variant is run with all of --seeds"),
        (["--axis", "optimizer.learning-rate=1,2"], "--optimizer.learning-rate is tuned for each"),
        (["--axis", "task.model.hidden=0,4"], "hidden=0: task.model.hidden = 0: must be >= 1"),
        (["--axis", "optimizer:muon '"], '--axis "optimizer:muon \'": No closing quotation'),
        (["--axis", "schedule:wsd", "--optimizers", "muon"], "--optimizers and --axis: give one"),
        (["--learning-rates", "0.1"], "--learning-rates: 1 rates; must be 2 to 3"),
        (["--learning-rates", ".1", ".1"], "--learning-rates: a rate is given twice"),
        (["--learning-rates", ".1", "-1"], "--learning-rates: rates must be > 0"),
        (
            ["--learning-rates", "1e-300", ".1"],
            "--learning-rates: rates must be > 0 and finite, al",
        ),
        (["--axis", LONG + "1", LONG + "2"], "variant 'adamw+wsd+b1=0.9"),
        (["--learning-rates", ".1", ".12345678"], "--learning-rates: rates may have 6 digits"),
        (["--space", "nowhere.json"], "--space nowhere.json: cannot be read (No such file"),
        (["--strategy", "magic"], "compare EXPERIMENT [OVERRIDES]: argument --strategy"),
        (["--out", ""], "--out is empty"),
        (["--init-from", "runs/x"], "adamw: init_from = 'runs/x': must be empty"),
    ],
)
def test_bad_input_is_one_line(capsys, words, told):
    assert refused(capsys, *words).startswith(told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digits_fnc"], "lmjax: unknown experiment 'digits_fnc'; nearest: digits_fcn\n"),
        ([], "lmjax: compare needs the name of an experiment\n"),
        (["--seeds", "3"], "lmjax: compare needs the name of an experiment\n"),
    ],
)
def test_an_experiment_that_does_not_exist(capsys, words, told):
    assert main(["compare", *words]) == 2
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ("[]", "must be an object"),
        ("{", "not JSON"),
        ('{"adamv": {}}', "unknown variant 'adamv'; nearest: adamw"),
        ('{"adamw": []}', "adamw: must be an object of hyper-parameters"),
        ('{"adamw": {"lerning_rate": [0.1]}}', "unknown hyper-parameter of adamw 'lerning_rate'"),
        ('{"adamw": {"b1": [0.9]}}', "adamw: b1 is not tuned, the learning_rate alone is"),
        ('{"adamw": {}}', "adamw: no learning_rate"),
        ('{"adamw": {"learning_rate": 1}}', "adamw.learning_rate: must be a list of values"),
        ('{"adamw": {"learning_rate": [0.1, "x"]}}', "adamw.learning_rate = 'x': must be a number"),
        ('{"adamw": {"learning_rate": [0.1, 0.0]}}', "adamw: learning_rate = 0.0: must be > 0"),
        ('{"adamw": {"learning_rate": {"low": 1}}}', "adamw.learning_rate: a grid needs high"),
        ('{"adamw": {"learning_rate": {"lo": 1}}}', "unknown field of a grid 'lo'; nearest: low"),
        ('{"adamw": {"learning_rate": {"low": "1"}}}', "adamw.learning_rate.low = '1': must be"),
        ('{"adamw": {"learning_rate": {"low": 2, "high": 4}}}', "must begin with one of"),
        ('{"adamw": {"learning_rate": {"per_decade": 2.0}}}', "per_decade = 2.0: must be a whole"),
    ],
)
def test_a_space_that_cannot_be_used(capsys, tmp_path, held, told):
    file = tmp_path / "space.json"
    file.write_text(held)
    line = refused(capsys, "--space", str(file))
    assert line.startswith(f"--space {file}: ")
    assert told in line


def test_a_directory_that_is_none_of_a_comparison(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    told = refused(capsys, "--out", str(tmp_path))
    assert told == f"--out {tmp_path}: not empty and no comparison; choose another"
    file = tmp_path / "notes.txt"
    for out in (file, file / "deeper"):
        told = refused(capsys, "--out", str(out))
        assert told == f"--out {out}: not writable ({file}: not a directory)"
    text = tmp_path / "texts"
    text.mkdir()
    (text / "a.txt").write_text("some words " * 400)
    words = ["compare", "char_gpt", "--data.source", f"text:{text}/**", "--out", str(text / "out")]
    assert main([*words, "--optimizers", "adamw", "sgd"]) == 2
    assert "adamw would read what lies there as data" in capsys.readouterr().err


@pytest.fixture
def gpt() -> Experiment:
    """A language model's experiment, with a clip and an average of its own."""
    base = catalog.find("char_gpt")
    return overrides.apply(base, ["--optimizer.ema-decay", "0.9"], parse_value)


def test_an_optimizer_keeps_what_belongs_to_no_single_one(gpt):
    own, muon = variants.of_optimizers(gpt, ["adamw", "muon"], parse_value)
    assert own.experiment == gpt  # b2 .99 and decay .1 included
    assert own.words == ()
    assert muon.experiment.optimizer == Muon(clip_norm=1.0, ema_decay=0.9)
    assert overrides.apply(gpt, list(muon.words), parse_value) == muon.experiment
    assert swap(gpt, "optimizer", "muon").optimizer != muon.experiment.optimizer  # a bare swap


def test_matrix_methods_share_the_auxiliary_of_the_experiment(gpt):
    words = ["optimizer:muon", "--optimizer.auxiliary.learning-rate", "0.01"]
    base = overrides.apply(gpt, words, parse_value)
    muon, soap, adamw = variants.of_optimizers(base, ["muon", "soap", "adamw"], parse_value)
    assert isinstance(soap.experiment.optimizer, SOAP)
    assert soap.experiment.optimizer.auxiliary == muon.experiment.optimizer.auxiliary
    assert soap.experiment.optimizer.auxiliary.learning_rate == 0.01
    assert adamw.experiment.optimizer.label == "adamw"


@pytest.mark.parametrize(
    ("items", "labels"),
    [
        (["schedule:cosine", "schedule:wsd"], ["cosine", "wsd"]),
        (["task.model.depth=2,4,8"], ["depth=2", "depth=4", "depth=8"]),
        (["schedule=cosine,wsd"], ["cosine", "wsd"]),
        (
            [
                "optimizer:muon --optimizer.momentum 0.9",
                "long name: optimizer:muon",
                "optimizer:muon",
            ],
            None,
        ),
        (
            ["optimizer:muon --optimizer.momentum 0.9", "other: optimizer:muon"],
            ["muon+momentum=0.9", "other"],
        ),
        (["--steps 30 --batch-size 4", "schedule:wsd"], ["steps=30+batch_size=4", "wsd"]),
    ],
)
def test_an_axis_is_any_words(gpt, items, labels):
    if labels is None:
        with pytest.raises(InputError):
            variants.of_axis(gpt, items, parse_value)
        return
    made = variants.of_axis(gpt, items, parse_value)
    assert [variant.label for variant in made] == labels
    for variant in made:
        assert overrides.apply(gpt, list(variant.words), parse_value) == variant.experiment


@pytest.mark.parametrize(
    ("grid", "around", "found"),
    [
        (LogGrid(1e-5, 1e-1), 1e-3, (1e-4, 1e-3, 1e-2)),
        (LogGrid(1e-4, 1.0), 0.02, (3e-3, 3e-2, 0.3)),
        (LogGrid(1e-2, 1.0), 1.0, (1e-2, 0.1, 1.0)),  # moved to where the grid is
        (LogGrid(0.1, 1.0), 0.3, (0.1, 0.3, 1.0)),  # too short for decades
        (LogGrid(0.1, 0.3), 0.3, (0.1, 0.3)),
        (LogGrid(1e-3, 10.0, per_decade=1), 0.1, (1e-2, 0.1, 1.0)),
        (LogGrid(1e-3, 10.0, per_decade=3), 0.1, (1e-2, 0.1, 1.0)),
    ],
)
def test_the_first_rates_are_a_decade_apart(grid, around, found):
    assert spaces.decades(grid, around) == found


def test_a_cell_is_evaluated_evenly_from_first_to_last():
    assert evaluation_steps(2000) == tuple(range(0, 2001, 100))
    assert evaluation_steps(3) == (0, 1, 2, 3)
    assert evaluation_steps(30)[:3] == (0, 2, 3)
    assert len(evaluation_steps(30)) == 21


def test_the_report_says_which_leaves_the_auxiliary_moves_in_each_method():
    words = [*TINY[2:], "--optimizers", "adamw", "muon", "soap", "mars"]
    given, rest = command.parser().parse_known_args(words)
    base = overrides.apply(catalog.find("digits_fcn"), rest, parse_value)
    plan, _ = command.make("digits_fcn", base, given, parse_value)
    told = fairness.auxiliary(plan)
    assert told == (
        "embeddings, output head, biases and norms in muon, soap; biases and norms in mars: "
        "the same AdamW in all (rate 0.003, b1 0.9, b2 0.95)"
    )
    *others, mars = plan.variants
    quick = replace(mars.experiment, "optimizer.auxiliary.learning_rate", 0.1)
    apart = plan._replace(variants=(*others, mars._replace(experiment=quick)))
    assert (fairness.auxiliary(apart) or "").endswith(": AdamW with other settings in each")


def test_a_plan_is_made_of_words_and_of_its_record(tmp_path):
    given, rest = command.parser().parse_known_args([*TINY[2:], "--optimizers", "adamw", "muon"])
    base = overrides.apply(catalog.find("digits_fcn"), rest, parse_value)
    plan, _ = command.make("digits_fcn", base, given, parse_value)
    assert plan.baseline == "adamw"
    assert plan.cells == 2 * (3 + 5)
    assert plan.tune_seeds == (1000,)
    assert from_full_record(json.loads(json.dumps(full_record(plan))), "x") == plan
    other = plan._replace(base=dataclasses.replace(base, log_every=3))
    assert other.digest() == plan.digest()  # decides no number
    for change in ({"trials": 4}, {"report_seeds": (0, 1)}, {"baseline": "muon"}):
        assert plan._replace(**change).digest() != plan.digest()


def test_a_dry_run_tells_and_writes_nothing(capsys, tmp_path):
    out = tmp_path / "out"
    words = ["--optimizers", "adamw", "sgd", "--seeds", "2", "--dry-run", "--out", str(out)]
    assert main([*TINY, *words, "--tune-seeds", "1"]) == 0
    told = capsys.readouterr().out
    assert "10 cells: 2 variants x (3 trials on 1 tuning seed + 2 report seeds)" in told
    assert "adamw (baseline)  0.0001 0.001 0.01" in told
    assert "time: about 0:00:0" in told
    assert "settings beside the rate: all at their defaults" in told
    assert not out.exists()


def test_what_the_experiment_s_own_optimizer_keeps_is_told(gpt):
    given, rest = command.parser().parse_known_args(["--optimizers", "adamw", "muon"])
    plan, _ = command.make("char_gpt", overrides.apply(gpt, rest, parse_value), given, parse_value)
    row = fairness.settings(plan)
    assert not row["holds"]
    assert row["proof"] == (
        "adamw (the experiment's own): weight_decay 0.1 (default 0.01), b2 0.99 (default 0.999); "
        "in all: clip_norm 1.0 (default 0.0), ema_decay 0.9 (default 0.0)"
    )
    plain = overrides.apply(
        gpt, ["--optimizer.b2", "0.999", "--optimizer.weight-decay", "0.01"], parse_value
    )
    plan, _ = command.make("char_gpt", plain, given, parse_value)
    assert fairness.settings(plan)["holds"]


def test_the_help_of_lmjax_needs_no_jax():
    code = (
        "import sys; from lmjax.cli import main; main(['--help']); assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compare NAME|PATH.py [OVERRIDES]" in done.stdout
