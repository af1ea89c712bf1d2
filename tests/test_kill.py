"""Real processes, really killed: the bits of the unbroken run must come out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = [
    "train",
    "char_gpt",
    "--steps",
    "60",
    "--schedule.warmup-steps",
    "5",
    "--batch-size",
    "4",
    "--task.model.depth",
    "2",
    "--task.model.width",
    "32",
    "--task.model.unroll",
    "1",
    "--task.model.dropout",
    "0.1",
    "--data.sequence-length",
    "32",
    "--log-every",
    "1",
    "--save-every",
    "4",
    "--evaluate-every",
    "0",
    "--data.validation-fraction",
    "0.01",
    "--task.showcase-length",
    "0",
]


def start(workdir: Path, *words: str) -> subprocess.Popen[str]:
    cache = workdir.parent / "compilations"
    return subprocess.Popen(
        [sys.executable, "-m", "lmjax", *WORDS, *words, "--workdir", str(workdir)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    )


def finish(workdir: Path, *words: str) -> tuple[dict, str]:
    process = start(workdir, *words)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return json.loads((workdir / "result.json").read_text()), told


def steps_saved(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return (
        sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
        if (folder.is_dir())
        else []
    )


def kill_while_saving(workdir: Path, after: int) -> None:
    """SIGKILL as soon as a save later than step `after` has begun or been committed."""
    process = start(workdir)
    deadline = time.monotonic() + 200
    folder = workdir / "checkpoints"
    while time.monotonic() < deadline and process.poll() is None:
        names = [p.name.split(".")[0] for p in folder.iterdir()] if folder.is_dir() else []
        if any(name.isdecimal() and int(name) > after for name in names):
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"


@pytest.mark.bits
def test_a_run_killed_by_sigkill_three_times_ends_with_the_unbroken_bits(tmp_path):
    unbroken, _ = finish(tmp_path / "unbroken")
    killed = tmp_path / "killed"
    for after in (0, 12, 28):
        kill_while_saving(killed, after)
    assert not (killed / "result.json").exists()
    saved = steps_saved(killed)
    assert saved
    assert saved[-1] < 60
    resumed, told = finish(killed)
    assert f"resumed from step {saved[-1]} of 60" in told
    assert resumed["state_digest"] == unbroken["state_digest"]
    assert resumed["validation"] == unbroken["validation"]
    for name in ("metrics.jsonl", "trace.jsonl"):
        assert (killed / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    other, _ = finish(tmp_path / "other", "--seed", "1")
    assert other["state_digest"] != unbroken["state_digest"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_request_to_stop_saves_at_the_next_step(tmp_path, number, status):
    process = start(tmp_path / "run")
    while not steps_saved(tmp_path / "run") and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    told, _ = process.communicate(timeout=100)
    assert process.returncode == status, told
    step = steps_saved(tmp_path / "run")[-1]
    assert told.splitlines()[-1] == (
        f"lmjax: stopped by {number.name} and saved at step {step}; the same command resumes"
    )
    assert "Traceback" not in told
    _, told = finish(tmp_path / "run")
    assert f"resumed from step {step} of 60" in told
