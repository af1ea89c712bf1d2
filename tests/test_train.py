"""Runs: what they leave behind, how they go on, what they refuse."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from lmjax import feed, rundir, runfiles, train
from lmjax.checkpoint import Checkpoints
from lmjax.errors import InputError, RunError
from lmjax.experiment import Experiment
from lmjax.load import load
from lmjax.optim import SGD, Cosine
from lmjax.parts import replace
from lmjax.state import leaves_not_finite, state_digest


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(experiment: Experiment, workdir: str | None = "run", **options):
    return train.run(experiment, workdir, quiet=True, **options)


def lines(workdir: str = "run") -> list[dict]:
    return [json.loads(line) for line in Path(workdir, runfiles.METRICS).read_text().splitlines()]


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def run_killed_at(step: int, experiment: Experiment, monkeypatch, workdir: str = "run") -> None:
    """A run that dies right after step `step` was dispatched, its checkpoints so far committed."""
    real = train.is_due

    def dies(now: int, every: int, last: int) -> bool:
        if now == step:
            raise Killed
        return real(now, every, last)

    monkeypatch.setattr(train, "is_due", dies)
    with pytest.raises(Killed):
        run(experiment, workdir)
    monkeypatch.setattr(train, "is_due", real)


def test_a_run_leaves_its_whole_record(tiny_gpt):
    result = run(tiny_gpt)
    held = json.loads(Path("run", runfiles.RESULT).read_text())
    assert held == result
    assert result["steps"] == 20
    assert result["seed"] == 0
    assert result["experiment"] == "tiny_gpt"
    assert result["parameters"] == 256 * 16 + 16 * 16 + 2 * (12 * 16**2 + 13 * 16) + 2 * 16
    assert result["tokens_per_second"] > 0
    assert 0 < result["validation"]["bits_per_byte"] < 8
    assert math.isclose(
        result["validation"]["bits_per_byte"],
        result["validation"]["loss"] / math.log(2),
        rel_tol=1e-6,
    )
    assert result["baselines"]["bits_per_byte"].keys() == {"unigram", "bigram", "trigram"}
    config = json.loads(Path("run", runfiles.CONFIG).read_text())
    assert config["config"]["optimizer"]["b1"] == 0.9
    assert config["overrides"] == {}
    assert [(x["kind"], x["step"]) for x in lines() if x["kind"] == "train"] == [
        ("train", step) for step in range(1, 21)
    ]
    assert [x["step"] for x in lines() if x["kind"] == "validation"] == [10, 20]
    assert result["validation"].items() <= lines()[-1].items()


def test_the_events_can_be_read_by_tensorboard(tiny_mlp):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tiny_mlp)
    events = EventAccumulator(str(Path("run", runfiles.EVENTS)))
    events.Reload()
    told = {(event.step, round(event.value, 4)) for event in events.Scalars("train/loss")}
    assert told
    assert told <= {(x["step"], round(x["loss"], 4)) for x in lines() if x["kind"] == "train"}


def test_the_loss_falls_and_the_same_seed_gives_the_same_files(tiny_gpt):
    one, two = run(tiny_gpt, "one"), run(tiny_gpt, "two")
    other = run(replace(tiny_gpt, "seed", 1), "other")
    losses = [x["loss"] for x in lines("one") if x["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.5
    assert one["state_digest"] == two["state_digest"] != other["state_digest"]
    assert Path("one/metrics.jsonl").read_bytes() == Path("two/metrics.jsonl").read_bytes()
    assert lines("one")[0]["loss"] != lines("other")[0]["loss"]


@pytest.mark.bits
@pytest.mark.smoke
@pytest.mark.parametrize("step", [1, 6, 8, 14, 20])
def test_a_killed_run_resumes_to_the_bits_of_the_unbroken_one(tiny_gpt, step, monkeypatch):
    unbroken = run(tiny_gpt, "unbroken")
    run_killed_at(step, tiny_gpt, monkeypatch)
    resumed = run(tiny_gpt)
    assert resumed["state_digest"] == unbroken["state_digest"]
    assert resumed["validation"] == unbroken["validation"]
    for name in ("metrics.jsonl", "trace.jsonl"):
        assert Path("run", name).read_bytes() == Path("unbroken", name).read_bytes()


@pytest.mark.bits
def test_a_run_resumed_at_another_batch_is_told_apart(tiny_gpt, monkeypatch):
    """Negative control: one batch off, and neither digest nor metrics agree."""
    unbroken = run(tiny_gpt, "unbroken")
    run_killed_at(8, tiny_gpt, monkeypatch)
    real = train.batches
    monkeypatch.setattr(train, "batches", lambda run, start: real(run, start - 1))
    resumed = run(tiny_gpt)
    assert resumed["state_digest"] != unbroken["state_digest"]
    assert lines("run")[:7] == lines("unbroken")[:7]
    assert lines("run")[7] != lines("unbroken")[7]


@pytest.mark.bits
@pytest.mark.smoke
def test_initial_state_and_result_are_pinned_to_the_seed(tiny_mlp):
    program = train.compile_program(tiny_mlp, train.prepare(tiny_mlp)[1])
    one, two = (state_digest(program.init(program.knobs)) for _ in range(2))
    other = program.init(
        program.knobs._replace(seed=jax.device_put(np.uint32(1), program.knobs.seed.sharding))
    )
    assert one == two != state_digest(other)


def test_a_torn_last_line_is_mended(tiny_mlp, monkeypatch):
    run(tiny_mlp, "unbroken")
    run_killed_at(9, tiny_mlp, monkeypatch)
    with Path("run/metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6, "lo')
    run(tiny_mlp)
    assert Path("run/metrics.jsonl").read_bytes() == Path("unbroken/metrics.jsonl").read_bytes()


def test_a_finished_run_says_so_and_computes_nothing(tiny_mlp, capsys, monkeypatch):
    result = run(tiny_mlp)
    monkeypatch.setattr(train, "compile_program", None)
    assert train.run(tiny_mlp, "run") == result
    told = capsys.readouterr().out
    assert "finished at step 12" in told
    assert result["state_digest"][:16] in told


def test_a_run_that_died_before_its_result_finishes(tiny_mlp):
    result = run(tiny_mlp)
    Path("run", runfiles.RESULT).unlink()
    again = run(tiny_mlp)
    assert again["state_digest"] == result["state_digest"]
    assert [x["step"] for x in lines() if x["kind"] == "validation"] == [12]


def test_a_changed_configuration_is_refused_field_by_field(tiny_gpt):
    run(tiny_gpt)
    changed = replace(replace(tiny_gpt, "optimizer.learning_rate", 0.5), "task.model.depth", 1)
    with pytest.raises(InputError) as error:
        run(changed)
    assert "optimizer.learning_rate: 0.01 -> 0.5" in str(error.value)
    assert "task.model.depth: 2 -> 1" in str(error.value)
    assert "steps" not in str(error.value)
    with pytest.raises(InputError, match="steps: 20 -> 30"):
        run(replace(tiny_gpt, "steps", 30))
    with pytest.raises(InputError, match="optimizer: 'adamw' -> 'sgd'"):
        run(replace(tiny_gpt, "optimizer", SGD()))


def test_cadence_may_change_and_a_constant_schedule_may_go_on(tiny_mlp):
    run(tiny_mlp)
    longer = replace(replace(tiny_mlp, "steps", 20), "log_every", 1)
    resumed = run(longer)
    assert resumed["steps"] == 20
    assert resumed["state_digest"] == run(longer, "at once")["state_digest"]
    Path("run", runfiles.RESULT).unlink()
    with pytest.raises(InputError, match="already at step 20"):
        run(tiny_mlp)


def test_another_seed_or_configuration_is_another_directory(tiny_mlp):
    for changed in (tiny_mlp, replace(tiny_mlp, "seed", 1), replace(tiny_mlp, "batch_size", 16)):
        run(changed, None)
    names = sorted(path.name for path in Path("runs/tiny_mlp").iterdir())
    assert len(names) == 3
    assert [name[:6] for name in names] == ["seed0-", "seed0-", "seed1-"]


def test_checkpoints_are_kept_by_number(tiny_mlp):
    run(replace(replace(tiny_mlp, "save_every", 2), "keep", 3))
    kept = sorted(int(path.name) for path in Path("run/checkpoints").iterdir())
    assert kept == [8, 10, 12]


def test_a_loaded_run_is_the_run(tiny_gpt):
    result = run(tiny_gpt)
    loaded = load("run")
    assert loaded.step == 20
    assert loaded.experiment == tiny_gpt
    assert state_digest(loaded.state) == result["state_digest"]
    assert state_digest(load("run", 14).state) != result["state_digest"]
    with pytest.raises(InputError, match=r"no step 3; it has \[14, 20\]"):
        load("run", 3)


def test_a_run_starts_from_the_weights_of_another(tiny_mlp):
    run(tiny_mlp, "first")
    second = dataclasses.replace(
        tiny_mlp, init_from="first@10", steps=1, optimizer=SGD(learning_rate=1e-12)
    )
    run(second, "second")
    weights = {step: load("first", step).params for step in (10, 12)}
    moved = load("second").params
    difference = {
        step: max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), w, moved)))
        for step, w in weights.items()
    }
    assert difference[10] < 1e-7 < difference[12]
    Path("second", runfiles.RESULT).unlink()
    Path("first").rename("gone")
    assert run(second, "second")["steps"] == 1  # its own checkpoint is all it needs
    Path("gone").rename("first")
    with pytest.raises(InputError, match="no step 4"):
        run(replace(second, "init_from", "first@4"), "third")
    with pytest.raises(InputError, match="init_from"):
        run(replace(second, "init_from", "first@x"), "third")
    with pytest.raises(InputError, match="not a run directory"):
        run(replace(second, "init_from", "nowhere"), "third")
    with pytest.raises(InputError, match=r"head/kernel is float32\[16, 10\], not float32\[8, 10\]"):
        run(replace(second, "task.model.hidden", (8,)), "fourth")


def test_a_checkpoint_of_another_dtype_or_shape_is_refused(tiny_mlp):
    run(tiny_mlp)
    checkpoints = Checkpoints(rundir.epath.Path("run/checkpoints"))
    abstract = train.compile_program(tiny_mlp, train.prepare(tiny_mlp)[1]).abstract_state
    half = dataclasses.replace(
        abstract,
        params=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jax.numpy.bfloat16), abstract.params
        ),
    )
    with pytest.raises(InputError, match=r"head/bias is float32.*not bfloat16"):
        checkpoints.restore(12, half)
    state, record = checkpoints.restore(12, abstract)
    assert int(state.step) == record["data"]["next_batch"] == 12


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tiny_mlp):
    wild = replace(tiny_mlp, "optimizer.learning_rate", 1e30)
    with pytest.raises(RunError, match=r"step [23]: (loss|grad_norm) is (nan|inf)"):
        run(wild)
    assert not Path("run", runfiles.RESULT).exists()
    assert Checkpoints(rundir.epath.Path("run/checkpoints")).latest() is None


@pytest.mark.parametrize("every", [1, 5])
def test_what_is_not_finite_names_step_batch_and_leaf(tiny_mlp, every):
    """Saved after each step, too, whose own loss was finite while its update was not."""
    wild = replace(replace(tiny_mlp, "optimizer.learning_rate", 3e38), "save_every", every)
    with pytest.raises(RunError) as error:
        run(wild)
    told = str(error.value)
    assert re.match(r"step \d+: (the update is not finite|(loss|grad_norm) is (nan|inf) of)", told)
    assert re.search(r"\d leaves are not finite, params/\S+ the first", told)
    step = int(told[5:].partition(":")[0])
    assert f"(rows {32 * (step - 1)} to {32 * step - 1} of the stream)" in told
    for step in Checkpoints(rundir.epath.Path("run/checkpoints")).steps():
        assert leaves_not_finite(load("run", step).state) == []


def test_running_out_of_memory_says_sizes_and_what_to_lower(tiny_mlp, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")

    monkeypatch.setattr(train, "loop", full)
    with pytest.raises(RunError, match=r"out of memory: of .*B on each .* take .*kB.* 32 rows"):
        run(tiny_mlp)


def test_a_tracker_that_fails_stops_nothing(tiny_mlp, monkeypatch, capsys):
    import tensorboardX

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorboardX.SummaryWriter, "add_scalar", fails)
    assert train.run(tiny_mlp, "run")["steps"] == 12
    assert capsys.readouterr().out.count("TensorBoard gets no more (OSError: ") == 1
    monkeypatch.setattr(tensorboardX.SummaryWriter, "__init__", fails)
    train.run(tiny_mlp, "other", quiet=True)
    assert Path("other/metrics.jsonl").read_bytes() == Path("run/metrics.jsonl").read_bytes()


def test_nothing_is_compiled_after_step_two(tiny_gpt, monkeypatch):
    programs = []
    real = train.compile_program
    monkeypatch.setattr(
        train, "compile_program", lambda *a: programs.append(real(*a)) or programs[-1]
    )
    run(tiny_gpt)
    assert programs[0].train_step._cache_size() == 1
    assert programs[0].eval_step._cache_size() == 1


def test_the_loop_refuses_arrays_that_are_not_on_the_devices(tiny_mlp, monkeypatch):
    real = feed.prefetch
    monkeypatch.setattr(feed, "prefetch", lambda host, place: real(host, lambda x: [(x, "")]))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(tiny_mlp)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("optimizer.learning_rate", math.nan, "optimizer.learning_rate"),
        ("data.source", "text:nowhere.txt", "no such file"),
        ("data.sequence_length", 17, "task.model.max_length 16"),
        ("task.model.vocab_size", 10, "task.model.vocab_size"),
        ("task.model.heads", 3, "task.model.heads"),
        ("schedule", Cosine(warmup_steps=21), "schedule.warmup_steps"),
        ("init_from", "nowhere", "not a run directory"),
        ("optimizer.b1", 1.0, "optimizer.b1"),
    ],
)
def test_bad_input_is_refused_before_any_device_is_touched(
    tiny_gpt, path, value, told, monkeypatch
):
    def touched(*_, **__):
        raise AssertionError("a device was touched")

    for name in ("devices", "device_count", "local_devices", "device_put", "jit"):
        monkeypatch.setattr(jax, name, touched)
    with pytest.raises(InputError, match=told.replace(".", r"\.")):
        run(replace(tiny_gpt, path, value))
    assert not Path("run").exists()


def test_a_directory_that_cannot_be_written_or_is_not_a_run_is_refused(tiny_mlp):
    Path("file").write_text("x")
    with pytest.raises(InputError, match="not writable"):
        run(tiny_mlp, "file/run")
    Path("full").mkdir()
    Path("full/other").write_text("x")
    with pytest.raises(InputError, match="not empty and holds no run"):
        run(tiny_mlp, "full")
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        run(tiny_mlp, "broken")
    assert Path("full/other").read_text() == "x"


def test_other_data_under_the_same_configuration_is_refused(tiny_gpt):
    Path("text.txt").write_text("one text " * 100)
    experiment = replace(
        tiny_gpt,
        "data",
        dataclasses.replace(tiny_gpt.data, source="text:text.txt", validation_fraction=0.2),
    )
    run(experiment)
    Path("text.txt").write_text("two text " * 100)
    with pytest.raises(InputError, match="other data"):
        run(experiment)
