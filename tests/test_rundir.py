"""Run directories that are damaged, taken, or in the way: one line, and nothing is lost."""

import json
import shutil
from pathlib import Path

import pytest
from etils import epath

from lmjax import evaluate, rundir, train
from lmjax.data import Examples, Mixture, Tokens
from lmjax.errors import InputError
from lmjax.parts import replace


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_state(step: Path) -> None:
    shutil.rmtree(step / "state")


def without_record(step: Path) -> None:
    shutil.rmtree(step / "record")


def zeroed(folder: str):
    def damage(step: Path) -> None:
        files = [path for path in step.glob(folder) if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(bytes(path.stat().st_size))

    return damage


# What Orbax still had under way when it failed to read ends as callbacks of a loop that is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize(
    "damage",
    [without_state, without_record, zeroed("state/_METADATA"), zeroed("state/**/d/*")],
    ids=["no state", "no record", "zeroed metadata", "zeroed numbers"],
)
def test_a_damaged_checkpoint_is_one_line_in_every_verb(run, tiny_mlp, damage, capfd):
    (run / "result.json").unlink()
    damage(run / "checkpoints" / "12")
    before = content(run)
    for call in (
        lambda: evaluate.evaluate_run("run"),
        lambda: train.run(tiny_mlp, "run", strict=True),
        lambda: train.run(replace(tiny_mlp, "init_from", "run"), "new"),
    ):
        with pytest.raises(InputError, match=r"checkpoints/12.*: damaged") as error:
            call()
        assert "\n" not in str(error.value)
    assert content(run) == before | {run / "lock": b""}
    assert not Path("new").exists()
    assert capfd.readouterr() == ("", "")


def test_an_empty_step_is_named(run, tiny_mlp):
    (run / "checkpoints" / "99").mkdir()
    with pytest.raises(InputError, match="checkpoints/99: damaged, it has no state"):
        evaluate.evaluate_run("run")
    with pytest.raises(InputError, match="already at step 99"):
        train.run(tiny_mlp, "run")


def deep(text: str, *path: str, value) -> str:
    held = json.loads(text)
    inner = held
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(held)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["batch"], {}, "batch has no inputs, targets, weights"),
        (["batch"], [], r"batch = \[\]: damaged"),
        (["batch", "inputs"], [[10**30, 64], "float32"], r"batch\.inputs = .*must be a shape"),
        (["batch", "inputs"], [[10**9, 10**9], "float32"], r"(fit|head|hidden|its state takes)"),
        (["batch", "inputs"], [[32, 64], "nope"], r"batch\.inputs = .*'nope'.*must be a shape"),
        (["batch", "inputs"], [[], "float32"], "does not fit its model"),
        (["data"], {}, "data = {}: must be a name and a digest"),
        (["tokenizer"], 3, "tokenizer = 3: damaged"),
        (["experiment"], "../x", "experiment: name = '../x'"),
        (["config", "steps"], float("inf"), "steps = inf: must be int"),
        (["config", "task", "model", "classes"], 1, r"task\.model\.classes = 1: must be >= 2"),
    ],
)
def test_a_damaged_configuration_is_one_line(run, path, value, told):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(deep(text, *path, value=value))
    with pytest.raises(InputError, match=told) as error:
        evaluate.evaluate_run("run")
    assert "config.json" in str(error.value) or "fit this model" in str(error.value)
    assert "\n" not in str(error.value)


def test_brackets_without_end_are_no_configuration(run):
    (run / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        evaluate.evaluate_run("run")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda held: held.clear(), r"steps, validation, baselines, state_digest"),
        (lambda held: held.update(steps="5"), r"damaged \(steps\)"),
        (lambda held: held.update(baselines={}), r"damaged \(baselines\)"),
        (lambda held: held.update(baselines={"loss": {"a": "b"}}), r"damaged \(baselines\)"),
        (lambda held: held.update(validation={}), r"damaged \(validation\)"),
    ],
)
def test_a_damaged_result_is_one_line_that_says_what_to_do(run, tiny_mlp, change, told):
    held = json.loads((run / "result.json").read_text())
    change(held)
    (run / "result.json").write_text(json.dumps(held))
    with pytest.raises(InputError, match=rf"{told}.*; remove it"):
        train.run(tiny_mlp, "run", quiet=True)


