"""A batch that is not finite: stopped at, skipped inside the compiled step, or rolled back from."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lmjax import nonfinite, reproduce, train
from lmjax.archive import open_run
from lmjax.checkpoint import Checkpoints
from lmjax.compare.plan import prepare_all
from lmjax.compare.variants import Variant
from lmjax.console import Console
from lmjax.data import Examples
from lmjax.data.examples import LabelledExamples
from lmjax.data.tables import in_memory
from lmjax.errors import FieldError, InputError, RunError, check_choice
from lmjax.experiment import Experiment, OnNonfinite, run_digest
from lmjax.load import load
from lmjax.metrics import unpack, values
from lmjax.models import ResNet
from lmjax.optim import Schedule
from lmjax.parts import replace
from lmjax.state import leaves_not_finite, state_digest
from lmjax.tasks import Classification
from lmjax.trace import read_trace, to_step

BAD = 7  # the step whose batch has what is planted


class SpoiltExamples(LabelledExamples):
    """With a NaN in one pixel of the first row of some batches of 32."""

    spoilt: tuple[int, ...] = ()

    def rows(self, seed: int, start: int, count: int) -> Any:
        found = super().rows(seed, start, count)
        for step in self.spoilt:
            place = (step - 1) * 32 - start
            if 0 <= place < count:
                found["inputs"][place, 0, 0] = np.nan
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoilt(Examples):
    """The digits, and what is planted in them."""

    label = "spoilt"

    steps: tuple[int, ...] = (BAD,)

    def load(self) -> Any:
        parts = in_memory(self.read(), self.memory_gb)
        dataset = SpoiltExamples(self.source, parts, self.standardize)
        dataset.spoilt = self.steps
        return dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spike(Schedule):
    """A rate that is far too large from one update on."""

    label = "spike"
    depends_on_steps = False

    def factor(self, count: Any, steps: int) -> Any:
        return jnp.where(count >= BAD - 1, 1e38, 1.0)


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def spoilt(tiny_mlp) -> Experiment:
    return dataclasses.replace(tiny_mlp, data=Spoilt())


def run(experiment: Experiment, policy: str, workdir: str = "run", **changes: Any) -> Any:
    changed = dataclasses.replace(experiment, on_nonfinite=policy, **changes)
    return train.run(changed, workdir, quiet=True)


def traced(workdir: str = "run") -> list[Any]:
    return [to_step(line.entry) for line in read_trace(epath.Path(workdir), 10**9)]


def by_hand(experiment: Experiment, skipped: tuple[int, ...], policy: str) -> str:
    """The digest after all steps but some, whose batches nobody looks at; they are counted."""
    experiment = dataclasses.replace(experiment, on_nonfinite=policy)
    dataset, batch = train.prepare(experiment)
    program = train.compile_program(experiment, batch)
    state = program.init(program.knobs)
    for number in range(experiment.steps):
        if number + 1 in skipped:
            state = dataclasses.replace(state, step=state.step + 1)
            continue
        [batch] = program.place(dataset.batch(experiment.seed, number, experiment.batch_size))
        state, _ = program.train_step(state, batch, None, program.knobs)
    return state_digest(state)


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_run_that_stops_names_step_rows_and_leaf_and_has_saved_nothing_bad(spoilt):
    with pytest.raises(RunError) as error:
        run(spoilt, "stop")
    told = str(error.value)
    assert told.startswith(f"step {BAD}: loss is nan of batch ")
    assert "(rows 192 to 223 of the stream); at step " in told
    assert "leaves are not finite, params/" in told
    assert "--on-nonfinite rollback" in told
    checkpoints = Checkpoints(epath.Path("run/checkpoints"))
    assert checkpoints.steps() == [5]
    assert leaves_not_finite(load("run").state) == []
    assert [step.step for step in traced()] == list(range(BAD))


@pytest.mark.bits
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_run_without_the_batch_has_the_bits_of_one_that_never_saw_it(tiny_mlp, spoilt, policy):
    result = run(spoilt, policy)
    assert result["skipped"] == [BAD]
    assert result["state_digest"] == by_hand(tiny_mlp, (BAD,), policy)
    assert result["state_digest"] != by_hand(tiny_mlp, (), policy)
    assert result["state_digest"] != by_hand(tiny_mlp, (BAD + 1,), policy)
    steps = traced()
    assert [step.step for step in steps] == list(range(13))
    assert [step.step for step in steps if step.skipped] == [BAD]
    assert steps[BAD].numbers == {"loss": "nan", "grad_norm": "nan"}
    assert steps[BAD].skipped.startswith("grads/" if policy == "skip" else "params/")
    logged = [strict(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    (line,) = [x for x in logged if x["step"] == BAD]
    assert (line["loss"], line["skipped"]) == (None, steps[BAD].skipped)
    assert sum("skipped" in x for x in logged) == 1
    report = reproduce.reproduce(open_run("run"), console=Console(quiet=True))
    assert report.line.startswith("REPRODUCED R3: 12 of 12 steps")
    report = reproduce.reproduce(open_run("run"), start=10, console=Console(quiet=True))
    assert report.reproduced


@pytest.mark.bits
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_replay_whose_batch_is_finite_is_told_apart(spoilt, policy, monkeypatch):
    """Negative control of the last: the data say that they are the same."""
    run(spoilt, policy)
    monkeypatch.setattr(SpoiltExamples, "rows", LabelledExamples.rows)
    report = reproduce.reproduce(open_run("run"), console=Console(quiet=True))
    assert report.line.startswith(f"DIVERGED at step {BAD}: ")
    assert "skipped for " in report.line
    assert "loss differs (nan, here 0x" in report.line
    strict(json.dumps(report.record))


@pytest.mark.bits
@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("at", [BAD - 1, 9])
def test_one_that_was_killed_ends_with_the_files_of_the_unbroken(spoilt, policy, at, monkeypatch):
    class Killed(BaseException):
        pass

    unbroken, real = run(spoilt, policy, "unbroken"), train.is_due

    def dies(now: int, every: int, last: int) -> bool:
        if now == at:
            raise Killed
        return real(now, every, last)

    with monkeypatch.context() as patched:
        patched.setattr(train, "is_due", dies)
        with pytest.raises(Killed):
            run(spoilt, policy)
    assert run(spoilt, policy)["state_digest"] == unbroken["state_digest"]
    for name in ("metrics.jsonl", "trace.jsonl"):
        assert Path("run", name).read_bytes() == Path("unbroken", name).read_bytes()


@pytest.mark.bits
def test_where_a_rollback_begins_again_decides_nothing(spoilt):
    """At the seed, at step 5 and at step 6; noticed at once or late; and two in a row."""
    found = {
        run(spoilt, "rollback", f"run{every}", save_every=every, log_every=log)["state_digest"]
        for every, log in ((0, 1), (5, 4), (3, 12))
    }
    assert len(found) == 1
    twice = dataclasses.replace(spoilt, data=Spoilt(steps=(BAD, BAD + 1)))
    result = run(twice, "rollback", "twice")
    assert result["skipped"] == [BAD, BAD + 1]
    assert result["state_digest"] == by_hand(twice, (BAD, BAD + 1), "rollback")
    assert result["state_digest"] not in found


@pytest.mark.bits
def test_where_the_machine_had_erred_nothing_is_skipped(tiny_mlp, monkeypatch, capsys):
    clean, real, erred = run(tiny_mlp, "rollback", "clean"), train.compile_program, []

    def compile_program(*given: Any) -> Any:
        program = real(*given)

        def train_step(state: Any, *rest: Any) -> Any:
            state, packed = program.train_step(state, *rest)
            if int(state.step) == BAD and not erred:
                erred.append(BAD)
                with jax.transfer_guard_host_to_device("allow"):
                    lost = jax.tree.map(lambda x: x * jnp.nan, state.params)
                state = dataclasses.replace(state, params=lost)
            return state, packed

        return program._replace(train_step=train_step)

    monkeypatch.setattr(train, "compile_program", compile_program)
    experiment = replace(tiny_mlp, "on_nonfinite", "rollback")
    result = train.run(experiment, "run")
    assert "goes back to step 5; the steps since are finite now: the machine had erred" in (
        capsys.readouterr().out
    )
    assert erred
    assert result["skipped"] == []
    assert result["state_digest"] == clean["state_digest"]
    assert Path("run/trace.jsonl").read_bytes() == Path("clean/trace.jsonl").read_bytes()


def resnet(tiny_mlp: Experiment) -> Experiment:
    return dataclasses.replace(tiny_mlp, task=Classification(model=ResNet(blocks=(1,), width=4)))


@pytest.mark.bits
@pytest.mark.parametrize(
    "change",
    [
        lambda e: e,
        resnet,
        lambda e: replace(resnet(e), "accumulation", 4),
        lambda e: replace(replace(e, "parallel.virtual_shards", 4), "accumulation", 2),
        lambda e: replace(e, "optimizer.ema_decay", 0.9),
    ],
    ids=["plain", "batch statistics", "accumulated", "virtual shards", "averaged"],
)
def test_a_skipped_step_leaves_every_leaf_as_it_was(tiny_mlp, change):
    experiment = change(dataclasses.replace(tiny_mlp, data=Spoilt(), on_nonfinite="skip"))
    dataset, batch = train.prepare(experiment)
    program = train.compile_program(experiment, batch)
    skips = nonfinite.Skips(nonfinite.names_of(program), ())
    state = program.init(program.knobs)
    for number in (BAD - 1, BAD):  # from 0: the spoilt one, and the next
        before = jax.device_get(state)
        [batch] = program.place(dataset.batch(0, number, 32))
        state, packed = program.train_step(state, batch, None, program.knobs)
        numbers = values(unpack(program.metric_names, packed))
        found = skips.of(number + 1, numbers)
        after = jax.device_get(state)
        assert int(after.step) == int(before.step) + 1
        same = jax.tree.map(
            np.array_equal, dataclasses.replace(before, step=0), dataclasses.replace(after, step=0)
        )
        if number == BAD - 1:
            assert found.startswith("grads/")
            assert all(jax.tree.leaves(same))
            assert np.isnan(numbers["grad_norm"])
        else:
            assert found == ""
            assert not all(jax.tree.leaves(same.params))
            assert not all(jax.tree.leaves(same.opt_state))
            assert not (same.model_state and all(jax.tree.leaves(same.model_state)))


def test_an_update_that_is_not_finite_is_seen_by_the_step_itself(tiny_mlp):
    """Its loss and gradient are: the rate is beyond float32."""
    experiment = dataclasses.replace(tiny_mlp, on_nonfinite="skip")
    dataset, batch = train.prepare(experiment)
    program = train.compile_program(experiment, batch)
    skips = nonfinite.Skips(nonfinite.names_of(program), ())
    for rate, bad in ((0.1, ""), (np.inf, "params/")):
        state = program.init(program.knobs)
        [batch] = program.place(dataset.batch(0, 0, 32))
        knobs = program.knobs._replace(learning_rate=jnp.float32(rate))
        state, packed = program.train_step(state, batch, None, knobs)
        numbers = values(unpack(program.metric_names, packed))
        assert skips.of(1, numbers).startswith(bad)
        assert all(map(np.isfinite, numbers.values()))
        assert leaves_not_finite(state) == []


@pytest.mark.parametrize(
    ("policy", "told"),
    [("skip", "; 4 steps in a row were skipped"), ("rollback", "; it has gone back 3 times")],
)
def test_a_run_that_is_lost_whatever_the_batch_stops(tiny_mlp, policy, told, monkeypatch):
    """The rate is too large at every update from one on, and skipped steps are no updates."""
    monkeypatch.setattr(nonfinite, "MOST_IN_A_ROW", 4)
    monkeypatch.setattr(nonfinite, "MOST_ROLLBACKS", 3)
    with pytest.raises(RunError, match=told):
        run(tiny_mlp, policy, schedule=Spike(), steps=20, log_every=2)
    assert leaves_not_finite(load("run").state) == []
    assert not Path("run/result.json").exists()


def test_a_step_that_may_only_stop_costs_nothing(tiny_mlp):
    def lowered(policy: str) -> str:
        experiment = replace(tiny_mlp, "on_nonfinite", policy)
        program = train.compile_program(experiment, train.prepare(experiment)[1])
        return program.trace_step().lower().as_text()

    assert lowered("stop") == lowered("rollback")
    assert lowered("skip").count("is_finite") > lowered("stop").count("is_finite") + 8


def test_a_run_that_has_stopped_may_go_on_by_rollback_alone(spoilt):
    with pytest.raises(RunError):
        run(spoilt, "stop")
    with pytest.raises(InputError, match="on_nonfinite: 'stop' -> 'skip'"):
        run(spoilt, "skip")
    result = run(spoilt, "rollback")
    assert result["resumed_from"] == 5
    assert result["state_digest"] == run(spoilt, "rollback", "at once")["state_digest"]
    digests = [
        run_digest(replace(spoilt, "on_nonfinite", policy), "")
        for policy in ("stop", "rollback", "skip")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_what_is_no_policy_is_refused(tiny_mlp):
    with pytest.raises(FieldError, match=r"must be one of stop, skip, rollback; nearest: skip"):
        check_choice("on_nonfinite", "skipp", get_args(OnNonfinite))
    skips = replace(tiny_mlp, "on_nonfinite", "skip")
    with pytest.raises(InputError, match="on_nonfinite = 'skip': must be stop in a comparison"):
        prepare_all([Variant("one", (), skips)])
