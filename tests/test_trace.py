"""The trace of a run: each step once, exact, equal for equal runs, and damage is told."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from lmjax import runfiles, train
from lmjax.errors import InputError
from lmjax.fingerprint import describe, digest
from lmjax.load import load
from lmjax.state import state_digest
from lmjax.trace import Step, TraceLog, batch_digests, read_trace, to_step


@pytest.fixture(scope="module")
def traced(tmp_path_factory, tiny_mlp) -> tuple[Path, dict]:
    """A run of 12 steps that saves after 5 and 10."""
    path = tmp_path_factory.mktemp("traced") / "run"
    return path, train.run(tiny_mlp, str(path), quiet=True)


def steps(path: Path) -> list[Step]:
    found = [to_step(line.entry) for line in read_trace(epath.Path(path), 10**9)]
    assert None not in found
    return found


def test_every_step_is_traced_once_with_its_exact_numbers(traced, tiny_mlp):
    path, result = traced
    found = steps(path)
    assert [step.step for step in found] == list(range(13))
    logged = [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()]
    logged = {x["step"]: x for x in logged if x["kind"] == "train"}
    for step in found[1:]:
        wanted = {name: logged[step.step][name].hex() for name in ("loss", "grad_norm")}
        assert step.numbers == wanted
    dataset = tiny_mlp.load_data()
    batches = [dataset.batch(0, n, 32) for n in range(12)]
    assert [step.batch for step in found[1:]] == [batch_digests(b, 32)[0] for b in batches]
    assert len({step.batch for step in found[1:]}) == 12
    assert [step.step for step in found if step.leaves] == [0, 1, 5, 6, 10, 11, 12]
    state = load(str(path)).state
    assert digest(describe(state), found[12].leaves) == result["state_digest"]
    assert digest(describe(state), found[10].leaves) != result["state_digest"]


def test_what_is_traced_changes_no_bit(traced, tiny_mlp):
    """The train step by itself, which nobody looks at, ends with the same state."""
    dataset, batch = train.prepare(tiny_mlp)
    program = train.compile_program(tiny_mlp, batch)
    state = program.init(program.knobs)
    for number in range(12):
        [batch] = program.place(dataset.batch(0, number, 32))
        state, _ = program.train_step(state, batch, None, program.knobs)
    assert state_digest(state) == traced[1]["state_digest"]


def test_the_result_knows_the_files_of_its_run(traced):
    path, result = traced
    assert result["files"].keys() >= {"config.json", "metrics.jsonl", "trace.jsonl"}
    for name, told in result["files"].items():
        assert told == runfiles.sha256(epath.Path(path) / name)


def test_a_batch_s_digest_is_zlib_s_over_what_it_holds():
    rows = {"b": np.arange(12, dtype=np.int32).reshape(6, 2), "a": np.ones(6, np.float32)}

    def expected(start: int, stop: int) -> str:
        found = 0
        for name, told in (("a", "a float32 [3]"), ("b", "b int32 [3, 2]")):
            found = zlib.crc32(struct.pack("<I", zlib.crc32(told.encode())), found)
            found = zlib.crc32(rows[name][start:stop].tobytes(), found)
        return f"{found:08x}"

    assert batch_digests(rows, 3) == [expected(0, 3), expected(3, 6)]
    one = batch_digests(rows, 6)[0]
    others = [
        {**rows, "a": -rows["a"]},
        {**rows, "a": rows["a"].astype(np.float64)},
        {**rows, "b": rows["b"][::-1]},
        {**rows, "b": rows["b"].reshape(6, 2, 1)},
        {"b": rows["b"], "c": rows["a"]},
    ]
    assert len({one, *(batch_digests(other, 6)[0] for other in others)}) == 6


def test_a_trace_goes_on_where_its_run_does(tmp_path):
    folder = epath.Path(tmp_path)
    told = [Step(0, "", {}, {"a": "0" * 16})]
    exact = {"grad_norm": (0.1).hex()}
    told += [Step(n, f"{n:08x}", {"loss": (n / 3).hex(), **exact}, {}) for n in range(1, 5)]
    lost = {"loss": "nan", "grad_norm": "-inf"}
    told.append(Step(5, "0" * 8, lost, {}, "grads/a"))
    whole = TraceLog(folder, [])
    for step in told:
        whole.write(step)
    whole.close()
    text = (folder / "trace.jsonl").read_bytes()
    (folder / "trace.jsonl").write_bytes(text + b'{"step": 6, "ba')
    again = TraceLog(folder, read_trace(folder, 3))
    for step in told:  # those up to 3 are there already
        again.write(step)
    again.close()
    assert (folder / "trace.jsonl").read_bytes() == text
    assert steps(tmp_path) == told


GOOD = {"step": 3, "batch": "0" * 8, "loss": (1.5).hex(), "grad_norm": (2.0).hex()}


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"},
        {"step": -1},
        {"step": 0},
        {"batch": "0"},
        {"batch": 3},
        {"loss": 1.0},
        {"loss": "0x1p+0"},
        {"loss": "inf"},
        {"loss": "nan", "skipped": ""},
        {"loss": "NaN", "skipped": "grads/a"},
        {"skipped": 1},
        {"leaves": []},
        {"leaves": {"a": "0"}},
        {"leaves": {"a": 0}},
    ],
)
def test_a_malformed_line_is_none_and_stops_who_would_lose_it(tmp_path, change):
    folder = epath.Path(tmp_path)
    lines = [json.dumps(GOOD | changed) for changed in ({}, change, {"step": 4})]
    (folder / "trace.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"trace\.jsonl: line 2 is damaged"):
        read_trace(folder, 9)
    del lines[1]
    (folder / "trace.jsonl").write_text("\n".join(lines))
    assert [line.step for line in read_trace(folder, 9)] == [3, 4]