@pytest.mark.parametrize("line", [b'{"kind": "train", "step": "x"}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_line_of_metrics_is_named_and_none_is_lost(run, tiny_mlp, line):
    (run / "result.json").unlink()
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([*lines[:4], line + b"\n", *lines[5:]]))
    before = content(run)
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 5 is damaged"):
        train.run(tiny_mlp, "run", quiet=True)
    assert content(run) == before | {run / "lock": b""}


@pytest.mark.parametrize("with_result", [True, False])
def test_fewer_steps_than_there_are_change_nothing(run, tiny_mlp, with_result):
    if not with_result:
        (run / "result.json").unlink()
    before = content(run)
    with pytest.raises(InputError, match="steps = 3: must be at least 12"):
        train.run(replace(tiny_mlp, "steps", 3), "run", quiet=True)
    assert content(run) == before


def test_a_finished_run_offers_more_steps_only_where_it_may_have_them(run, tiny_mlp, capsys):
    train.run(tiny_mlp, "run")
    told = capsys.readouterr().out
    assert "longer  uv run lmjax train tiny_mlp --steps 24 --workdir run" in told
    assert "resume" not in told


def test_what_a_process_leaves_that_dies_while_it_claims_is_in_nobody_s_way(run, tiny_mlp):
    for path in run.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "tokenizer.json").write_text("{}")
    (run / ".config.json.draft").write_text("{")
    dataset = tiny_mlp.load_data()
    rundir.check(epath.Path("run"), tiny_mlp, dataset)
    (run / "mine.txt").write_text("")
    with pytest.raises(InputError, match="not empty and holds no run"):
        rundir.check(epath.Path("run"), tiny_mlp, dataset)


@pytest.mark.parametrize(
    ("data", "run", "reads"),
    [
        (Examples(source="images:im"), "im/a/run", True),
        (Examples(source="images:im"), "image/run", False),
        (Examples(), "run", False),
        (Tokens(source="text:tx/**"), "tx/run", True),
        (Tokens(source="text:tx/**"), "tx", True),
        (Tokens(source="text:tx/**/*.txt"), "tx/a/run", True),
        (Tokens(source="text:./tx/../tx/**"), "tx/run", True),
        (Tokens(source="text:tx/**"), "text/run", False),
        (Tokens(source="text:*.txt"), "runs/a", False),
        (Tokens(source="text:*/*.txt"), "run", False),
        (Tokens(source="text:*/*"), "run", True),
        (Tokens(source="text:*/*/*.txt"), "run", True),  # a checkpoint has a file of this name
        (Tokens(source="text:a/*/*.json"), "b/run", False),
        (Tokens(source="text:[a].txt"), "[a].txt", False),
        (Tokens(source="tokens:ids/**"), "ids/run", True),
        (Tokens(), "run", False),
        (Mixture(sources=("python_docs", "text:tx/**"), weights=(1.0, 1.0)), "tx/run", True),
    ],
)
def test_a_run_may_not_lie_in_its_own_data(tmp_path, monkeypatch, data, run, reads):
    monkeypatch.chdir(tmp_path)
    assert data.reads(run) == reads


def test_a_run_in_its_own_data_is_refused_before_anything_is_written(
    tmp_path, tiny_gpt, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("tx").mkdir()
    Path("tx/a.txt").write_text("one text " * 200)
    experiment = replace(tiny_gpt, "data", Tokens(source="text:tx/**", sequence_length=16))
    with pytest.raises(InputError, match="would change its own data; choose another --workdir"):
        train.run(experiment, "tx/run", quiet=True)
    assert [path.name for path in Path("tx").iterdir()] == ["a.txt"]
