"""Traces of chosen steps of real runs."""

import json
from pathlib import Path

import pytest
from etils import epath

from lmjax import operations, train
from lmjax.errors import InputError, RunError
from lmjax.parts import replace


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("5", "START:STOP"),
        ("5:x", "START:STOP"),
        (":", "START:STOP"),
        ("-1:5", "START:STOP"),
        ("0:5", "1 <= START"),
        ("5:5", "START < STOP"),
        ("7:5", "START < STOP"),
        ("5:13", "STOP <= 12"),
    ],
)
def test_bad_ranges_are_refused_before_anything_is_claimed(tiny_mlp, tmp_path, text, told):
    with pytest.raises(InputError, match=told) as error:
        train.run(tiny_mlp, str(tmp_path / "run"), profile=text, quiet=True)
    assert str(error.value).startswith(f"--profile {text}: must be")
    assert not (tmp_path / "run").exists()


@pytest.mark.smoke
def test_a_profiled_run_is_the_same_run(tiny_mlp, tmp_path, capsys):
    plain = train.run(tiny_mlp, str(tmp_path / "plain"), quiet=True)
    traced = train.run(tiny_mlp, str(tmp_path / "traced"), profile="3:9")
    assert traced["state_digest"] == plain["state_digest"]
    assert (tmp_path / "traced/metrics.jsonl").read_bytes() == (
        tmp_path / "plain/metrics.jsonl"
    ).read_bytes()
    assert not (tmp_path / "plain/profile").exists()

    told = (tmp_path / "traced/profile/operations.txt").read_text()
    assert told in capsys.readouterr().out
    assert told.startswith("steps 4 to 9: ")
    assert "jit_packed_step" in told
    trace = operations.read_trace(epath.Path(tmp_path / "traced/profile"))
    assert trace is not None
    steps = [e for e in trace["traceEvents"] if "ph" in e and e["name"] == "train"]
    assert len(steps) == 6  # six steps are in the trace, neither five nor seven
    calls = [row.split()[2] for row in told.splitlines()[4:] if "jit_packed_step" in row]
    assert calls
    assert set(calls) == {"1.0"}  # each operation once a step

    with pytest.raises(InputError, match="13 <= START"):  # nothing is left to trace
        train.run(tiny_mlp, str(tmp_path / "traced"), profile="3:9")
    longer = replace(tiny_mlp, "steps", 20)
    with pytest.raises(InputError, match="13 <= START < STOP <= 20"):
        train.run(longer, str(tmp_path / "traced"), profile="3:9")
    resumed = train.run(longer, str(tmp_path / "traced"), profile="13:20", quiet=True)
    assert resumed["resumed_from"] == 12
    assert "steps 14 to 20: " in (tmp_path / "traced/profile/operations.txt").read_text()


def test_a_run_that_ends_inside_the_window_closes_the_trace(tiny_mlp, tmp_path):
    wild = replace(tiny_mlp, "optimizer.learning_rate", 1e30)
    with pytest.raises(RunError):
        train.run(wild, str(tmp_path / "wild"), profile="1:12", quiet=True)
    train.run(tiny_mlp, str(tmp_path / "next"), profile="1:2", quiet=True)
    assert Path(tmp_path, "next/profile/operations.txt").exists()
    assert json.loads((tmp_path / "next/result.json").read_text())["steps"] == 12
